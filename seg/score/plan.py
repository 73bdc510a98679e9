"""A scoring as asked for, checked against what is on disk; nothing is written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from seg.data.background import Backgrounds
from seg.data.colours import ColourMask, read_colours
from seg.data.images import READER, ImageFiles, split_page
from seg.data.labels import IGNORE, LabelMap, map_foreground, open_label, refuse_all_ignored
from seg.data.layout import parse_classes, refuse_link
from seg.data.listing import Listing, Sequences, list_images
from seg.data.pairing import (
    Labels,
    Naming,
    find_labels,
    find_namings,
    nearest_labels,
    warn_of_unmatched,
)
from seg.data.plain import add_boxes, find_exclusions, find_folders, label_folder
from seg.data.splits import file_sha256
from seg.errors import RequestError
from seg.model_card import ModelCard, find_model_file, read_card
from seg.plain_data import Plain
from seg.predict.tiling import Mixing, check_blend
from seg.requests import ScoreRequest
from seg.score.deadline import parse_deadline
from seg.score.exports import refuse_shared_files
from seg.score.notify import parse_notify
from seg.score.paths import check_exports, check_masks, refuse_links
from seg.score.queue import Order, Task
from seg.score.read import ScorerSettings, sequence_file
from seg.storage import Place, refuse_unlisted

LAYOUT = 2
"""How images and labels are found; 1, in folders from before: PNG or boxes, in the images' folders alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorePlan:
    """A request that was checked."""

    settings: ScorerSettings
    card: ModelCard
    listing: Listing
    """The whole archive, whatever `limit` says."""
    asked: int
    """Images asked for: so many of the listing, from its first on."""
    labels: Labels
    """Of the listing's images."""
    sequences: Sequences | None
    """None where neither background nor clip asks for them."""
    identity: Mapping[str, Plain]
    """What run.json holds."""
    deadline: datetime | None

    @property
    def out(self) -> Place:
        """The scores folder."""
        return self.settings.out

    def order(self, task: Task) -> Order:
        """What a worker needs to know of an image."""
        image, found = task.image, self.sequences
        return Order(
            image,
            task.attempt,
            task.alone,
            label=self.labels.names.get(image),
            sequence=found.sequence(image) if found else "",
            earlier=tuple(found.clip(image, self.card.frames)[:-1]) if found else (),
        )

    def belong(self, one: str, other: str) -> bool:
        """Whether neighbours go to one worker: they share a file, or a clip."""
        if self.card.frames > 1 and self.sequences is not None:
            return self.sequences.sequence(one) == self.sequences.sequence(other)
        file, page = split_page(one)
        return page is not None and split_page(other)[0] == file

    def write_sequences(self, images: Iterable[str]) -> None:
        """Note the frames of these images' sequences, once: later arrivals change no background."""
        if self.sequences is None:
            return
        for sequence in dict.fromkeys(self.sequences.sequence(image) for image in images):
            name, place = sequence_file(sequence), self.settings.backgrounds
            if place.stat(name) is None:
                place.write_json(name, {"sequence": sequence, "frames": self.sequences.frames(sequence)})


def plan_scoring(request: ScoreRequest, now: datetime | None = None) -> ScorePlan:
    """Check a request. RequestError: archive, model, labels, numbers or times do not fit each other."""
    _check_numbers(request)
    now = now or datetime.now().astimezone()
    deadline = None if request.deadline is None else parse_deadline(request.deadline, now)
    out, begun = request.out, request.out.read_json("run.json")
    newest = _is_newest(begun)
    with refuse_unlisted(request.archive):
        archive, labels = (find_folders if newest else _find_folders)(request.archive, request.labels)
    _check_outside(out, request.archive)
    models = tuple(map(find_model_file, request.models))
    cards = read_cards(models)
    label_map = _choose_label_map(request)
    card = _with_label_map(cards[0], label_map)
    tiling = card.tiling if request.halo_px is None else replace(card.tiling, halo_px=request.halo_px)
    check_blend(request.blend, tiling)
    if labels is not None:
        with refuse_unlisted(labels):
            _check_classes(labels, card)
    elif request.require_labels:
        raise RequestError(f"`require_labels`: archive {archive} comes without labels; give `labels=DIR`")
    among = find_exclusions(archive, labels, request.label_suffix) if newest else ()
    listing = _list(archive, request, among)
    refuse_links(out)
    asked = listing.images[: request.limit]
    _check_names(out, request, asked)
    colours = request.label_colours and _read_colours(request.label_colours, card)
    labels, found = _find_labels(listing.images, archive, labels, card, request, begun)
    settings = ScorerSettings(
        archive=archive,
        labels=labels,
        out=out,
        masks=request.masks != "none",
        masks_form=find_masks_form(begun) if request.masks == "png" else "gray",
        overlays=request.overlays == "png",
        models=tuple(model.resolve() for model in models),
        tta=request.tta,
        tiling=tiling,
        blend=request.blend,
        batch=request.batch,
        mixing=_find_mixing(begun),
        precision=request.precision,
        threads=request.threads,
        background=request.background and request.background.resolve(),
        label_map=label_map,
        colours=colours,
        require_labels=request.require_labels,
        min_object_px=request.min_object_px,
    )
    return ScorePlan(
        settings=settings,
        card=card,
        listing=listing,
        asked=len(asked),
        labels=found,
        sequences=find_sequences(lambda: listing.images, card, request.background),
        identity=make_identity(settings, card, cards) | _identify_options(request, settings, newest=newest),
        deadline=deadline,
    )


def _identify_options(request: ScoreRequest, settings: ScorerSettings, *, newest: bool) -> dict[str, Plain]:
    """What of an identity only some folders have: how files are found and read, and overlays."""
    return {
        **({"layout": LAYOUT} if newest else {}),
        **({"label_suffix": request.label_suffix} if request.label_suffix else {}),
        **({"label_colours": settings.colours.colours} if settings.colours else {}),
        **({"follow_links": True} if request.follow_links else {}),
        **({"overlays": "png"} if settings.overlays else {}),
    }


def _check_names(out: Place, request: ScoreRequest, images: Sequence[str]) -> None:
    """RequestError: what is to be written of these images has no masks, or no names of its own for a file."""
    if request.masks != "none":
        check_masks(out, images)
    if request.overlays == "png":
        check_masks(out, images, "leave it out with `exclude`, or give `overlays=none`", folder="overlays")
    if request.export == "masks" and request.masks == "none":
        raise RequestError("`export=masks`: with `masks=none` there are none to export; give `masks=png`")
    if request.export in ("yolo", "masks"):
        check_exports(out, images, request.export)
        refuse_shared_files(lambda: images, request.export)


def read_cards(models: Sequence[Path]) -> list[ModelCard]:
    """What each model file says of itself.

    RequestError: a file is damaged, or none of ours; models of an ensemble are not alike, or the same.
    """
    cards = [read_card(model) for model in models]
    for model, card in zip(models[1:], cards[1:], strict=True):
        _check_alike(models[0], cards[0], model, card)
    if len({card.provenance.weights_sha256 for card in cards}) < len(cards):
        raise RequestError("`models`: two files hold the same weights; give each model of an ensemble once")
    return cards


def _choose_label_map(request: ScoreRequest) -> LabelMap | None:
    """What is asked for in place of the model file's; None: nothing is."""
    if request.foreground is None:
        return request.label_map
    for other in ("label_map", "label_colours"):
        if getattr(request, other) is not None:
            raise RequestError(f"`foreground` and `{other}` both say what a mask means; leave one out")
    return map_foreground(request.foreground)


def _read_colours(file: Path, card: ModelCard) -> ColourMask:
    names, colours = read_colours(file)
    if names != card.classes:
        raise RequestError(
            f"`label_colours={file}` names the classes {', '.join(names)} but the model knows "
            f"{', '.join(card.classes)}; give the same, in the same order"
        )
    return colours


def _with_label_map(card: ModelCard, label_map: LabelMap | None) -> ModelCard:
    if label_map is None:
        return card
    _check_label_map(label_map, len(card.classes))
    return replace(card, label_map=label_map)


def _check_alike(first: Path, card: ModelCard, other: Path, its: ModelCard) -> None:
    for name in ("classes", "preprocessing", "statistics", "tiling", "frames", "sequence", "label_map"):
        if getattr(card, name) != getattr(its, name):
            raise RequestError(
                f"model {other}: its {name} are not those of {first}; models of an ensemble see the same "
                "crops and know the same classes: give such that were trained with one recipe and split"
            )


def make_identity(settings: ScorerSettings, card: ModelCard, cards: Sequence[ModelCard]) -> dict[str, Plain]:
    """What makes a scoring this scoring (docs/reference/scores.md); not its workers, limits or times."""
    return {
        "reader": READER,
        "archive": str(settings.archive),
        "labels": settings.labels and str(settings.labels),
        "require_labels": settings.require_labels,
        "model_sha256": _hash_models(cards),
        "classes": card.classes,
        "label_map": card.label_map,
        "preprocessing": asdict(card.preprocessing),
        "statistics": card.statistics and asdict(card.statistics),
        "background": settings.background and file_sha256(settings.background),
        "frames": card.frames,
        "sequence": card.sequence,
        "crop_px": settings.tiling.crop_px,
        "halo_px": settings.tiling.halo_px,
        "blend": settings.blend,
        **({"tta": settings.tta} if settings.tta != "none" else {}),
        "batch": settings.batch,
        **({"passes": "mixed"} if settings.mixing == "mixed" else {}),
        "engine": "torch",
        "precision": settings.precision,
        "threads": settings.threads,
        "min_object_px": settings.min_object_px,
        "masks": "png" if settings.masks else "none",
        **({"masks_form": settings.masks_form} if settings.masks_form != "gray" else {}),
    }


def _hash_models(cards: Sequence[ModelCard]) -> Plain:
    """The sha256 of a model's weights, or of each model's of an ensemble."""
    found = [card.provenance.weights_sha256 for card in cards]
    return found[0] if len(found) == 1 else found


def find_masks_form(begun: Any) -> Literal["palette", "gray"]:
    """How masks are stored: in a folder that was begun with grays as grays, else with a palette.

    begun: its run.json, if it has one.
    """
    return "gray" if isinstance(begun, dict) and "masks_form" not in begun else "palette"


def _find_mixing(begun: Any) -> Mixing:
    """Whether images share passes: not in a folder that was begun before they could, which stays as it is."""
    return "image" if isinstance(begun, dict) and "passes" not in begun else "mixed"


def _is_newest(begun: Any) -> bool:
    """Whether images and labels are found as LAYOUT says. begun: a folder's run.json, if it has one."""
    return begun.get("layout") == LAYOUT if isinstance(begun, dict) else True


def check_counts(request: object, *names: str) -> None:
    """RequestError: one of these fields is given and below 1."""
    for name in names:
        count = getattr(request, name)
        if count is not None and count < 1:
            raise RequestError(f"`{name}` is {count}, below 1; try `{name}=1`")


def _check_numbers(request: ScoreRequest) -> None:
    check_counts(request, "limit", "batch", "threads", "min_object_px")
    if not request.stall_minutes > 0:
        raise RequestError(
            f"`stall_minutes` is {request.stall_minutes:g}, not above 0; try `stall_minutes=10`"
        )
    if request.image_timeout_s is not None and not request.image_timeout_s >= 0:
        raise RequestError(
            f"`image_timeout_s` is {request.image_timeout_s:g}, below 0; try `image_timeout_s=600`, or 0 "
            "for none"
        )
    if request.image_timeout_s and request.workers == 0:
        raise RequestError("`image_timeout_s` ends a worker, and `workers=0` has none; try `workers=1`")
    if request.shard == "crops" and (request.workers == 0 or request.blend != "core"):
        raise RequestError(
            "`shard=crops` spreads an image's cores over workers: not with `workers=0` or `blend=gaussian`"
        )
    if request.notify is not None:
        parse_notify(request.notify)


def _check_outside(out: Place, archive: Place) -> None:
    inside = f"{out.path.rstrip('/')}/".startswith(f"{archive.path.rstrip('/')}/")
    if inside and out.filesystem == archive.filesystem:
        raise RequestError(
            f"`out={out}` lies inside the archive, so masks would become images; move it outside"
        )


def _find_folders(archive: Place, labels: Place | None) -> tuple[Place, Place | None]:
    """Where images and labels are in layout 1."""
    if archive.stat("classes.txt") is None or not archive.below("images").exists():
        return archive, labels
    own = label_folder(archive)
    return archive.below("images"), labels or (archive.below(own) if own else None)


def _list(archive: Place, request: ScoreRequest, among: tuple[str, ...]) -> Listing:
    """The archive's images. among: patterns of labels that lie among them."""
    exclude, links = (*request.exclude, *among), request.follow_links
    listing = list_images(archive, include=request.include, exclude=exclude, follow_links=links)
    if not listing.images:
        seen = ", ".join(f"{count} {kind}" for kind, count in listing.ignored.items()) or "nothing"
        raise RequestError(f"archive {archive} holds no image (found: {seen}); give the folder of the images")
    return listing


def _check_label_map(label_map: LabelMap, num_classes: int) -> None:
    for stored, meant in label_map:
        if not 0 <= stored <= IGNORE or meant not in (*range(num_classes), IGNORE):
            raise RequestError(
                f"`label_map={stored} {meant}`: the first is the id in a mask, 0 to 255, the second one of "
                f"the model's classes, 0 to {num_classes - 1}, or 255 to ignore it; try `label_map=255 1`"
            )


def _find_labels(
    images: list[str],
    archive: Place,
    labels: Place | None,
    card: ModelCard,
    request: ScoreRequest,
    begun: Any,
) -> tuple[Place | None, Labels]:
    """The labels of the whole listing, whatever `limit` says, and the folder from which their names count.

    begun: the run.json of the scores folder, if it has one. RequestError: none of those in `labels` is an
    image's; masks mark nothing. DataWarning: few are.
    """
    if labels is None:
        return None, Labels.none(len(images))
    newest = _is_newest(begun)
    namings = find_namings(request.label_suffix) if newest else (Naming(request.label_suffix),)
    shared = newest and (labels.filesystem, labels.path) == (archive.filesystem, archive.path)
    links = request.follow_links
    found = find_labels(images, labels, namings, holds_images=shared, follow_links=links)
    if request.labels is not None and not found.names:
        what = nearest_labels(images, found, labels) or "it is empty"
        raise RequestError(
            f"`labels={labels}`: no file in it is the label of an image of the archive: {what}; "
            "rename the files after their images, or give the folder that holds the labels"
        )
    warn_of_unmatched(images, found, labels)
    if newest and request.labels is None:
        known = begun.get("labels") if isinstance(begun, dict) else None
        labels, found = add_boxes(images, archive.above, labels, found, follow_links=links, begun=known)
    if request.label_colours is None:
        files, masks = ImageFiles(labels), found.names.masks()
        refuse_all_ignored(
            f"labels {labels}", masks, lambda image: open_label(files, found.names[image]), card.label_map
        )
    return labels, found


def _check_classes(labels: Place, card: ModelCard) -> None:
    for place in (labels, labels.above):
        if place.is_local:
            refuse_link(place.local("classes.txt"))
        content, file = place.read("classes.txt"), f"{place}/classes.txt"
        found = card.classes if content is None else parse_classes(content, file)
        if found != card.classes:
            raise RequestError(
                f"labels {file} names the classes {', '.join(found)} but the model knows "
                f"{', '.join(card.classes)}; give labels or a model with the same classes"
            )


def find_sequences(
    list_all: Callable[[], list[str]], card: ModelCard, background: Path | None
) -> Sequences | None:
    """All images by sequence; None where neither a background nor a clip asks for it: nothing is listed.

    RequestError: `background` is no image; the model's sequence does not match one of the images.
    """
    if background is not None:
        Backgrounds(card.preprocessing, Path(), lambda _: [], background)  # a bad file is refused here
    means = card.preprocessing.background_every > 0 and background is None
    return Sequences(list_all(), card.sequence) if means or card.frames > 1 else None
