"""Write a scoring's report again, or compare two scorings: python jobs/report.py DIR [DIR] [--out FILE]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jobs.run import parse_words, run_job
from seg.errors import RequestError
from seg.requests import PLACE, Place
from seg.screen import say


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write report.html and review.csv of a scores folder again; compare two of the same labelled images."""

    folders: Positional[Annotated[tuple[Annotated[Place, PLACE], ...], arg(metavar="DIR [DIR]")]]
    """The --out of a scoring, or of two: A, and B that is compared with it."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The page; default: report.html in the folder, or comparison-B.html in the first. With FILE.html of a
    report comes FILE-review.csv."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("report", lambda: _report(parse_words(Args, argv)))


def _report(args: Args) -> int:
    from jobs.tables import print_alarms, print_differences
    from seg.report.comparison import compare, write_comparison  # here, so that --help loads no torch
    from seg.report.report import gather, write_report, write_review
    from seg.report.survey import read_scores

    places = args.folders
    if len(places) == 2:
        comparison = compare(*places)
        print_differences(comparison)
        say(f"report: {write_comparison(comparison, *places, out=args.out)}", out=True)
    elif len(places) == 1:
        survey = read_scores(places[0]).survey()
        report = gather(places[0], survey)
        print_alarms("report", report.alarms)
        say(f"report: {write_report(places[0], args.out, report)}", out=True)
        review = args.out and args.out.with_name(f"{args.out.stem}-review.csv")
        say(f"what to label next: {write_review(places[0], review, survey)}", out=True)
    else:
        raise RequestError("give one scores folder, or two to compare and, if you like, --out for the page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
