"""What an earlier version of the code left half-way is ended by this one as if nothing had happened.

A run, a search and a scores folder are begun by the code of BEFORE, from a checkout of its own, killed, and
continued by the same command with the code at hand.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seg.search.trials import read_trials
from seg.train.state import read_run
from tests.conftest import write_discs
from tests.faults.scoring_jobs import check_alike
from tests.small import ROOT, TINY_WORDS, wait_until, what_is_left, write_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

BEFORE = "6fadaee67fabcf1b0f3e1f445eda6eee032f91ef"
"""The last commit in which cluster/ held a scoring, before seg/ became the whole product."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout of the code before; without that commit, as in a shallow clone, the tests are skipped."""
    folder = tmp_path_factory.mktemp("older") / "code"
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run(
        [*git, "add", "--detach", folder, BEFORE], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"the code before is not there: {made.stderr.strip().splitlines()[-1]}")
    yield folder
    subprocess.run([*git, "remove", "--force", folder], check=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of two frames of 96 x 128 pixels."""
    return write_discs(
        tmp_path_factory.mktemp("older-data") / "archive", sequences=3, frames=2, size=(96, 128)
    )


def start(code: Path, verb: str, *words: object, cache: Path) -> subprocess.Popen[str]:
    """A job of a checkout, as a process of its own group."""
    variables = {"PYTHONPATH": str(code), "RAY_ADDRESS": "local", "FRINGE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, code / "jobs" / f"{verb}.py", *map(str, words)],
        env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
        cwd=code,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def begin(old: Path, verb: str, *words: object, cache: Path, until: Callable[[], object]) -> None:
    """Start a job of the code before and kill it, and what it started, once it is half-way."""
    job = start(old, verb, *words, cache=cache)
    wait_until(lambda: until() or job.poll() is not None, "half of it", within_s=240)
    assert job.poll() is None, job.communicate()[1]
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()


def finish(code: Path, verb: str, *words: object, cache: Path) -> None:
    """Run a job of a checkout to its end."""
    job = start(code, verb, *words, cache=cache)
    _, errors = job.communicate()
    assert job.returncode == 0, errors


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.is_file() else 0


def test_a_run_of_older_code_goes_on_bit_for_bit(old: Path, archive: Path, tmp_path: Path) -> None:
    """As older code would have ended it: with its optimiser's kernels, which round otherwise than ours."""
    words = (*TINY_WORDS, "--data", archive, "--workers", 0, "--epochs", 6)
    cache, out = tmp_path / "cache", tmp_path / "run"
    begin(old, "train", *words, "--out", out, cache=cache, until=lambda: lines(out / "history.csv") > 2)
    begun = len(read_run(out).history)  # type: ignore[union-attr]
    assert begun < 6
    finish(ROOT, "train", *words, "--out", out, cache=cache)
    finish(old, "train", *words, "--out", tmp_path / "whole", cache=cache)
    (found, weights), (wanted, expected) = map(what_is_left, (out, tmp_path / "whole"))
    assert weights == expected
    assert len(found) == 6
    # of validation_loss older code knew nothing
    assert [replace(one, validation_loss=0) for one in found] == [
        replace(one, validation_loss=0) for one in wanted
    ]


@pytest.mark.ray
def test_a_search_of_older_code_goes_on_to_the_same_trials(old: Path, archive: Path, tmp_path: Path) -> None:
    words = (*TINY_WORDS, "--data", archive, "--trials", 3, "--epochs", 2)
    words = (*words, "--search", "backbone=choice(mobilenet_v2)", "--cpus-per-trial", 2)
    cache, out = tmp_path / "cache", tmp_path / "search"
    ended = lambda: len(list(out.glob("trials/*/ended.json")))  # noqa: E731
    begin(old, "tune", *words, "--out", out, cache=cache, until=lambda: ended() >= 1)
    assert ended() < 3
    finish(ROOT, "tune", *words, "--out", out, cache=cache)
    finish(old, "tune", *words, "--out", tmp_path / "whole", cache=cache)
    assert not any(trial.journal.fused for trial in read_trials(out / "trials"))
    found, whole = (json.loads((one / "summary.json").read_text()) for one in (out, tmp_path / "whole"))
    assert found["confusion"] == whole["confusion"]
    assert (found["trials"], found["best"]) == (3, whole["best"])
    boards = [(one / "leaderboard.csv").read_text().splitlines() for one in (out, tmp_path / "whole")]
    times = boards[0][0].split(",").index("seconds")
    rows = [[line.split(",")[:times] for line in board] for board in boards]
    assert rows[0] == rows[1]


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 2])
def test_a_scores_folder_of_older_code_goes_on_to_the_integers_that_it_would_have_had(
    old: Path, archive: Path, tmp_path: Path, workers: int
) -> None:
    """In passes of one image, as it was begun: with 4 crops in each pass others would be in company."""
    model = tmp_path / "model.safetensors"
    write_model(model)
    words = (archive, "--model", model, "--workers", workers, "--batch", 4)
    begun, whole, anew = tmp_path / "begun", tmp_path / "whole", tmp_path / "anew"
    start(old, "score", *words, "--out", begun, "--limit", 3, cache=tmp_path).communicate()
    before = {path.name for path in (begun / "ledger").iterdir()}
    assert before
    finish(ROOT, "score", *words, "--out", begun, cache=tmp_path)
    start(old, "score", *words, "--out", whole, cache=tmp_path).communicate()
    assert before <= {path.name for path in (begun / "ledger").iterdir()}
    check_alike(begun, whole)
    finish(ROOT, "score", *words, "--out", anew, cache=tmp_path)
    jsons = [json.loads((one / "run.json").read_text()) for one in (begun, whole, anew)]
    later = {"passes": "mixed", "layout": 2, "masks_form": "palette"}
    assert jsons[0] == jsons[1]
    assert jsons[2] == jsons[0] | later
