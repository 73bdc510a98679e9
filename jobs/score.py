"""Score an archive: python jobs/score.py ARCHIVE --model FILE --out DIR [--labels DIR] [--workers N]."""

import sys
from collections.abc import Sequence

import tyro

from cluster.requests import ScoreRequest
from jobs.outcome import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("score", lambda: _score(tyro.cli(ScoreRequest, args=argv)))


def _score(request: ScoreRequest) -> int:
    from cluster.report import write_report  # here, so that --help loads no torch and no ray
    from cluster.scoring import score
    from cluster.session import compute_session
    from jobs.figures import print_figures

    with compute_session(use_ray=request.workers != 0) as session:
        summary = score(request, session)
    report = write_report(summary.folder)
    print_figures("score", summary.values, summary.folder)
    print(f"report: {report}")
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
