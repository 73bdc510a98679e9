"""Runs targets: inputs by number, in children that may die, and a table of what became of them."""

import os
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from seg import errors
from seg.errors import DataWarning
from tests.fuzz.targets import TARGETS
from tests.watched import Limits, call_each

BATCH = 25
"""Inputs a call: when one kills its child, they are tried once more one by one."""
LIMITS = Limits(memory_bytes=6 << 30, cpu_s=60, wall_s=600)
ALONE = Limits(memory_bytes=6 << 30, cpu_s=30, wall_s=300)
"""For one input."""

NAMES = ("ImageError", "RequestError", "DamagedFile")
REFUSALS: tuple[type[Exception], ...] = tuple(vars(errors)[name] for name in NAMES if name in vars(errors))
"""What tells a user what is wrong; the last comes with the ledger whose parts carry their hash."""
COLUMNS = ("inputs", "read", "refused", "told", "other", "unlike", "raised", "crashed", "hung")
FAILURES = ("raised", "crashed", "hung", "wrong")


@dataclass(frozen=True, slots=True)
class Find:
    """An input that must not be."""

    target: str
    number: int
    kind: str
    """raised | crashed | hung | wrong"""
    detail: str


@dataclass(slots=True)
class Tally:
    """What became of a target's inputs."""

    counts: Counter[str]
    finds: list[Find]


@cache
def _seed_digest(name: str, at: int) -> str:
    """What a seed is read as; '' where it is refused."""
    return _read(name, TARGETS[name].seeds()[at])[1]


def make_input(name: str, seed: int, number: int) -> tuple[bytes, int, bool]:
    """An input by its number: its bytes, which seed it came from, whether its checksums were made to fit."""
    target = TARGETS[name]
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    seeds = target.seeds()
    at = int(random.integers(len(seeds)))
    ways = [(one, False) for one in target.mutators] + [(one, True) for one in target.remakers]
    mutate, is_remade = ways[random.integers(len(ways))]
    return mutate(seeds[at], seeds, random), at, is_remade


def _read(name: str, data: bytes) -> tuple[str, str, bool]:
    """(read or refused, digest, whether a DataWarning was given)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = TARGETS[name].read(data)
        except REFUSALS:
            return "refused", "", False
    return "read", found, any(issubclass(one.category, DataWarning) for one in caught)


def try_inputs(name: str, seed: int, first: int, count: int, workplace: str) -> Tally:
    """Read so many inputs; an exception that is none of ours is a find. workplace: for files."""
    tempfile.tempdir = workplace
    tally = Tally(Counter(), [])
    for number in range(first, first + count):
        data, at, is_remade = make_input(name, seed, number)
        try:
            kinds = _judge(name, data, _seed_digest(name, at), is_remade)
        except Exception as error:
            kinds = [("raised", f"{type(error).__name__}: {str(error)[:200]}")]
        tally.counts["inputs"] += 1
        for kind, detail in kinds:
            tally.counts[kind] += 1
            if kind in FAILURES:
                tally.finds.append(Find(name, number, kind, detail))
    return tally


def _judge(name: str, data: bytes, before: str, is_remade: bool) -> list[tuple[str, str]]:
    """read | refused | told (read otherwise, with a warning) | other; also unlike, and wrong."""
    target = TARGETS[name]
    kind, found, is_told = _read(name, data)
    if kind == "refused":
        return [(kind, "")]
    same = found == before or not before or is_remade
    kinds = [("read", "")] if same else [("told", "")] if is_told else [("other", found)]
    if kinds[0][0] == "other" and target.has_checksum:
        kinds.append(("wrong", f"read as {found}, was {before}"))
    truth = target.truth(data) if target.truth else None
    if truth is not None and found not in truth:
        kinds.append(("unlike", ""))
        if target.truth_decides:
            kinds.append(("wrong", f"read as {found}, by others {sorted(truth)[:1]}"))
    return kinds


def run(names: Sequence[str], inputs: int, seed: int) -> Iterator[tuple[str, Tally]]:
    """The tallies of targets' batches as they come; `inputs` of each target."""
    with tempfile.TemporaryDirectory(prefix="fringe-fuzz-") as workplace:
        batches = (
            (name, seed, first, min(BATCH, inputs - first), workplace)
            for first in range(0, inputs, BATCH)
            for name in names
        )
        for (name, _, first, count, _), answer in call_each(try_inputs, batches, LIMITS):
            if answer.kind == "returned":
                yield name, answer.value
            elif answer.kind == "raised":
                raise RuntimeError(f"{name}, inputs {first} to {first + count}: {answer.detail}")
            else:
                yield name, _one_by_one(name, seed, range(first, first + count), workplace)


def _one_by_one(name: str, seed: int, numbers: Iterable[int], workplace: str) -> Tally:
    """After a death: who it was."""
    tally = Tally(Counter(), [])
    calls = ((name, seed, number, 1, workplace) for number in numbers)
    for (_, _, number, *_), answer in call_each(try_inputs, calls, ALONE):
        if answer.kind == "returned":
            tally.counts.update(answer.value.counts)
            tally.finds += answer.value.finds
        else:
            tally.counts.update(["inputs", answer.kind])
            tally.finds.append(Find(name, number, answer.kind, answer.detail))
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """Markdown: a line a target, then all."""
    total: Counter[str] = sum((tally.counts for tally in tallies.values()), Counter())
    lines = [f"| input | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, counts in [*((name, tally.counts) for name, tally in tallies.items()), ("all", total)]:
        cells = [
            f"**{counts[column]:,}**" if column == "other" and _is_checked(name) else f"{counts[column]:,}"
            for column in COLUMNS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_checked(name: str) -> bool:
    return name in TARGETS and TARGETS[name].has_checksum


def keep_finds(finds: Iterable[Find], seed: int, folder: Path) -> None:
    """Write each find's input, so that it can be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for find in finds:
        name = f"{find.target}-{find.number}-{find.kind}".replace(" ", "-").replace(os.sep, "-")
        (folder / name).write_bytes(make_input(find.target, seed, find.number)[0])
