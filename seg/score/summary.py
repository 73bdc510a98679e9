"""What a scoring comes to: totals over its whole folder, rates of the command that just ended."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from seg.alarms import find_alarms
from seg.data.images import Turned
from seg.data.preprocess import OutOfRange
from seg.errors import FAILED, REFUSED, STOPPED_EARLY, JobSummary, RequestError, StoppedBy
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Outcome, Scored
from seg.locks.claim import check_folder
from seg.metrics import score_classes
from seg.objects import summarise_objects
from seg.report.report import gather, write_report, write_review
from seg.report.survey import Survey
from seg.requests import ScoreRequest
from seg.score.exports import ExportKind, export_objects, write_object_table
from seg.score.folder import look_into, refuse_changed, survey_images
from seg.score.notify import run_notify
from seg.score.plan import ScorePlan
from seg.score.screen import Screen
from seg.score.status import limiting_stage
from seg.storage import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary(JobSummary):
    """How a scoring ended."""

    place: Place
    survey: Survey
    """Of all that the folder holds."""
    is_kept: bool = False
    """The folder was only looked at, since nobody here may write to it: no results are to be made in it."""


@dataclass(slots=True)
class Command:
    """What this command did, beside what the folder holds."""

    skipped: int
    """Images of the archive that were in the ledger when it began."""
    screen: Screen
    changed: int = 0
    """Images that changed since they were scored, to be scored again."""
    stopped_by: StoppedBy = StoppedBy.FINISHED
    seconds_starting: float = 0.0
    """Until the first worker had loaded its model, Ray's start included."""
    values: dict[str, Any] = field(default_factory=dict)
    """Of summary.json, once it is written."""
    turned: Turned = field(default_factory=Turned)
    """Images that it scored and that carry an orientation."""
    outside: OutOfRange | None = None
    """Images of the folder that are unlike those of the training; None: the model file knows no range."""

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Take what has arrived."""
        for outcome in outcomes:
            if isinstance(outcome, Scored):
                self.turned.add(outcome.image, outcome.orientation)


def summarise(plan: ScorePlan, survey: Survey, command: Command) -> dict[str, Any]:
    """What summary.json holds (docs/reference/scores.md)."""
    totals, committed, images = survey.totals, survey.ledger.committed, plan.listing.images
    classes, trained = plan.card.classes, plan.card.class_shares
    done = survey.find_finished(images) | survey.find_quarantined(images)
    progress = command.screen.progress
    seconds, pixels = progress.seconds, progress.status().pixels
    return {
        "images_found": len(images),
        "images_scored": committed,
        "images_skipped": command.skipped,
        "images_quarantined": survey.quarantined,
        "images_left": len(images) - int(done.sum()),
        "images_changed": command.changed,
        "images_ignored": plan.listing.ignored,
        "images_out_of_range": command.outside and command.outside.images,
        "quarantine_reasons": survey.reason_counts,
        "labelled": totals.labelled,
        "pixels": totals.pixels,
        "classes": classes,
        **asdict(score_classes(totals.confusion, classes)),
        "alarms": find_alarms(classes, totals.confusion, totals.class_pixels, trained),
        "class_shares_trained": dict(zip(classes, trained, strict=True)) if trained else None,
        "objects": summarise_objects(
            totals.objects_found, totals.objects_missed, totals.objects_invented, classes
        ),
        "megapixels_per_second": pixels / 1e6 / seconds if seconds else None,
        "images_per_second": committed / seconds if seconds else None,
        "seconds": seconds,
        "seconds_starting": command.seconds_starting,
        "stage_seconds": totals.seconds,
        "bound_by": limiting_stage(totals.seconds, progress.lanes),
        "model_sha256": plan.identity["model_sha256"],
        "stopped_by": command.stopped_by,
    }


def is_read_only(out: Place) -> bool:
    """Whether there is a scoring in a folder of this machine to which this user may add no file."""
    there = out.is_local and out.stat("run.json") is not None
    return there and not os.access(out.local(), os.W_OK, effective_ids=True)


def look_back(plan: ScorePlan, request: ScoreRequest) -> ScoreSummary:
    """The figures of a finished scoring from its ledger; nothing is written, nor locked.

    RequestError: images are left to score, or something else would have to be written; as of `score`.
    """
    check_folder(plan.out, plan.identity, older_reader=True)
    survey = survey_images(plan, Ledger(plan.out))
    again = refuse_changed(plan, request, survey.ledger)
    folder = look_into(plan, survey, {}, again=again, retry_quarantined=request.retry_quarantined)
    if folder.num_left or request.export:
        left = (
            f"images are left to score: {folder.num_left}"
            if folder.num_left
            else "`export` would write there"
        )
        mend = "mend its permissions, or give another `out`"
        raise RequestError(f"`out={plan.out}` cannot be written to by this user, and {left}; {mend}")
    log.info(f"nothing left to score; {plan.out} cannot be written to, so all in it stays as it is")
    values = {
        "images_found": len(plan.listing.images),
        "images_scored": 0,
        "images_skipped": folder.skipped,
        "images_quarantined": survey.quarantined,
        "labelled": survey.totals.labelled,
        "classes": plan.card.classes,
        **asdict(score_classes(survey.totals.confusion, plan.card.classes)),
        "stopped_by": StoppedBy.FINISHED,
    }
    return ScoreSummary(place=plan.out, values=values, survey=survey, is_kept=True)


def write_results(summary: ScoreSummary, export: ExportKind | None) -> list[str]:
    """Write report.html, review.csv, objects.csv and what was asked for of exports/; a line on each."""
    place, survey = summary.place, summary.survey
    lines = [f"report: {write_report(place, report=gather(place, survey))}"]
    lines.append(f"what to label next: {write_review(place, survey=survey)}")
    objects = int(survey.objects.counts.sum())
    lines.append(write_object_table(place, survey.ledger, summary.values["classes"], objects))
    return lines + ([export_objects(place, export, survey.ledger).line] if export else [])


@contextmanager
def notifying(request: ScoreRequest) -> Iterator[Callable[[ScoreSummary], None]]:
    """Run `notify` after the block, however it ends, unless the request was wrong: that is said at once.

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
        summary = f"{request.out}/summary.json"
        run_notify(request.notify, summary, stopped_by=stopped_by, exit_code=exit_code)
