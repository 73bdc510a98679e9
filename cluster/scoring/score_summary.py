"""What a scoring comes to: totals over its whole folder, rates of the command that just ended."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cluster.ledger.ledger import Ledger
from cluster.outcome import EXIT_CODES, QUARANTINED, StoppedBy
from cluster.scoring.score_plan import ScorePlan
from cluster.scoring.score_screen import Screen
from cluster.scoring.scoring_progress import LANES
from cluster.scoring.scoring_status import limiting_stage
from seg.alarms import find_alarms
from seg.data.intensities import OutOfRange, count_outside
from seg.data.orientation import UPRIGHT, Turned
from seg.object_matching import summarise_objects
from seg.run_folder import score_figures
from seg.storage import Place


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """How a scoring ended: its folder, and what summary.json holds."""

    place: Place
    values: dict[str, Any]
    is_kept: bool = False
    """The folder was only looked at, since nobody here may write to it: no results are to be made in it."""

    @property
    def exit_code(self) -> int:
        """See docs/formats.md: 3 where the quarantine is not empty, unless the job did not finish."""
        code = EXIT_CODES[self.values["stopped_by"]]
        return QUARANTINED if code == 0 and self.values["images_quarantined"] else code


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

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Outcome rows that have arrived."""
        for row in rows:
            if row["reason"] is None:
                self.turned.add(row["image"], row.get("orientation", UPRIGHT))


def summarise(plan: ScorePlan, ledger: Ledger, command: Command) -> dict[str, Any]:
    """What summary.json holds (docs/formats.md)."""
    totals = ledger.totals(len(plan.card.classes))
    classes, trained = plan.card.classes, plan.card.class_shares
    reasons = Counter(
        reason for rows in ledger.quarantine_rows(["reason"]) for reason in rows["reason"].to_pylist()
    )
    images, outside = plan.listing.images, count_strangers(plan, ledger)
    done = ledger.find_finished(images) | ledger.find_quarantined(images)
    progress = command.screen.progress
    seconds, pixels = progress.seconds, progress.status().pixels
    return {
        "images_found": len(images),
        "images_scored": ledger.committed,
        "images_skipped": command.skipped,
        "images_quarantined": reasons.total(),
        "images_left": len(images) - int(done.sum()),
        "images_changed": command.changed,
        "images_ignored": plan.listing.ignored,
        "images_out_of_range": None if outside is None else outside.images,
        "quarantine_reasons": dict(reasons),
        "labelled": totals.labelled,
        "pixels": totals.pixels,
        "classes": classes,
        **score_figures(totals.confusion, classes),
        "alarms": find_alarms(classes, totals.confusion, totals.class_pixels, trained),
        "class_shares_trained": dict(zip(classes, trained, strict=True)) if trained else None,
        "objects": summarise_objects(
            totals.objects_found, totals.objects_missed, totals.objects_invented, classes
        ),
        "megapixels_per_second": pixels / 1e6 / seconds if seconds else None,
        "images_per_second": ledger.committed / seconds if seconds else None,
        "seconds": seconds,
        "seconds_starting": command.seconds_starting,
        "stage_seconds": totals.seconds,
        "bound_by": limiting_stage(totals.seconds, LANES),
        "model_sha256": plan.card.provenance["weights_sha256"],
        "stopped_by": command.stopped_by,
    }


def count_strangers(plan: ScorePlan, ledger: Ledger) -> OutOfRange | None:
    """Scored images that are unlike those of the training; None: the model file knows no range."""
    rows = ledger.rows(["image", "bit_depth", "intensity_mean"])
    return count_outside((table.to_pylist() for table in rows), plan.card.intensities)
