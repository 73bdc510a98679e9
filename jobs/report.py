"""Write a scoring's report again, or compare two scorings: python jobs/report.py DIR [DIR] [--out FILE]."""

import sys
from collections.abc import Sequence

from jobs.run import parse_words, run_job
from seg.errors import RequestError
from seg.requests import ReportRequest
from seg.screen import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("report", lambda: _report(parse_words(ReportRequest, argv)))


def _report(args: ReportRequest) -> int:
    from jobs.tables import print_alarms, print_differences
    from seg.report.comparison import compare, write_comparison  # here, so that --help loads no torch
    from seg.report.figures import write_figures
    from seg.report.report import gather, write_report, write_review
    from seg.report.survey import read_scores

    places, figures = args.folders, bool(args.figures or args.images)
    if len(places) == 2 and figures:
        raise RequestError("`figures` and `images` show one scores folder; give one, or neither of them")
    if len(places) == 2:
        comparison = compare(*places)
        print_differences(comparison)
        say(f"report: {write_comparison(comparison, *places, out=args.out)}", out=True)
    elif len(places) == 1:
        survey = read_scores(places[0]).survey()
        drawn = write_figures(places[0], survey, args) if figures else ""  # first: it may refuse
        report = gather(places[0], survey)
        print_alarms("report", report.alarms)
        say(f"report: {write_report(places[0], args.out, report)}", out=True)
        review = args.out and args.out.with_name(f"{args.out.stem}-review.csv")
        say(f"what to label next: {write_review(places[0], review, survey)}", out=True)
        if drawn:
            say(f"figures: {drawn}", out=True)
    else:
        raise RequestError("give one scores folder, or two to compare and, if you like, --out for the page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
