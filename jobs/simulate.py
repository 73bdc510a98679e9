"""Simulate an archive: python jobs/simulate.py OUT --sequences N --frames N --size N [--difficulty hard]."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jobs.next import end_with
from jobs.run import parse_words, run_job


@dataclass(frozen=True, kw_only=True)
class Args:
    """Simulate holograms of cells in a channel, with masks and boxes; the same command resumes."""

    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write, in the plain layout: images/, masks/, boxes/, classes.txt."""
    num_sequences: Annotated[int, arg(name="sequences", metavar="N")] = 4
    """How many sequences; each has a background of its own."""
    num_frames: Annotated[int, arg(name="frames", metavar="N")] = 8
    """Frames a sequence."""
    size_px: Annotated[int, arg(name="size", metavar="N")] = 3072
    """Side of a frame in pixels, 64 to 8192; a cell is 90 to 220 px across at any size."""
    bits: Literal[8, 16] = 8
    """Bits a pixel."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Another seed, another archive."""
    difficulty: Literal["easy", "standard", "hard"] = "standard"
    """Contrast, noise, dust, density and defocus."""
    first_sequence: Annotated[int, arg(metavar="N")] = 0
    """Number of the first sequence: 3 with --sequences 1 makes the fourth of four alone."""
    carrier: Annotated[float | None, arg(metavar="CYCLES")] = None
    """Fringes a pixel, 0.1 to 0.25: an instrument that was realigned; default: the seed's own."""
    workers: Annotated[int, arg(metavar="N")] = len(os.sched_getaffinity(0))
    """Processes, by default one a core; at 3072 px each takes 1 GB."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("simulate", lambda: _simulate(parse_words(Args, argv)))


def _simulate(args: Args) -> int:
    from seg.progress import progress
    from seg.simulate.archive import Simulation, simulate_archive  # here, so that --help loads no SciPy

    plan = Simulation(**{field.name: getattr(args, field.name) for field in fields(Simulation)})
    with progress("simulating", args.num_sequences * args.num_frames) as advance:
        num_made = simulate_archive(args.out, plan, workers=args.workers, advance=advance)
    made = f"{args.out}: {args.num_sequences} x {args.num_frames} frames, {num_made} of them new"
    return end_with(made, "train on it:", "train", "--data", args.out)


if __name__ == "__main__":
    sys.exit(main())
