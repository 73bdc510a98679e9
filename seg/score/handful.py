"""Images named one by one: scored at once in this process, with pictures and tables in place of a ledger."""

import csv
import glob
import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seg.data.images import Turned
from seg.data.listing import list_images
from seg.data.named import list_named
from seg.data.pairing import Labels
from seg.errors import DataWarning, JobSummary, RequestError, StoppedBy
from seg.ledger.outcome import OBJECTS_SCHEMA, FoundObject, Outcome, Quarantined, Scored, to_table
from seg.locks.claim import check_folder, holding
from seg.model_card import find_model_file
from seg.predict.tiling import check_blend
from seg.progress import progress
from seg.requests import PredictRequest
from seg.score.exports import format_objects
from seg.score.paths import check_masks, refuse_links
from seg.score.pipeline import ImageScorer
from seg.score.plan import ScorePlan, check_counts, find_masks_form, find_sequences, make_identity, read_cards
from seg.score.queue import Task
from seg.score.read import ScorerSettings
from seg.storage import as_place
from seg.words import plural

log = logging.getLogger(__name__)

OBJECT_COLUMNS = tuple(name for name in FoundObject._fields if name not in ("image", "class_id", "iou"))
"""Of an object in tables, after its class's name."""
IMAGE_COLUMNS = (
    *("image", "sha256", "height", "width", "channels", "bit_depth", "background_frames", "confidence"),
)
"""Of an image in summary.json, as in a ledger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictSummary(JobSummary):
    """What came of the images."""

    folder: str


def predict_handful(request: PredictRequest) -> PredictSummary:
    """Predict images; write mask, overlay and objects of each as it comes, then objects.csv and summary.json.

    An image that cannot be used is named and left out. What is written is in docs/reference/scores.md.
    RequestError: images, model and folder do not fit each other; nothing is written then.
    """
    began, plan, device = time.monotonic(), plan_handful(request), find_device(request.device)
    images, outcomes = plan.listing.images, list[Outcome]()
    with holding(plan.out, plan.identity, what="predicting"), progress("predicting", len(images)) as advance:
        plan.write_sequences(images)
        with closing(ImageScorer(plan.settings, device)) as scorer:
            for outcome in scorer.score(plan.order(Task(image)) for image in images):
                if isinstance(outcome, Quarantined):
                    log.info(f"{outcome.image} is left out, {outcome.reason}: {outcome.detail}")
                else:
                    write_objects(plan, outcome)
                outcomes.append(outcome)
                advance()
        values = summarise(plan, outcomes) | {"device": device, "seconds": time.monotonic() - began}
        found = [found for one in outcomes if isinstance(one, Scored) for found in one.objects]
        plan.out.write("objects.csv", format_objects(to_table(found, OBJECTS_SCHEMA), plan.card.classes))
        plan.out.write_json("summary.json", values)
    _warn(plan, [one for one in outcomes if isinstance(one, Scored)])
    return PredictSummary(values=values, folder=str(plan.out))


def plan_handful(request: PredictRequest) -> ScorePlan:
    """Check a request, as a scoring of these images alone. RequestError: as of `predict_handful`."""
    check_counts(request, "batch", "threads", "min_object_px")
    listing, archive = list_named(request.images, request.archive)
    models = tuple(map(find_model_file, request.models))
    cards = read_cards(models)
    card = cards[0]
    tiling = card.tiling if request.halo_px is None else replace(card.tiling, halo_px=request.halo_px)
    check_blend(request.blend, tiling)
    settings = ScorerSettings(
        archive=as_place(archive),
        labels=None,
        overlays=request.overlays == "png",
        out=request.out or as_place("predictions"),
        models=tuple(model.resolve() for model in models),
        tta=request.tta,
        tiling=tiling,
        blend=request.blend,
        batch=request.batch,
        precision=request.precision,
        threads=request.threads,
        background=request.background and request.background.resolve(),
        min_object_px=request.min_object_px,
    )
    identity = {"job": "predict"} | make_identity(settings, card, cards)
    if request.out is None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        settings = replace(settings, out=settings.out.below(f"{archive.name or 'root'}-{digest[:8]}"))
    begun = settings.out.read_json("run.json")
    if find_masks_form(begun) == "palette":  # not in the name above, which older folders have as well
        settings = replace(settings, masks_form="palette")
        identity |= {"masks_form": "palette"}
    check_masks(settings.out, listing.images, "or leave it out")
    refuse_links(settings.out)
    check_folder(settings.out, identity)
    plan = ScorePlan(
        settings=settings,
        card=card,
        listing=listing,
        asked=len(listing.images),
        labels=Labels.none(len(listing.images)),
        sequences=find_sequences(lambda: _list_all(settings, listing.images), card, request.background),
        identity=identity,
        deadline=None,
    )
    _explain(plan)
    return plan


def _list_all(settings: ScorerSettings, images: Sequence[str]) -> list[str]:
    """All images of the archive, which may hold `out`. RequestError: it does not hold one of `images`."""
    out, archive = settings.out, settings.archive.local()
    inside = out.is_local and out.local().is_relative_to(archive) and out.local() != archive
    ours = (f"{glob.escape(out.local().relative_to(archive).as_posix())}/*",) if inside else ()
    return list_around(archive, images, exclude=ours)


def list_around(archive: Path, images: Sequence[str], *, exclude: tuple[str, ...] = ()) -> list[str]:
    """All images of a folder. RequestError: not all of `images` are among them."""
    listed = list_images(archive, exclude=exclude).images
    if odd := sorted(set(images).difference(listed)):
        raise RequestError(
            f"{archive}/{odd[0]} is hidden, or a link out of its folder, and so in no sequence, of which the "
            "model asks for other frames; name a copy of it, beside these"
        )
    return listed


def _explain(plan: ScorePlan) -> None:
    """Say what else than an image itself the model goes by."""
    frames, images = plan.card.frames, plan.listing.images
    if plan.sequences is not None and frames > 1:
        short = [image for image in images if len(set(plan.sequences.clip(image, frames))) < frames]
        log.info(
            f"the model sees {frames} frames: an image and those before it in its sequence"
            + (f"; {_name(short)}: the sequence begins here, and its first stands for them" if short else "")
        )
    if plan.sequences is not None and _wants_background(plan):
        log.info("background: the mean of its sequence's frames; `background=FILE` gives a measured one")


def _wants_background(plan: ScorePlan) -> bool:
    return plan.card.preprocessing.background_every > 0 and plan.settings.background is None


def _name(images: Sequence[str]) -> str:
    return images[0] if len(images) == 1 else f"{images[0]} and {len(images) - 1} more"


def find_device(asked: str) -> str:
    """What to predict on, cpu or cuda; auto: a GPU where there is one. RequestError: torch can use none."""
    usable = torch.cuda.is_available()
    if asked == "cuda" and not usable:
        raise RequestError("`device=cuda`: torch finds no GPU that it can use; give `device=cpu`")
    return "cuda" if usable and asked != "cpu" else "cpu"


def write_objects(plan: ScorePlan, row: Scored) -> None:
    """Write objects/IMAGE.csv of an image."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("class", *OBJECT_COLUMNS))
    writer.writerows(_describe(found, plan.card.classes).values() for found in row.objects)
    plan.out.below("objects").write_below(f"{row.image}.csv", table.getvalue().encode())


def _describe(found: FoundObject, classes: Sequence[str]) -> dict[str, Any]:
    return {"class": classes[found.class_id], **{name: getattr(found, name) for name in OBJECT_COLUMNS}}


def summarise(plan: ScorePlan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What summary.json holds of the images, each with its classes and objects."""
    classes = plan.card.classes
    scored = [one for one in outcomes if isinstance(one, Scored)]
    aside = [one for one in outcomes if isinstance(one, Quarantined)]
    kinds = [found.class_id for row in scored for found in row.objects]
    return {
        "images_found": len(outcomes),
        "images_scored": len(scored),
        "images_quarantined": len(aside),
        "pixels": sum(row.pixels for row in scored),
        "classes": classes,
        "class_pixels": {name: sum(row.class_pixels[k] for row in scored) for k, name in enumerate(classes)},
        "class_objects": {name: kinds.count(k) for k, name in enumerate(classes)},
        "images": [
            {name: getattr(row, name) for name in IMAGE_COLUMNS}
            | {"class_pixels": dict(zip(classes, row.class_pixels, strict=True))}
            | {"objects": [_describe(found, classes) for found in row.objects]}
            for row in scored
        ],
        "quarantine": [{"image": one.image, "reason": one.reason, "detail": one.detail} for one in aside],
        "model_sha256": plan.card.provenance.weights_sha256,
        "stopped_by": StoppedBy.FINISHED,
    }


def _warn(plan: ScorePlan, rows: Sequence[Scored]) -> None:
    turned = Turned()
    for row in rows:
        turned.add(row.image, row.orientation)
    if turned.warning:
        warnings.warn(DataWarning(turned.warning), stacklevel=2)
    bare = [row.image for row in rows if not row.background_frames] if _wants_background(plan) else []
    if bare:
        warn_without_background(bare)


def warn_without_background(images: Sequence[str]) -> None:
    """Warn of images that had no background, and whose model was trained with one."""
    warnings.warn(
        DataWarning(
            f"{plural(len(images), 'image')} ({_name(images)}) had no background, which the model was "
            "trained with: too few frames in their sequence; give `background=FILE`"
        ),
        stacklevel=2,
    )
