"""Train a segmentation model: python jobs/train.py [RECIPE] [--data DIR] [--out DIR] [--workers N]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from jobs.outcome import run_job
from jobs.recipe_options import RecipeArgs, default_recipe, parse, print_recipes


@dataclass(frozen=True, kw_only=True)
class Args(RecipeArgs):
    """Train a recipe on a data set, with one Ray Train worker a GPU; the same command resumes it."""

    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the data set; default: $FRINGE_DATA, else an archive simulated once under data/simulated."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the run; default: runs/RECIPE-HASH, the hash over recipe, data and seed."""
    workers: Annotated[int | None, arg(metavar="N")] = None
    """Training processes; default: one a GPU, else $FRINGE_WORKERS, else 1; 0: this process, without Ray."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """Use only the first N images of each part of the split."""
    seed: int = 0
    """Of the split, the first weights, the crops."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("train", lambda: _train(argv))


def _train(argv: Sequence[str] | None) -> int:
    args = parse(Args, argv)
    if args.list:
        print_recipes()
        return 0
    from cluster.session import (
        check_workers,
        compute_session,
    )  # here, so that --help loads no torch and no ray
    from cluster.training import TrainRequest, train
    from jobs.figures import print_figures
    from seg.data.default import default_data

    check_workers(args.workers, lowest=0)
    with compute_session(use_ray=args.workers != 0) as session:
        args = parse(Args, argv, default_recipe(session.gpus_possible))
        request = TrainRequest(
            recipe=args.recipe,
            data=args.data or default_data(),
            out=args.out,
            workers=args.workers,
            limit=args.limit,
            seed=args.seed,
        )
        summary = train(request, session)
    print_figures("train", summary.values, summary.folder)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
