"""Names that would act on a terminal, through the jobs that print them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from jobs import predict, report, score, status
from seg.data.listing import list_images
from tests.conftest import WriteArchive
from tests.small import ledger_rows, write_model

NAMES = ("\x1b]0;owned\x07.png", "two\nlines\r.png", "c1\x9b31m.png", "gnp\u202eexe.png", "[red]:smile:.png")
BAD = ("bad\x1b[2Jcut.png", "=cmd|' C calc'!A0.png")
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""What no line for the screen may hold; its end alone, and no tab of ours, is left out."""


@pytest.fixture
def strange(write_archive: WriteArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.chdir(tmp_path)
    archive = write_archive("s\x1b[5m", sequences=1, frames=1)
    image = archive / "images" / "s0" / "0.png"
    for name in NAMES:
        shutil.copy(image, image.with_name(name))
    for name in BAD:
        image.with_name(name).write_bytes(image.read_bytes()[:90])
    return archive


@pytest.mark.filterwarnings("always")
def test_no_name_reaches_the_screen_or_a_page_raw_and_all_are_kept_true(
    strange: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out = write_model(tmp_path / "m.safetensors", classes=("background", "[/b]\x1b[7m")), "o\u202eut"
    (strange / "classes.txt").unlink()
    words = [str(strange / "images"), "--model", str(model), "--out", out, "--workers", "0"]
    words += ["--labels", str(strange / "masks")]
    assert score.main([*words, "--dry-run"]) == 0
    assert score.main(words) == 3
    assert status.main([out]) == 3
    assert status.main([out, "--json"]) == 3
    assert report.main([out]) == 0
    assert report.main([out, out]) == 0
    assert status.main(["no\x1b[2Jwhere"]) == 2
    assert predict.main([str(strange / "images/s0/*.png"), "--model", str(model), "--out", "few"]) == 3
    assert predict.main(["no\x1b[2Jwhere", "--model", str(model)]) == 2
    words = ["--figures", "9", "--seed", "1"]
    assert report.main([out, *words]) == 0
    for text in capfd.readouterr():
        assert ACTING.findall(text) == []
        assert text.isascii() or "\\u202e" in text
    for page in ("report.html", "comparison-o\u202eut.html"):
        text = (tmp_path / out / page).read_text(encoding="utf-8")
        assert ACTING.findall(text) == []
        assert r"gnp\u202eexe.png" in text or page != "report.html"
    kept = {row["image"] for row in ledger_rows(tmp_path / out)}
    assert kept == {
        name for name in list_images(strange / "images").images if "bad" not in name and "=" not in name
    }
    assert f"s0/{NAMES[0]}" in kept
    assert NAMES[3] in (tmp_path / out / "review.csv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / out / "summary.json").read_text())["images_scored"] == len(NAMES) + 1
