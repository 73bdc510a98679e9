"""How far a scoring is: python jobs/status.py DIR [--watch] [--json]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from jobs.run import parse_words, run_job
from seg.requests import PLACE, Place


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print how far the scoring of a folder is, from any machine that sees it.

    Exit code: 0 while it works, or its own where it has ended; 1 also where it gives no sign of life.
    """

    EXAMPLES = ("scores/night", "scores/night --watch")

    folder: Positional[Annotated[Place, PLACE]]
    """What was --out of the scoring: a folder, s3://... or gs://..."""
    watch: bool = False
    """Go on until it has ended, or Ctrl-C."""
    json: bool = False
    """Print the values of status.json and the seconds of silence, for scripts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("status", lambda: _status(parse_words(Args, argv)))


def _status(args: Args) -> int:
    from seg.score.status import show_status  # here, so that --help loads nothing slow

    return show_status(args.folder, watch=args.watch, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
