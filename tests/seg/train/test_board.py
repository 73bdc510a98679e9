import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from seg.recipes import RECIPES
from seg.train.board import Board, BoardReader, progress_file
from seg.train.state import Journal
from seg.train.training import StepReport, peak_memory_bytes
from tests.cluster.journals import epoch_result, write_journal

STEP = StepReport(
    epoch=1, step=5, steps=20, loss=0.75, rate=1e-3, crops_per_second=16.0, wait_share=0.02, skipped=0
)


@pytest.fixture
def training(tmp_path: Path) -> Any:
    """What a board sees of a training of 10 epochs, on rank 0, in batches of 8 crops."""
    recipe = replace(RECIPES["interferogram-small"], epochs=10, patience=0)
    return SimpleNamespace(
        plan=SimpleNamespace(recipe=recipe, folder=tmp_path / "run"),
        ranks=SimpleNamespace(rank=0),
        sampler=SimpleNamespace(batch=8),
        device=torch.device("cpu"),
        journal=Journal(),
        validation_work=0.25,
    )


def finish_epoch(
    training: Any, miou: float, seconds: float = 60.0, *, skipped: int = 0, validation: float = 0.0
) -> None:
    """Save an epoch as the loop does: in the state file's journal."""
    journal: Journal = training.journal
    times = {"seconds": seconds, "validation_seconds": validation}
    result = epoch_result(journal.epochs_done + 1, miou, loss=1.0, skipped_steps=skipped, **times)
    journal.history.append(result)
    if miou > journal.best_miou:
        journal.best_epoch, journal.best_miou = journal.epochs_done, miou
    write_journal(training.plan.folder, journal)


def draw(reader: BoardReader, width: int = 80) -> str:
    console = Console(width=width, height=24, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(reader.picture(24))
    return captured.get()


def test_a_terminal_of_80_columns_shows_all_of_a_training(training: Any) -> None:
    finish_epoch(training, 0.5)
    finish_epoch(training, 0.625, skipped=2)
    finish_epoch(training, 0.5625, 120.0)
    reader = BoardReader(training.plan)
    Board(training).publish(replace(STEP, epoch=4, skipped=1))
    reader.look()
    lines = draw(reader).splitlines()
    memory = f"{peak_memory_bytes(training.device) / 1e9:.2f} GB a worker"
    wanted = (
        ("training interferogram-small", "━", "epoch 4/10", "9 min left"),  # (10 - 3 - 5/20) epochs of 80 s
        ("mIoU  0.5625", "best 0.6250 in epoch 2", "▁█▅"),
        ("loss  0.7500", "rate 1.00e-03", "step 5/20", "▁▁▁"),
        ("16.0 crops/s", "2% waiting", memory, "3 steps skipped"),
    )
    assert len(lines) == len(wanted)
    for line, parts in zip(lines, wanted, strict=True):
        assert [part for part in parts if part not in line] == []
        assert len(line) <= 80
    assert reader.note == "epoch 4 step 5/20  loss 0.7500  mIoU 0.562"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_picture_has_four_lines_whatever_the_width(training: Any, width: int) -> None:
    finish_epoch(training, 0.5)
    reader = BoardReader(training.plan)
    Board(training).publish(replace(STEP, epoch=2, steps=100_000, loss=12345.6789))
    reader.look()
    lines = draw(reader, width).splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width


def test_the_first_epoch_foretells_its_end_from_its_steps(training: Any) -> None:
    reader = BoardReader(training.plan)
    assert reader.seconds_left is None
    assert "starting" in draw(reader)
    Board(training).publish(STEP)
    reader.look()
    training_s = 20 * 8 / 16  # steps, crops a step, crops a second; validation by the pixels that it sees
    assert reader.seconds_left == pytest.approx(10 * 1.25 * training_s - training_s * 5 / 20)
    assert "mIoU  -" in draw(reader)
    assert reader.note == "epoch 1 step 5/20  loss 0.7500"


def test_until_workers_train_the_picture_and_the_log_say_what_is_waited_for(
    training: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.progress.QUICK_S", 0)
    reader, why = BoardReader(training.plan, workers=2), "2 workers: Ray starts their processes, each imports"
    reader.look()
    assert f"waiting 0 s for {why} torch" in draw(reader)
    assert f"waiting 0 s for {why} torch" == reader.note
    assert capsys.readouterr().err == f"waiting for {why} torch\n"
    Board(training).publish(STEP)
    reader.look()
    assert "2 workers" not in draw(reader) + reader.note


def test_an_epochs_last_step_is_shown_as_validating_until_the_epoch_is_saved(training: Any) -> None:
    reader, board = BoardReader(training.plan), Board(training)
    board.on_step(replace(STEP, step=19))
    board.on_step(replace(STEP, step=20))  # at once, though the one before was just now
    reader.look()
    assert "validating" in draw(reader)
    finish_epoch(training, 0.5)
    board.publish(replace(STEP, step=20))
    reader.look()
    assert "step 20/20" in draw(reader)
    assert reader.seconds_left == 9 * 60


def test_validation_counts_in_the_time_left_and_in_the_share_that_the_bar_shows(training: Any) -> None:
    finish_epoch(training, 0.5, 100.0, validation=40.0)
    reader, board = BoardReader(training.plan), Board(training)
    left = []
    for report in (
        replace(STEP, step=10),
        *(replace(STEP, step=20, validated=n, to_validate=8) for n in (0, 2, 8)),
    ):
        board.publish(replace(report, epoch=2))
        reader.look()
        left.append(reader.seconds_left)
    assert left == pytest.approx(
        [870, 840, 830, 800]
    )  # of 900 s: half of 60 s, all of them, a quarter of 40 s
    assert reader.note == "epoch 2 validating 100%  loss 0.7500  mIoU 0.500"
    board.publish(replace(STEP, epoch=2, step=20, validated=2, to_validate=8))
    reader.look()
    assert "validating 25%" in draw(reader)


def test_images_that_are_validated_are_published_now_and_then(
    training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.train.board.WRITE_EVERY_S", 1e9)
    board = Board(training)
    board.on_step(replace(STEP, step=20))
    for count in range(1, 9):
        board.on_step(replace(STEP, step=20, validated=count, to_validate=8))
    assert json.loads(progress_file(training.plan.folder).read_text())["validated"] == 0


def test_a_board_is_not_written_at_each_step(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.train.board.WRITE_EVERY_S", 1e9)
    board = Board(training)
    for step in range(1, 20):
        board.on_step(replace(STEP, step=step))
    assert json.loads(progress_file(training.plan.folder).read_text())["step"] == 1
    assert [file.name for file in progress_file(training.plan.folder).parent.iterdir()] == ["progress.json"]


def test_other_ranks_boards_stay_blank(training: Any) -> None:
    training.ranks.rank = 1
    Board(training).publish(STEP)
    assert not progress_file(training.plan.folder).exists()


def test_a_training_that_diverged_is_shown(training: Any) -> None:
    reader = BoardReader(training.plan)
    finish_epoch(training, float("nan"))
    Board(training).publish(replace(STEP, epoch=2, loss=float("nan")))
    reader.look()
    assert "loss  nan" in draw(reader)
    assert "mIoU  -" in draw(reader)
    assert reader.note == "epoch 2 step 5/20  loss nan  mIoU -"


def test_patience_makes_the_time_left_a_bound_and_a_run_that_ran_out_of_it_has_none(training: Any) -> None:
    training.plan.recipe = replace(training.plan.recipe, patience=2)
    finish_epoch(training, 0.5)
    reader = BoardReader(training.plan)
    Board(training).publish(replace(STEP, epoch=2))
    reader.look()
    assert "at most 9 min left" in draw(reader)
    for miou in (0.25, 0.25):
        finish_epoch(training, miou)
    Board(training).publish(replace(STEP, epoch=3, step=20))
    reader.look()
    assert "left" not in draw(reader)
    assert "epoch 3/10" in draw(reader)


def test_finished_epochs_are_announced_once_and_all_together(training: Any) -> None:
    finish_epoch(training, 0.25)
    announced: list[list[int]] = []
    reader = BoardReader(
        training.plan, lambda history: announced.append([result.epoch for result in history])
    )
    board = Board(training)
    for epoch in (2, 3):
        board.publish(replace(STEP, epoch=epoch))
        reader.look()
        finish_epoch(training, 0.5)
    board.publish(replace(STEP, epoch=3))
    for _ in range(2):
        reader.look()
    assert announced == [[1, 2], [1, 2, 3]]
    assert reader.done == 3


def test_a_reader_forgets_the_board_of_an_earlier_job_but_not_its_epochs(training: Any) -> None:
    finish_epoch(training, 0.5)
    Board(training).publish(STEP)
    reader = BoardReader(training.plan)
    reader.look()
    assert (reader.progress, reader.done) == (None, 1)


def test_storage_that_refuses_stops_the_display_and_nothing_else(training: Any) -> None:
    reader, board = BoardReader(training.plan), Board(training)
    run: Path = training.plan.folder
    away = run.rename(run.with_name("away"))
    board.publish(STEP)
    reader.look()
    assert reader.progress is None
    away.rename(run)
    board.publish(STEP)
    reader.look()
    assert reader.progress is not None
