"""Search a recipe's learning rate, loss, backbone and more: python jobs/tune.py [RECIPE] --trials 32."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.options import RecipeArgs, run_recipe_job
from seg.requests import SearchRequest

if TYPE_CHECKING:
    from cluster.session import Session


@dataclass(frozen=True, kw_only=True)
class Args(RecipeArgs, SearchRequest):
    """Search a recipe's learning rate, loss, backbone and --search fields; the same command resumes it."""

    COMMON = (
        *("data", "out", "trials", "search", "epochs", "batch", "model", "loss", "workers_per_trial"),
        *("gpus_per_trial", "limit", "list"),
    )
    EXAMPLES = (
        "--data cells --trials 32 --epochs 20",
        "--data cells --search 'optimizer.weight_decay=loguniform(1e-6,1e-2)' --gpus-per-trial 0.5",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_recipe_job("tune", Args, argv, _tune)


def _tune(args: Args, session: "Session") -> int:
    from cluster.search import search  # here, so that --help loads no torch and no ray
    from jobs.next import tell_after_search
    from jobs.tables import print_figures, print_leaderboard

    summary = search(args, session)
    print_leaderboard(summary.leaderboard, summary.searched)
    print_figures("tune", summary.values, summary.folder)
    if summary.exit_code == 0:
        tell_after_search(summary, args)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
