"""Score an archive: python jobs/score.py ARCHIVE --model FILE --out DIR [--labels DIR] [--workers N]."""

import sys
from collections.abc import Sequence

from jobs.refusals import refuse_scoring
from jobs.run import parse_words, run_job
from seg.errors import StoppedBy
from seg.requests import ScoreRequest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("score", lambda: _score(parse_words(ScoreRequest, argv)))


def _score(request: ScoreRequest) -> int:
    refuse_scoring(request)
    from cluster.score import look_only, score  # here, so that --help loads no torch and no ray
    from cluster.session import compute_session
    from jobs.next import tell_after_scoring
    from jobs.tables import print_figures
    from seg.score.summary import notifying, write_results
    from seg.screen import say

    with compute_session(use_ray=request.workers != 0) as session:
        if request.dry_run:
            look_only(request, session)
            return 0
        with notifying(request) as ended:
            summary = score(request, session)
            ended(summary)
            lines = [] if summary.is_kept else write_results(summary, request.export)
            print_figures("score", summary.values, str(summary.place))
            for line in lines:
                say(line, out=True)
            if lines and summary.values["stopped_by"] == StoppedBy.FINISHED:
                tell_after_scoring(request)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
