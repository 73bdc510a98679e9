"""Images with their labels: pairing by name, and the plain layout (docs/formats.md)."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from seg.data.images import split_page
from seg.data.listing import list_images, refuse_unlisted, sequence_of
from seg.errors import RequestError

MAX_CLASSES = 255
"""A mask has 8 bits, and its 255 is no class."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image of a data set: its name (relative, with '/'), its two files, its sequence.

    The name of a page of a TIFF ends in '#' and the page; `image` is the file that holds it.
    """

    name: str
    image: Path
    label: Path
    sequence: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """What an adapter found in a folder: classes in id order, labelled samples, the split if it gives one."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    given_split: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Names for training and for validation."""


def pair_labels(images: list[str], folder: Path) -> dict[str, str]:
    """Each labelled image's label, relative to `folder`: P.ext.png, else P.png, P.txt or P.json.

    RequestError: `folder` is missing; an image has two candidates, or a label two images.
    """
    if not folder.is_dir():
        raise RequestError(
            f"label folder {folder} is no folder; give the folder that holds the masks or boxes"
        )
    there = {
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder, onerror=refuse_unlisted)
        for name in names
    }
    labels: dict[str, str] = {}
    for image in images:
        candidates = [label for label in _label_names(image) if label in there]
        if len(candidates) > 1:
            raise RequestError(
                f"labels {folder}: {image} has two labels, {' and '.join(candidates)}; remove one"
            )
        if candidates:
            labels[image] = candidates[0]
    for label, uses in Counter(labels.values()).items():
        if uses > 1:
            sharing = [image for image in labels if labels[image] == label]
            raise RequestError(
                f"labels {folder}: {label} fits {' and '.join(sharing)}; "
                f"name it after one, as {sharing[0]}.png"
            )
    return labels


def _label_names(image: str) -> list[str]:
    file, page = split_page(image)
    stem = file[: -len(Path(file).suffix)] + ("" if page is None else f"#{page}")
    return [f"{image}.png", f"{stem}.png", f"{stem}.txt", f"{stem}.json"]


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names of a classes.txt, one a line in id order.

    RequestError: an empty or repeated name, or more than ids below 255.
    """
    names = tuple(file.read_text(encoding="utf-8").split("\n"))
    names = names[:-1] if names and not names[-1] else names
    names = tuple(name.strip() for name in names)
    if not names or "" in names or len(set(names)) < len(names):
        raise RequestError(f"{file}: class names must be there, one a line, and differ; found {names}")
    if len(names) > MAX_CLASSES:
        raise RequestError(
            f"{file}: {len(names)} classes, but ids end at {MAX_CLASSES - 1} and 255 is ignored"
        )
    return names


def is_plain_layout(root: Path) -> bool:
    """Whether a folder is laid out as docs/formats.md says: classes.txt beside images/."""
    return (root / "classes.txt").is_file() and (root / "images").is_dir()


def label_folder(root: Path) -> Path | None:
    """Where a plain layout keeps its labels: masks/ if there, else boxes/, else nowhere."""
    return next((root / name for name in ("masks", "boxes") if (root / name).is_dir()), None)


def open_plain(root: Path, sequence: str = "") -> DataSet:
    """The plain layout: images/, masks/ or boxes/, classes.txt. Images without a label are not samples.

    sequence: the recipe's regular expression. RequestError: not this layout, or no labelled image in it.
    """
    if not is_plain_layout(root):
        raise RequestError(
            f"data {root} has no images/ and classes.txt beside it; give a folder in the plain layout"
        )
    folder = label_folder(root)
    if folder is None:
        raise RequestError(
            f"data {root} has no labels: neither masks/ nor boxes/; training needs one of them"
        )
    images = root / "images"
    listed = list_images(images).images
    labels = pair_labels(listed, folder)
    samples = tuple(
        Sample(name, images / split_page(name)[0], folder / labels[name], sequence_of(name, sequence))
        for name in listed
        if name in labels
    )
    if not samples:
        raise RequestError(f"data {root}: none of its {len(listed)} images has a label in {folder.name}/")
    return DataSet(root, read_classes(root / "classes.txt"), samples)
