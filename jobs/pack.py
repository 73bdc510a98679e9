"""Build a recipe's packs ahead of a training: python jobs/pack.py [RECIPE] [--data DIR] [--workers N]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.options import RecipeArgs, run_recipe_job
from seg.requests import PackRequest
from seg.screen import say

if TYPE_CHECKING:
    from cluster.session import Session


@dataclass(frozen=True, kw_only=True)
class Args(PackRequest, RecipeArgs):
    """Preprocess a data set once, as a training with the same options reads it, and say where it lies."""

    COMMON = (
        *("data", "workers", "limit", "seed", "list", "label_map", "preprocessing.shrink"),
        *("preprocessing.channels", "preprocessing.background_every"),
    )
    EXAMPLES = ("--data cells", "camvid-icnet --data camvid --workers 8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_recipe_job("pack", Args, argv, _pack)


def _pack(args: Args, session: "Session") -> int:
    from cluster.packing import pack  # here, so that --help loads no torch and no ray

    for summary in pack(args, session):
        say(summary.line, out=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
