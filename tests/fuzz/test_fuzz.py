"""A few hundred inputs of the fuzzing, which `make fuzz` does with a hundred thousand."""

from collections import Counter

import pytest

from tests.fuzz.campaign import make_input, run
from tests.fuzz.targets import TARGETS
from tests.watched import Limits, Watched

IMAGES = ("PNG", "BMP", "JPEG", "NPY", "TIFF, odd ones", "TIFF deflate, strips", "TIFF lzw, anywhere")
QUICK = (
    *IMAGES,
    "mask",
    "boxes, YOLO",
    "boxes, JSON",
    "class_dict.csv",
    "VIA project",
    "old labels (pickles)",
)
"""Targets that start without torch."""


def crash() -> None:
    import ctypes

    ctypes.string_at(1)


def spin() -> None:
    while True:
        pass


def take_memory() -> int:
    return len(bytearray(8 << 30))


def test_a_crash_a_hang_and_too_much_memory_are_answers_and_the_next_call_is_served() -> None:
    child = Watched(Limits(memory_bytes=1 << 30, cpu_s=0.3, wall_s=60))
    assert (child.call(crash).kind, child.call(spin).kind) == ("crashed", "hung")
    answer = child.call(take_memory)
    assert (answer.kind, "MemoryError" in answer.detail) == ("raised", True)
    assert child.call(len, "abc").value == 3
    child.close()


@pytest.mark.parametrize("name", ["PNG", "TIFF lzw, strips", "boxes, JSON"])
def test_an_input_is_the_same_whenever_it_is_asked_for(name: str) -> None:
    inputs = [make_input(name, 0, number) for number in range(30)]
    assert inputs == [make_input(name, 0, number) for number in range(30)]
    assert len({data for data, *_ in inputs}) > 20


def test_every_target_reads_its_own_seeds(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("PNG", "BMP", "JPEG", "NPY", "boxes, YOLO", "boxes, JSON", "class_dict.csv", "VIA project"):
        target = TARGETS[name]
        assert target.read(target.seeds()[0]), name


def test_fifty_inputs_of_each_quick_target_are_read_or_refused() -> None:
    counts: Counter[str] = Counter()
    finds = []
    for _, tally in run(QUICK, 50, seed=1):
        counts.update(tally.counts)
        finds += tally.finds
    assert [(find.target, find.number, find.kind, find.detail) for find in finds] == []
    assert counts["inputs"] == 50 * len(QUICK)
    assert min(counts["read"], counts["refused"]) > 50


@pytest.mark.long
def test_a_thousand_inputs_of_each_target_are_read_or_refused() -> None:
    finds = [find for _, tally in run(tuple(TARGETS), 1000, seed=2) for find in tally.finds]
    assert [(find.target, find.number, find.kind, find.detail) for find in finds] == []
