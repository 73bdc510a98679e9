"""What bench/scoring.py compares is the same work, and its figures are what they say."""

import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.scoring_limits import MemoryWatch, finish_by_hand, write_names
from bench.scoring_loops import Loop, run_loop
from bench.setup import steady_ms
from bench.table import Row
from bench.values import Value
from cluster.score import score
from cluster.session import compute_session
from seg.data.listing import list_images
from seg.ledger.ledger import Ledger
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.conftest import WriteArchive
from tests.small import archive_labels, count_by_hand, write_model


def test_a_steady_rate_leaves_out_beginning_and_end() -> None:
    times = [0.0, 5.0, 9.0, *(10.0 + 0.5 * k for k in range(9)), 14.1, 14.2]
    assert steady_ms(reversed(times), first=3, last=2) == pytest.approx(500)


def test_a_plain_loop_counts_what_its_masks_show(write_archive: WriteArchive, tmp_path: Path) -> None:
    root, threads = write_archive(sequences=1, frames=3), torch.get_num_threads()
    loop = Loop(
        archive=root,
        images=("s0/0.png", "s0/1.png", "s0/2.png"),
        model=write_model(tmp_path / "model.safetensors"),
        masks=tmp_path / "out",
        precision="float32",
        threads=1,
    )
    try:
        looped = run_loop(loop)
    finally:
        torch.set_num_threads(threads)
    for image in loop.images:
        (tmp_path / "out" / image).rename(tmp_path / "out" / f"{image}.png")
    assert looped.confusion.tolist() == count_by_hand(tmp_path / "out", archive_labels(root))
    assert looped.times_s == sorted(looped.times_s)
    assert np.ptp(looped.times_s) > 0


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., ScoreRequest]:
    """A scoring of `tiny` in this process."""
    write_names(tmp_path / "tiny", 5, labels=True)
    model = write_model(tmp_path / "model.safetensors", classes=("background", "cell"))

    def make(**options: object) -> ScoreRequest:
        return ScoreRequest(
            archive=as_place(tmp_path / "tiny"),
            models=(model,),
            out=as_place(tmp_path / "out"),
            workers=0,
            **options,
        )

    return make


def test_a_folder_finished_by_hand_is_finished(ask: Callable[..., ScoreRequest], tmp_path: Path) -> None:
    with compute_session(use_ray=False) as session:
        score(ask(limit=2), session)
        finish_by_hand(tmp_path / "tiny", tmp_path / "out")
        summary = score(ask(), session).values
    assert (summary["images_scored"], summary["images_skipped"], summary["labelled"]) == (0, 5, 5)
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 5
    assert len(Ledger(tmp_path / "out").finished_images()) == 5


def test_names_are_images_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.scoring_limits.LINKS", 3)
    write_names(tmp_path, 7, labels=False)
    assert len(list_images(tmp_path / "images").images) == 7


def test_memory_is_that_of_the_process_at_its_highest_and_it_is_stopped_when_asked() -> None:
    # not signal.pause(): a signal that comes just before it would never be seen
    code = "import time; held = b'x' * (300 << 20); del held; exec('while True: time.sleep(0.01)')"
    watch = MemoryWatch()
    watch.stop = lambda: watch.driver > 300
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    watch(job)
    assert 300 < watch.driver < 400
    assert job.returncode == -signal.SIGINT


@pytest.mark.parametrize(("ours_ms", "end"), [(110, "yes"), (112, "NO")])
def test_a_row_of_rates_says_whether_its_limit_is_kept(ours_ms: float, end: str) -> None:
    assert Row("", [ours_ms], "", [100], "rate", 0.9).line().split()[-1] == end


@pytest.mark.parametrize(("limit", "end"), [(20, "at most 20: yes"), (10, "at most 10: NO"), (None, " s")])
def test_a_value_says_whether_its_limit_is_kept(limit: float | None, end: str) -> None:
    assert Value("a resume", [9.0, 15.0, 30.0], "s", limit).line().endswith(end)


@pytest.mark.long
def test_a_quick_run_says_yes_or_no_to_every_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.scoring import main

    threads = torch.get_num_threads()
    try:
        main(quick=True, precision="float32", folder=tmp_path)  # which every CPU has
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    claims = 6 if find_spec("monai") else 2
    assert sum(line.endswith(("yes", "NO")) for line in said.splitlines()) == claims
