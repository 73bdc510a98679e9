"""Images and labels in folders: the plain layout, or labels as others write them (docs/reference/data.md)."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Protocol

from seg.data.colours import read_colours
from seg.data.images import EXTENSIONS, split_page
from seg.data.labels import LabelDecoder, holds_mask
from seg.data.layout import DataSet, Sample, read_classes, read_lines
from seg.data.listing import Listing, ending_of, list_images, sequence_of
from seg.data.pairing import (
    Labels,
    find_labels,
    find_namings,
    join_labels,
    nearest_labels,
    warn_of_unmatched,
)
from seg.errors import RequestError, describe_unknown
from seg.storage import Place, as_place
from seg.words import plural

log = logging.getLogger(__name__)

Adapter = Callable[[Path, str], DataSet]
"""Opens a folder, with a recipe's regular expression for sequences."""
DEFAULT_CLASSES = ("background", "object")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRule:
    """Where labels are and how they are written, where that is not the plain layout's way."""

    folder: Path | None = None
    """Holds them, in the folders of the images or in none; None: masks/ or boxes/ beside images/."""
    suffix: str = ""
    """What their names have after the image's: _mask."""
    colours: Path | None = None
    """A table of what the colours of masks mean, as of `read_colours`."""
    classes: tuple[str, ...] = ()
    """Names of the classes after background, where no classes.txt has them."""
    follow_links: bool = False
    """Whether links to folders and out of them count, among images as among labels."""

    @classmethod
    def of(cls, asked: "LabelWords") -> "LabelRule":
        """What a request says of its labels."""
        return cls(
            folder=asked.labels,
            suffix=asked.label_suffix,
            colours=asked.label_colours,
            classes=asked.classes,
            follow_links=asked.follow_links,
        )


class LabelWords(Protocol):
    """What every job that reads labels as others write them is asked of them."""

    @property
    def labels(self) -> Path | None:
        """As LabelRule.folder."""
        ...

    @property
    def label_suffix(self) -> str:
        """As LabelRule.suffix."""
        ...

    @property
    def label_colours(self) -> Path | None:
        """As LabelRule.colours."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """As LabelRule.classes."""
        ...

    @property
    def follow_links(self) -> bool:
        """As LabelRule.follow_links."""
        ...


PLAIN = LabelRule()
"""Of the plain layout."""


@dataclass(frozen=True, slots=True)
class PairedImages:
    """The images of a folder and their labels."""

    images: Path
    """The folder from which the images' names count."""
    listing: Listing
    folder: Path
    """The folder from which the labels' names count."""
    labels: Labels

    @property
    def line(self) -> str:
        """How many images have a label, and how it was found, for the screen."""
        counts = f"{len(self.labels.names)} of {len(self.listing.images)} images have one"
        unused = plural(self.labels.unused, "file")
        return f"labels {self.folder}: {counts}, {self.labels.naming}; {unused} unused"


def is_plain_layout(root: Place | Path) -> bool:
    """Whether a folder is laid out as docs/reference/data.md says: images/ beside labels or classes.txt."""
    place = as_place(root)
    labelled = label_folder(place) is not None or place.stat("classes.txt") is not None
    return labelled and place.below("images").exists()


def label_folder(root: Place | Path) -> str | None:
    """What a plain layout calls the folder of its masks, else that of its boxes; None: it has none."""
    place = as_place(root)
    return next((name for name in ("masks", "boxes") if place.below(name).exists()), None)


def find_folders(root: Place, labels: Place | None = None) -> tuple[Place, Place | None]:
    """Where the images are, and their labels if any: in the plain layout images/ and, unless given, its own.

    With labels given, images/ is also taken where nothing beside it holds images.
    """
    images = root.below("images")
    if is_plain_layout(root):
        own = label_folder(root)
        return images, labels or (root.below(own) if own else None)
    return images if labels and images.exists() and _is_alone(images, root, labels) else root, labels


def _is_alone(images: Place, root: Place, labels: Place) -> bool:
    """Whether no image, and no folder but the labels', lies beside the folder of the images."""
    others = [name for name in root.entries() if not name.startswith(".") and root.below(name) != images]
    return not any(
        ending_of(name) in EXTENSIONS or (root.below(name) != labels and root.below(name).exists())
        for name in others
    )


def add_boxes(
    images: list[str],
    root: Place,
    folder: Place,
    masks: Labels,
    *,
    follow_links: bool = False,
    begun: str | None = None,
) -> tuple[Place, Labels]:
    """The masks of a plain layout and, where boxes/ lies beside masks/, the boxes of images without a mask.

    Where there are such, names count from `root`, which is given in place of masks/, and how many there are
    is said; else both are as they were. begun: the folder from which names have counted so far, and will.
    """
    boxes, beside = root.below("boxes"), folder.path == root.below("masks").path
    if not beside or begun not in (None, str(root)) or not boxes.exists():
        return folder, masks
    found = find_labels(images, boxes, follow_links=follow_links)
    added = sum(image not in masks.names for image in found.names)
    if not added and begun is None:
        return folder, masks
    log.info(
        f"labels {root}: {plural(len(masks.names), 'mask')}, and boxes of {plural(added, 'image')} without "
        f"one; `labels={folder}` leaves the boxes out"
    )
    return root, join_labels(masks, found, "masks/", "boxes/")


def find_exclusions(images: Place, labels: Place | None, suffix: str) -> tuple[str, ...]:
    """Shell patterns of the labels that lie among the images, so that they are not taken for some."""
    if labels is None or labels.filesystem != images.filesystem:
        return ()
    if labels.path == images.path:
        return tuple(f"*{escape(suffix)}{ending}" for ending in sorted(EXTENSIONS)) if suffix else ()
    inside = labels.path.removeprefix(f"{images.path.rstrip('/')}/")
    return () if inside == labels.path else (f"{escape(inside)}/*",)


def pair_images(root: Path, rule: LabelRule = PLAIN) -> PairedImages:
    """The images of a folder, in the plain layout or not, each with its label if it has one.

    RequestError: there are neither labels nor word of where they are, no image, or none with a label; errors
    as of `list_images` and `find_labels`. DataWarning: as of `find_labels`, `warn_of_unmatched`.
    """
    images, folder = find_folders(as_place(root), rule.folder and as_place(rule.folder))
    if folder is None:
        raise RequestError(
            f"data {root} has no labels: neither masks/ nor boxes/ beside images/; give the folder that "
            "holds them, `labels=DIR`"
        )
    among = find_exclusions(images, folder, rule.suffix)
    listing = list_images(images, exclude=among, follow_links=rule.follow_links)
    if not listing.images:
        seen = ", ".join(f"{count} {kind}" for kind, count in listing.ignored.items()) or "nothing"
        raise RequestError(f"data {images} holds no image (found: {seen}); give the folder that holds them")
    shared = folder.path == images.path
    namings, links = find_namings(rule.suffix), rule.follow_links
    found = find_labels(listing.images, folder, namings, holds_images=shared, follow_links=links)
    if found.names:
        warn_of_unmatched(listing.images, found, folder)
    if rule.folder is None:
        folder, found = add_boxes(listing.images, as_place(root), folder, found, follow_links=links)
    if not found.names:
        near = nearest_labels(listing.images, found, folder)
        where = f"{folder}" if rule.folder else f"{folder.local().name}/"
        raise RequestError(
            f"data {root}: none of its {len(listing.images)} images has a label in "
            + ": ".join(filter(None, (where, near)))
        )
    return PairedImages(images.local(), listing, folder.local(), found)


def choose_adapter(name: str, adapters: Mapping[str, Adapter], rule: LabelRule = PLAIN) -> Adapter:
    """What opens a data set of that name, where labels are as the rule says.

    RequestError: there is none of that name, or it is not plain and knows by itself where its labels are.
    """
    if name not in adapters:
        raise RequestError(describe_unknown("dataset", name, adapters))
    if name == "plain":
        return partial(open_plain, rule=rule)
    fields = ("labels", "label_suffix", "label_colours", "classes", "follow_links")
    for field, own in zip(fields, astuple(rule), strict=True):
        if own:
            raise RequestError(
                f"`{field}` is for `dataset=plain`: {name} knows where its labels are; leave it out"
            )
    return adapters[name]


def open_plain(
    root: Path, sequence: str = "", rule: LabelRule = PLAIN, paired: PairedImages | None = None
) -> DataSet:
    """The plain layout, images/ and masks/ or boxes/; or images with labels as the rule says.

    train.txt and val.txt in the folder, a labelled image's name a line, are the split; test.txt sets images
    aside. Images without a label are not samples. sequence: the recipe's regular expression; paired: what
    `pair_images` gave, where it was asked before. RequestError: as of `pair_images`, `choose_classes`; a list
    that does not fit.
    """
    paired = paired or pair_images(root, rule)
    classes, decoder = choose_classes(root, paired.folder, rule)
    if rule.folder or rule.suffix:
        log.info(paired.line)
    labels = dict(paired.labels.names)
    frames = [
        Sample(
            name,
            paired.images / split_page(name)[0],
            paired.folder / labels[name] if name in labels else None,
            sequence_of(name, sequence),
            decoder if name in labels and holds_mask(labels[name]) else None,
        )
        for name in paired.listing.images
    ]
    lists = _read_lists(root, paired.images, labels.keys())
    test = frozenset(lists.get("test.txt", ()))
    return DataSet(
        root,
        classes,
        tuple(frame for frame in frames if frame.label is not None and frame.name not in test),
        (lists["train.txt"], lists["val.txt"]) if "train.txt" in lists else None,
        tuple(frame for frame in frames if frame.name in test),
        tuple(frame for frame in frames if frame.label is None),
        labels=paired.folder,
    )


def choose_classes(
    root: Path, folder: Path, rule: LabelRule = PLAIN
) -> tuple[tuple[str, ...], LabelDecoder | None]:
    """Class names in id order, and what reads masks whose colours are classes, else None.

    The names are those of classes.txt beside the images, else among the labels, else the rule's; without any,
    background and object. RequestError: as of `read_classes`, `read_colours`; they contradict each other.
    """
    if rule.colours is None:
        asked = ("background", *rule.classes) if rule.classes else None
        return _name_classes(root, folder, "`classes`", asked), None
    if rule.classes:
        raise RequestError("`label_colours` names the classes, and so does `classes`; leave one of them out")
    names, decoder = read_colours(rule.colours)
    return _name_classes(root, folder, f"`label_colours={rule.colours}`", names), decoder


def _name_classes(root: Path, folder: Path, source: str, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes of a classes.txt, which may not contradict those that a source asks for."""
    files = (root / "classes.txt", folder / "classes.txt")
    file = next((file for file in files if file.is_symlink() or file.is_file()), None)
    if file is None:
        return asked or DEFAULT_CLASSES
    classes = read_classes(file)
    if asked and asked != classes:
        raise RequestError(
            f"{file} names the classes {', '.join(classes)} but {source} asks for {', '.join(asked)}; leave "
            "one of them out"
        )
    return classes


def _read_lists(root: Path, images: Path, labelled: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The names in each of train.txt, val.txt and test.txt that is there. RequestError: a line is wrong."""
    listed_at: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for file in (root / name for name in ("train.txt", "val.txt", "test.txt")):
        if not file.is_file():
            continue
        names = list(read_lines(file))
        for where, name in names:
            if name not in labelled:
                raise RequestError(f"{where}: it names no labelled image of {images}; mend this line")
            if name in listed_at:
                raise RequestError(f"{where}: the image is in {listed_at[name]} too; list it once")
            listed_at[name] = where
        lists[file.name] = tuple(name for _, name in names)
    if ("train.txt" in lists) != ("val.txt" in lists):
        raise RequestError(f"data {root} has only one of train.txt and val.txt; give both, or neither")
    return lists
