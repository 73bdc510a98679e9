"""Search a recipe's learning rate, loss and backbone: python jobs/tune.py [RECIPE] --trials 32."""

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
    """Search a recipe on Ray Tune, one trial a GPU, bad trials pruned; the same command resumes it."""

    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the data set; default: $FRINGE_DATA, else an archive simulated once under data/simulated."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the search; default: search/RECIPE-HASH, the hash over recipe, data and seed."""
    trials: int = 16
    """Settings to try; the first is the recipe's own."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """Use only the first N images of each part of the split."""
    seed: int = 0
    """Of the split, the first weights, the crops, the sampler."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("tune", lambda: _tune(argv))


def _tune(argv: Sequence[str] | None) -> int:
    args = parse(Args, argv)
    if args.list:
        print_recipes()
        return 0
    from cluster.search import SearchRequest, search  # here, so that --help loads no torch and no ray
    from cluster.session import compute_session
    from jobs.figures import print_figures, print_leaderboard
    from seg.data.default import default_data

    with compute_session() as session:
        args = parse(Args, argv, default_recipe(session.gpus_possible))
        request = SearchRequest(
            recipe=args.recipe,
            data=args.data or default_data(),
            out=args.out,
            trials=args.trials,
            limit=args.limit,
            seed=args.seed,
        )
        summary = search(request, session)
    print_leaderboard(summary.leaderboard)
    print_figures("tune", summary.values, summary.folder)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
