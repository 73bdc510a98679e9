from dataclasses import replace

import pytest

from seg.train.board import Beat, describe_late
from seg.train.training import Position


def beats(*positions: tuple[int, int, str]) -> list[Beat]:
    """One beat a worker, all written at one time."""
    return [Beat(rank, f"node-{rank}", 100.0, Position(*where)) for rank, where in enumerate(positions)]


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
    assert describe_late(beats(*positions), 2) == f"behind the others: {late}"


def test_a_worker_that_fell_silent_is_named_wherever_it_was() -> None:
    first, second = beats((2, 7, "computing"), (2, 7, "computing"))
    text = describe_late([replace(first, written=58.0), second], 2)
    assert text == (
        "silent, so frozen, killed or cut off: worker 0 on node-0, computing in step 7 of epoch 2 for 42 s"
    )


def test_workers_that_are_equally_far_are_not_accused() -> None:
    text = describe_late(beats((2, 7, "computing"), (2, 7, "computing")), 2)
    assert text.startswith("all 2 workers are equally far: ")


def test_beats_of_a_larger_group_before_do_not_count() -> None:
    alone = beats((1, 1, "loading"), (5, 1, "loading"))
    assert describe_late(alone, 1).startswith("all 1 workers are equally far: worker 0")
    assert describe_late([], 2) == "no worker has written a beat yet"
