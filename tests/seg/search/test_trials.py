from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from seg.recipes import RECIPES
from seg.search.trials import TrialFolder, TrialsReader, begins_fused, read_trials, trial_folder
from seg.train.state import Journal
from tests.cluster.journals import epoch_result, write_journal

RECIPE = replace(RECIPES["camvid-fpn-mobilenet"], epochs=4, patience=0)
PARAMS = {"optimizer.lr": 0.00123456, "loss": "cross_entropy+dice", "backbone": "resnet50"}


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Where a search of 8 trials keeps them."""
    return tmp_path / "trials"


def train_trial(trials: Path, number: int, *mious: float) -> TrialFolder:
    """Begin a trial and bring it to the end of these epochs."""
    folder = trial_folder(trials, number)
    folder.begin({**PARAMS, "optimizer.lr": PARAMS["optimizer.lr"] * 2**number})
    best = max(mious, default=-1.0)
    epoch = mious.index(best) + 1 if mious else 0
    history = [epoch_result(epoch, miou, seconds=1.0) for epoch, miou in enumerate(mious, 1)]
    if history:
        write_journal(folder.path, Journal(history=history, best_epoch=epoch, best_miou=best))
    return folder


def test_a_search_begun_without_fused_kernels_begins_its_further_trials_so(trials: Path) -> None:
    assert begins_fused(read_trials(trials))
    train_trial(trials, 0)  # it has no epoch, and so is begun anew
    assert begins_fused(read_trials(trials))
    folder = train_trial(trials, 1, 0.25).path
    journal = Journal(history=[epoch_result(1, 0.25)], best_epoch=1, best_miou=0.25, fused=True)
    write_journal(folder, journal)
    assert begins_fused(read_trials(trials))
    train_trial(trials, 2, 0.5)  # a journal of before does not name them
    assert not begins_fused(read_trials(trials))


def draw(reader: TrialsReader, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(reader.picture(height))
    return captured.get().splitlines()


def test_a_terminal_shows_counts_the_best_and_what_runs(trials: Path) -> None:
    train_trial(trials, 0, 0.1, 0.2, 0.4, 0.3).end(RECIPE)
    train_trial(trials, 1, 0.1).end(RECIPE)
    train_trial(trials, 2).fail("OutOfMemoryError: no")
    train_trial(trials, 4)
    train_trial(trials, 3, 0.25, 0.125)
    reader = TrialsReader(trials, RECIPE, 8)
    first, counts, best, *running = draw(reader, width=120)
    assert first.startswith("searching camvid-fpn-mobilenet  ━")
    assert "3/8 trials" in first
    assert counts == "  1 finished   1 pruned   1 errored   2 running"
    tail = "loss cross_entropy+dice  backbone resnet50"
    assert best == f"  best     000  mIoU 0.4000  epoch 4/4  lr 0.00123  {tail}"
    assert running == [
        f"  running  003  mIoU 0.1250  epoch 2/4  lr 0.00988  {tail}",
        f"  running  004  mIoU -       epoch 0/4  lr 0.0198  {tail}",
    ]
    assert reader.note == "2 running  best mIoU 0.4000"
    assert reader.done == 3


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_picture_keeps_to_the_terminal_and_says_what_it_leaves_out(trials: Path, width: int) -> None:
    for number in range(30):
        train_trial(trials, number, 0.25)
    lines = draw(TrialsReader(trials, RECIPE, 32), width, height=16)
    assert len(lines) < 16
    assert max(map(len, lines)) <= width
    shown = sum("running  0" in line for line in lines)
    assert lines[-1] == f"  and {30 - shown} more"


def test_a_search_that_begins_has_nothing_to_show_yet(trials: Path) -> None:
    reader = TrialsReader(trials, RECIPE, 8)
    reader.look()
    assert (reader.done, reader.note, reader.seconds_left) == (0, "0 running", None)
    assert draw(reader)[1:] == ["  0 finished   0 pruned   0 errored   0 running"]


def test_the_time_left_follows_from_the_work_done_since_this_job_began(
    trials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("seg.search.trials.time.monotonic", lambda: now)
    train_trial(trials, 0, 0.1, 0.2, 0.3, 0.4).end(RECIPE)
    train_trial(trials, 1, 0.1)
    reader = TrialsReader(trials, RECIPE, 8)
    now = 160.0
    assert reader.seconds_left is None
    train_trial(trials, 1, 0.1, 0.2)
    train_trial(trials, 2, 0.1).end(RECIPE)
    reader.look()
    # in 60 s a quarter of trial 1 and the whole of trial 2, which is pruned; 8 - 2.5 are left
    assert reader.seconds_left == pytest.approx(60 / 1.25 * 5.5)


def test_trials_are_read_again_only_when_a_file_of_theirs_is_new(
    trials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_trial(trials, 0, 0.25)
    reader = TrialsReader(trials, RECIPE, 8)
    first = reader.trials
    reader.look()
    assert reader.trials is first
    folder.end(RECIPE)
    reader.look()
    assert [trial.status for trial in reader.trials] == ["pruned"]
