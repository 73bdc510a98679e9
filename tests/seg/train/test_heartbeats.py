from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seg.train.board import Beat, beating, describe_late, read_beats
from seg.train.learner import Ranks
from seg.train.training import Position


def beats(*positions: tuple[int, int, str]) -> list[Beat]:
    """One beat a worker, all written at one time."""
    return [
        Beat(rank, len(positions), f"node-{rank}", 100.0, Position(*where))
        for rank, where in enumerate(positions)
    ]


@pytest.mark.parametrize(
    ("positions", "late"),
    [
        (((2, 7, "computing"), (2, 7, "loading")), "worker 1 on node-1, loading in step 7 of epoch 2"),
        (((2, 6, "computing"), (2, 7, "loading")), "worker 0 on node-0, computing in step 6 of epoch 2"),
        (((2, 9, "validating"), (3, 1, "computing")), "worker 0 on node-0, validating in step 9 of epoch 2"),
    ],
)
def test_the_worker_that_is_behind_the_others_is_named(
    positions: tuple[tuple[int, int, str], ...], late: str
) -> None:
    assert describe_late(beats(*positions)) == f"behind the others: {late}"


def test_a_worker_that_fell_silent_is_named_wherever_it_was() -> None:
    first, second = beats((2, 7, "computing"), (2, 7, "computing"))
    text = describe_late([replace(first, written=58.0), second])
    assert text == (
        "silent, so frozen, killed or cut off: worker 0 on node-0, computing in step 7 of epoch 2 for 42 s"
    )


def test_workers_that_are_equally_far_are_not_accused() -> None:
    text = describe_late(beats((2, 7, "computing"), (2, 7, "computing")))
    assert text.startswith("all 2 workers are equally far: ")


def test_beats_of_a_larger_group_before_do_not_count() -> None:
    before, alone = beats((1, 1, "loading"), (5, 1, "loading"))
    found = [replace(alone, rank=0, world_size=1, written=101.0), replace(before, rank=1)]
    assert describe_late(found).startswith("all 1 workers are equally far: worker 0")
    assert describe_late([]) == "no worker has written a beat yet"


def test_a_worker_that_is_gone_is_not_late_for_its_silence() -> None:
    """As one that NCCL's watchdog ends: it had waited, and may take long to die."""
    waited, late = beats((2, 7, "computing"), (2, 7, "loading"))
    gone = replace(waited, written=58.0)
    assert describe_late([gone, late], {0}).startswith("behind the others: worker 1 on node-1, loading")
    assert describe_late([waited, replace(late, written=58.0)], {0}).startswith("silent, so frozen")


@pytest.mark.parametrize("ends_by", [None, RuntimeError])
def test_a_worker_tells_where_it_is_while_it_works_and_where_it_ended(
    tmp_path: Path, ends_by: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.train.board.WRITE_EVERY_S", 1e9)  # so that the last beat is no chance
    training: Any = SimpleNamespace(
        plan=SimpleNamespace(folder=tmp_path), ranks=Ranks(1, 3), position=Position(1, 1, "loading")
    )
    try:
        with beating(training):
            training.position = Position(4, 2, "computing")
            if ends_by:
                raise ends_by
    except RuntimeError:
        pass
    (found,) = read_beats(tmp_path)
    assert (found.rank, found.world_size, found.position) == (1, 3, Position(4, 2, "computing"))


def test_beats_that_are_torn_or_of_older_code_are_nobodys(tmp_path: Path) -> None:
    folder = tmp_path / "last" / "workers"
    folder.mkdir(parents=True)
    (folder / "0.json").write_text('{"rank": 0, "host": "a", "wri')
    position = '{"epoch": 1, "step": 1, "stage": "loading"}'
    (folder / "1.json").write_text(f'{{"rank": 1, "host": "a", "written": 1.0, "position": {position}}}')
    assert read_beats(tmp_path) == []
