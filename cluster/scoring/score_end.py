"""After a scoring: what is made of its folder, and whoever wants to know that it is over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.outcome import FAILED, REFUSED, STOPPED_EARLY, StoppedBy
from cluster.report.report import write_report
from cluster.report.review import write_review
from cluster.requests import ScoreRequest
from cluster.scoring.exports import ExportKind, export_objects
from cluster.scoring.notify import run_notify
from cluster.scoring.score_summary import ScoreSummary
from seg.errors import RequestError
from seg.storage import Place, as_place


def write_results(place: Place, export: ExportKind | None) -> list[str]:
    """Write report.html, review.csv and what was asked for of exports/; where each is, a line each."""
    lines = [f"report: {write_report(place)}", f"what to label next: {write_review(place)}"]
    return lines + ([export_objects(place, export).line] if export else [])


@contextmanager
def notifying(request: ScoreRequest) -> Iterator[Callable[[ScoreSummary], None]]:
    """Run --notify after the block, however it ends, unless the request was wrong: that is said at once.

    The block calls what this gives once it has a summary.
    """
    summaries: list[ScoreSummary] = []
    try:
        yield summaries.append
    except KeyboardInterrupt:
        _notify(request, StoppedBy.INTERRUPT, STOPPED_EARLY)
        raise
    except RequestError:
        if summaries:
            _notify(request, StoppedBy.ERROR, REFUSED)
        raise
    except Exception:
        _notify(request, StoppedBy.ERROR, FAILED)
        raise
    summary = summaries[-1]
    _notify(request, summary.values["stopped_by"], summary.exit_code)


def _notify(request: ScoreRequest, stopped_by: str, exit_code: int) -> None:
    if request.notify:
        summary = f"{as_place(request.out)}/summary.json"
        run_notify(request.notify, summary, stopped_by=stopped_by, exit_code=exit_code)
