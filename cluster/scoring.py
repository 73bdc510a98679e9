"""Scoring an archive on Ray Data: list, leave out what is done, predict where the pixels are, commit here."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from cluster.image_scorer import ImageScorer, ScorerSettings, sequence_file
from cluster.ledger import Ledger
from cluster.outcome import EXIT_CODES, QUARANTINED, StoppedBy
from cluster.quiet import quiet_loggers
from cluster.requests import ScoreRequest
from cluster.session import Session
from seg.checkpoint import ModelCard, load_model
from seg.data.background import Backgrounds
from seg.data.fingerprint import file_sha256
from seg.data.layout import is_plain_layout, label_folder, pair_labels, read_classes
from seg.data.listing import Listing, list_images
from seg.data.sequences import Sequences
from seg.errors import RequestError
from seg.files import write_json
from seg.metrics import iou, mean_present
from seg.progress import progress
from seg.recipe import Tiling
from seg.run_folder import claim_folder, score_figures

MAX_BLOCK = 16
"""Images a block at most: its rows come out together, so it is also the commit's grain."""
BLOCKS_PER_WORKER = 8
"""Blocks a worker at least, where there are enough images: the last ones then end together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorePlan:
    """A request that was checked: what there is to do, and how."""

    settings: ScorerSettings
    card: ModelCard
    out: Path
    listing: Listing
    labels: dict[str, str]
    """Label of each labelled image, relative to the label folder."""
    ledger: Ledger
    pending: list[str]
    """Images in neither ledger nor quarantine, in the archive's order."""
    skipped: int
    """Images that were in the ledger when the job began."""
    sequences: Sequences | None
    """None where neither background nor window asks for them."""


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """How a scoring ended: its folder, and what summary.json holds."""

    folder: Path
    values: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """See docs/formats.md: 3 where the quarantine is not empty, unless the job did not finish."""
        code = EXIT_CODES[self.values["stopped_by"]]
        return QUARANTINED if code == 0 and self.values["images_quarantined"] else code


def score(request: ScoreRequest, session: Session) -> ScoreSummary:
    """Score what is left of an archive, commit as it comes, write summary.json.

    RequestError: archive, model, labels or folder do not fit each other; nothing is written then.
    """
    workers = 0 if request.workers == 0 else session.choose_workers(request.workers, threads=request.threads)
    plan = plan_scoring(request)
    started = time.perf_counter()
    stopped_by = StoppedBy.ERROR
    try:
        stopped_by = _score_pending(plan, workers, session) if plan.pending else StoppedBy.FINISHED
    finally:
        plan.ledger.commit()
        summary = summarise(plan, stopped_by, time.perf_counter() - started)
        write_json(plan.out / "summary.json", summary)
    return ScoreSummary(plan.out, summary)


def plan_scoring(request: ScoreRequest) -> ScorePlan:
    """Check a request against what is on disk, claim its folder, find what is left to do."""
    _check_counts(request)
    archive, labels = _find_labels(request.archive.resolve(), request.labels)
    out = request.out.resolve()
    if out.is_relative_to(request.archive.resolve()):
        raise RequestError(
            f"--out {out} lies inside the archive, so masks would become images; move it outside"
        )
    _, card = load_model(request.model)  # whole, as the scorers will: a wrong tensor is refused here
    listing = list_images(archive, include=request.include, exclude=request.exclude)
    if not listing.images:
        seen = ", ".join(f"{count} {kind}" for kind, count in listing.ignored.items()) or "nothing"
        raise RequestError(f"archive {archive} holds no image (found: {seen}); give the folder of the images")
    if labels is not None:
        _check_classes(labels, card)
    paired = pair_labels(listing.images, labels) if labels is not None else {}
    settings = ScorerSettings(
        archive=archive,
        labels=labels,
        masks=out / "masks" if request.masks == "png" else None,
        model=request.model.resolve(),
        tiling=_tiling(card, request.halo_px),
        batch=request.batch,
        precision=request.precision,
        threads=request.threads,
        backgrounds=out / "backgrounds",
        background=request.background and request.background.resolve(),
    )
    sequences = _find_sequences(listing.images, card, request.background)
    claim_folder(out, _identity(settings, card))
    ledger = Ledger(out)
    finished = ledger.finished_images()
    done = finished | ledger.quarantined_images()
    chosen = listing.images[: request.limit]
    return ScorePlan(
        settings=settings,
        card=card,
        out=out,
        listing=replace(listing, images=chosen),
        labels=paired,
        ledger=ledger,
        pending=[image for image in chosen if image not in done],
        skipped=sum(image in finished for image in chosen),
        sequences=sequences,
    )


def _find_sequences(images: list[str], card: ModelCard, background: Path | None) -> Sequences | None:
    if background is not None:
        Backgrounds(card.preprocessing, Path(), lambda _: [], background)  # a bad file is refused here
    means = card.preprocessing.background_every > 0 and background is None
    return Sequences(images, card.sequence) if means or card.frames > 1 else None


def _check_counts(request: ScoreRequest) -> None:
    for name, count in (("limit", request.limit), ("batch", request.batch), ("threads", request.threads)):
        if count is not None and count < 1:
            raise RequestError(f"--{name} is {count}, below 1; try --{name} 1")


def _find_labels(archive: Path, labels: Path | None) -> tuple[Path, Path | None]:
    """Where images and labels are; a folder in the plain layout has both."""
    if is_plain_layout(archive):
        labels = labels or label_folder(archive)
        archive = archive / "images"
    return archive, labels and labels.resolve()


def _check_classes(labels: Path, card: ModelCard) -> None:
    for file in (labels / "classes.txt", labels.parent / "classes.txt"):
        if file.is_file() and read_classes(file) != card.classes:
            raise RequestError(
                f"labels {file} names the classes {', '.join(read_classes(file))} but the model knows "
                f"{', '.join(card.classes)}; give labels or a model with the same classes"
            )


def _tiling(card: ModelCard, halo_px: int | None) -> Tiling:
    return card.tiling if halo_px is None else replace(card.tiling, halo_px=halo_px)


def _identity(settings: ScorerSettings, card: ModelCard) -> dict[str, Any]:
    """What makes a scoring this scoring (docs/formats.md); not its workers or limits."""
    return {
        "archive": str(settings.archive),
        "labels": settings.labels and str(settings.labels),
        "model_sha256": card.provenance["weights_sha256"],
        "classes": card.classes,
        "label_map": card.label_map,
        "preprocessing": asdict(card.preprocessing),
        "background": settings.background and file_sha256(settings.background),
        "frames": card.frames,
        "sequence": card.sequence,
        "crop_px": settings.tiling.crop_px,
        "halo_px": settings.tiling.halo_px,
        "blend": "core",
        "batch": settings.batch,
        "engine": "torch",
        "precision": settings.precision,
        "threads": settings.threads,
        "masks": "png" if settings.masks else "none",
    }


def _score_pending(plan: ScorePlan, workers: int, session: Session) -> StoppedBy:
    """Score the pending images; Ctrl-C keeps what has arrived."""
    tally = Tally(len(plan.card.classes))
    _write_sequences(plan)
    try:
        if workers:
            session.start()
        outcomes = _outcomes_from_ray(plan, workers, session) if workers else _outcomes_in_process(plan)
        with progress("scoring", len(plan.pending)) as advance:
            for rows in outcomes:
                plan.ledger.add(rows)
                tally.add(rows)
                advance(len(rows), tally.note())
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    return StoppedBy.FINISHED


class Tally:
    """Running figures of this job, for the screen."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.pixels = self.quarantined = 0
        self.started = time.perf_counter()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count outcome rows."""
        for row in rows:
            if row["reason"] is not None:
                self.quarantined += 1
                continue
            self.pixels += row["height"] * row["width"]
            if row["confusion"] is not None:
                self.confusion += np.array(row["confusion"], np.int64).reshape(self.confusion.shape)

    def note(self) -> str:
        """Rate, mIoU so far, images set aside so far."""
        note = f"{self.pixels / 1e6 / (time.perf_counter() - self.started):.1f} MPix/s"
        if self.confusion.any():
            note += f"  mIoU {mean_present(iou(self.confusion)):.4f}"
        return note + (f"  {self.quarantined} quarantined" if self.quarantined else "")


def _requests(plan: ScorePlan, images: list[str]) -> pa.Table:
    """Rows of images to score, ScoreRow's fields as columns."""
    found, frames = plan.sequences, plan.card.frames
    return pa.table(
        {
            "image": pa.array(images, pa.string()),
            "label": pa.array([plan.labels.get(image) for image in images], pa.string()),
            "sequence": pa.array([found and found.sequence(image) for image in images], pa.string()),
            "window": pa.array(
                [found and found.window(image, frames)[:-1] for image in images], pa.list_(pa.string())
            ),
        }
    )


def _write_sequences(plan: ScorePlan) -> None:
    """Note each pending sequence's frames, once: those that come later do not change its background."""
    if plan.sequences is None or plan.settings.backgrounds is None:
        return
    for sequence in dict.fromkeys(plan.sequences.sequence(image) for image in plan.pending):
        file = sequence_file(plan.settings.backgrounds, sequence)
        if not file.is_file():
            write_json(file, {"sequence": sequence, "frames": plan.sequences.frames(sequence)})


def _outcomes_in_process(plan: ScorePlan) -> Iterator[list[dict[str, Any]]]:
    scorer = ImageScorer(plan.settings)
    for row in scorer.score(_requests(plan, plan.pending).to_pylist()):
        yield [{"reason": None, "confusion": None} | row]


def _outcomes_from_ray(plan: ScorePlan, workers: int, session: Session) -> Iterator[list[dict[str, Any]]]:
    """Outcome rows in blocks, in any order; a worker that dies is replaced and its block run again."""
    import ray.data

    quiet_loggers()
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = min(MAX_BLOCK, max(1, len(plan.pending) // (workers * BLOCKS_PER_WORKER)))
    blocks = [
        _requests(plan, plan.pending[first : first + size]) for first in range(0, len(plan.pending), size)
    ]
    outcomes = ray.data.from_arrow(blocks).map_batches(
        ImageScorer,  # type: ignore[arg-type]  # a class with __call__: Ray makes actors of it
        fn_constructor_args=(plan.settings,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=plan.settings.threads,
        num_gpus=1 if session.gpus_possible else 0,
    )
    for table in outcomes.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield cast("pa.Table", table).to_pylist()  # the format asked for


STAGES = {"read": "storage", "decode": "decode", "model": "model", "write": "write"}
"""Timed stages of an image, and what is said to bind a run in which they take longest."""


def summarise(plan: ScorePlan, stopped_by: StoppedBy, seconds: float) -> dict[str, Any]:
    """What summary.json holds (docs/formats.md): totals over the whole ledger, rates of this job alone."""
    totals = plan.ledger.totals(len(plan.card.classes))
    reasons = Counter(
        reason for rows in plan.ledger.quarantine_rows() for reason in rows["reason"].to_pylist()
    )
    scored = plan.ledger.committed
    pixels_per_image = totals.pixels / max(1, totals.images)
    slowest = max(STAGES, key=lambda stage: totals.seconds.get(stage, 0.0))
    return {
        "images_found": len(plan.listing.images),
        "images_scored": scored,
        "images_skipped": plan.skipped,
        "images_quarantined": reasons.total(),
        "images_ignored": plan.listing.ignored,
        "quarantine_reasons": dict(reasons),
        "labelled": totals.labelled,
        "pixels": totals.pixels,
        "classes": plan.card.classes,
        **score_figures(totals.confusion, plan.card.classes),
        "megapixels_per_second": scored * pixels_per_image / 1e6 / seconds,
        "images_per_second": scored / seconds,
        "seconds": seconds,
        "stage_seconds": totals.seconds,
        "bound_by": STAGES[slowest] if totals.images else None,
        "model_sha256": plan.card.provenance["weights_sha256"],
        "stopped_by": stopped_by,
    }
