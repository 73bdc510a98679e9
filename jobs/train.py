"""Train a segmentation model: python jobs/train.py [RECIPE] [--data DIR] [--out DIR] [--workers N]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.options import RecipeArgs, run_recipe_job
from seg.requests import TrainRequest

if TYPE_CHECKING:
    from cluster.session import Session


@dataclass(frozen=True, kw_only=True)
class Args(RecipeArgs, TrainRequest):
    """Train a recipe on a data set, with one Ray Train worker a GPU; the same command resumes it."""

    COMMON = (
        *("data", "demo", "out", "epochs", "batch", "optimizer.lr", "model", "loss", "preprocessing.shrink"),
        *("crops.size_px", "workers", "limit", "list"),
    )
    EXAMPLES = ("--data cells --epochs 20", "camvid-icnet --data camvid --out runs/camvid --workers 2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_recipe_job("train", Args, argv, _train)


def _train(args: Args, session: "Session") -> int:
    from cluster.train import check_recipe, train  # here, so that --help loads no torch and no ray
    from jobs.next import tell_after_training
    from jobs.tables import print_figures, show_check

    if args.dry_run:
        from seg.check.check import check_training

        checked = check_training(args)
        check_recipe(args.recipe, checked.meaning.classes, begun=True)
        return show_check("train", checked)
    summary = train(args, session)
    print_figures("train", summary.values, summary.folder)
    if summary.exit_code == 0:
        tell_after_training(summary, args)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
