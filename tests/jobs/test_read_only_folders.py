"""A finished scores folder that this user may read and not write: looked at by every job that reads one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs import report, score, status
from tests.conftest import write_discs
from tests.small import ROOT, read_tree, write_model

NOBODY = 65534


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users reach, which pytest's own are not."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    folder = Path(tempfile.mkdtemp(prefix="fringe-read-only-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For the length of a block this user may not write to the folder; root becomes somebody else."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
            if not os.access(ROOT / "seg/report/report.html.jinja", os.R_OK, effective_ids=True):
                pytest.skip(f"no other user may read {ROOT}")
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def figures(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("background", "disc", "mIoU"))]


@pytest.mark.filterwarnings("always:NONE of the 1 images of the rehearsal")
def test_a_finished_folder_that_is_read_only_can_be_read(
    public: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive, out = write_discs(public / "archive", sequences=1, frames=3), public / "out"
    model = write_model(public / "m.safetensors")
    words = [str(archive), "--model", str(model), "--out", str(out), "--workers", "0"]
    assert score.main([*words, "--limit", "2"]) == 0
    with read_only(out):
        capfd.readouterr()
        assert score.main(words) == 2
        assert capfd.readouterr().err.endswith(
            f"score: --out {out} cannot be written to by this user, and images are left to score: 1; "
            "mend its permissions, or give another --out\n"
        )
    (archive / "images/s0/2.png").write_bytes(b"")
    capfd.readouterr()
    assert score.main(words) == 3
    assert report.main([str(out)]) == 0
    before, shown = read_tree(out), capfd.readouterr().out
    with read_only(out):
        assert status.main([str(out)]) == 3
        assert score.main(words) == 3
        said = capfd.readouterr()
        assert f"nothing left to score; {out} cannot be written to, so all in it stays as it is\n" in said.err
        assert "mIoU" in said.out
        assert figures(said.out) == figures(shown)
        assert score.main([*words, "--export", "coco"]) == 2
        assert "and --export would write there" in capfd.readouterr().err
        assert report.main([str(out)]) == 2
        assert capfd.readouterr().err == (
            f"report: {out}/report.html cannot be written (Permission denied); mend the folder's "
            "permissions, or put the page elsewhere: jobs/report.py takes --out FILE\n"
        )
    assert read_tree(out) == before
