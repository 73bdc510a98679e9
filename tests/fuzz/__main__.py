"""Damaged and invented inputs at every reader: python -m tests.fuzz [--inputs 100000] [--only PNG ...]."""

import sys
import time
from collections import Counter
from pathlib import Path

import tyro

from tests.fuzz.campaign import Tally, keep_finds, run, table
from tests.fuzz.targets import TARGETS

TOLD = 12
"""Finds of a target that are printed; the table has them all."""
BEGIN, END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"


def main(
    inputs: int = 100_000,
    only: tuple[str, ...] = (),
    seed: int = 0,
    finds: Path | None = None,
    docs: Path | None = None,
) -> int:
    """Print the table and every find; exit code 1 where there is one.

    inputs: of all targets together. only: names of targets. seed: other inputs. finds: where inputs that are
    finds are written. docs: a page whose table between two marks is replaced, docs/explanation/security.md.
    """
    names = only or tuple(TARGETS)
    tallies = {name: Tally(Counter(), []) for name in names}
    began = time.monotonic()
    for name, tally in run(names, max(1, inputs // len(names)), seed):
        tallies[name].counts.update(tally.counts)
        tallies[name].finds += tally.finds
        told = len(tallies[name].finds) - len(tally.finds)
        for find in tally.finds[: max(0, TOLD - told)]:
            print(f"{find.target}, input {find.number}: {find.kind}: {find.detail.strip()}", flush=True)
    done = sum(tally.counts["inputs"] for tally in tallies.values())
    text = f"{done:,} inputs, seed {seed}:\n\n{table(tallies)}"
    print(f"{text}\n{time.monotonic() - began:.0f} s")
    if docs is not None:
        before, _, rest = docs.read_text().partition(BEGIN)
        docs.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    found = [find for tally in tallies.values() for find in tally.finds]
    if finds is not None:
        keep_finds(found, seed, finds)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
