from pathlib import Path

import pytest

from jobs.pack import main
from tests.conftest import WriteArchive
from tests.small import TINY_WORDS


def test_packs_are_built_once_and_said(
    write_archive: WriteArchive, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY_WORDS, "--data", str(write_archive()), "--workers", "0"]
    assert main(words) == 0
    built = capfd.readouterr().out.splitlines()
    assert main(words) == 0
    there = capfd.readouterr().out.splitlines()
    packs = {str(path): path.stat().st_size for path in (own_cache / "packs").glob("*.arrow")}
    for first, second, part in zip(built, there, ("training", "validation"), strict=True):
        path = first.split(": ")[1]
        about = f"{part}: {path}: 3 images, {packs.pop(path):,} bytes, "
        assert first.startswith(about + "built in ")
        assert second == about + "was there already"
    assert packs == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "-1"], "pack: --workers is -1, below 0; try --workers 1"),
        (["--data", "nowhere", "--workers", "0"], "pack: data nowhere is no folder; give the one that holds"),
    ],
)
def test_a_wrong_request_ends_with_2_and_one_line(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    write_archive: WriteArchive,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("FRINGE_DATA", str(write_archive()))
    assert main([*TINY_WORDS, *words]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(said)
