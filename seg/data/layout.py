"""Images with their labels: pairing by name, and the plain layout (docs/formats.md)."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from seg.data.images import split_page
from seg.data.labels import LabelDecoder, LabelMap
from seg.data.listing import list_images, natural_key, refuse_unlisted, sequence_of
from seg.errors import RequestError

MAX_CLASSES = 255
"""A mask has 8 bits, and its 255 is no class."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set: its name (relative, with '/'), its file, its label's file, its sequence.

    The name of a page of a TIFF ends in '#' and the page; `image` is the file that holds it.
    """

    name: str
    image: Path
    label: Path | None
    """None: it has none, and is there for its neighbours in the sequence."""
    sequence: str
    decoder: LabelDecoder | None = None
    """What reads the label; None: `decode_label`, as the file itself says what it holds."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """What an adapter found in a folder: classes in id order, labelled samples, and what else it knows."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    given_split: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Names for training and for validation; None: the data set does not say."""
    test: tuple[Sample, ...] = ()
    """The data set's own test part; neither trains nor validates."""
    unlabelled: tuple[Sample, ...] = ()
    """Frames without a label between the samples of a sequence."""
    label_map: LabelMap = ()
    """What makes the stored ids final, where nobody says otherwise."""

    def frames(self) -> list[tuple[str, Path, str]]:
        """Name, file and sequence of every frame, labelled or not, in natural order; the test part's not."""
        frames = [(frame.name, frame.image, frame.sequence) for frame in (*self.samples, *self.unlabelled)]
        return sorted(frames, key=lambda frame: natural_key(frame[0]))


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


def label_stem(image: str) -> str:
    """The name of an image's label without its ending: the image's own, and the page of one."""
    file, page = split_page(image)
    return file.removesuffix(Path(file).suffix) + ("" if page is None else f"#{page}")


def _label_names(image: str) -> list[str]:
    stem = label_stem(image)
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

    train.txt and val.txt beside them, a labelled image's name a line, are the split; test.txt sets images
    aside. sequence: the recipe's regular expression. RequestError: not this layout, no labelled image in it,
    a list that does not fit.
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
    if not labels:
        raise RequestError(f"data {root}: none of its {len(listed)} images has a label in {folder.name}/")
    frames = [
        Sample(
            name,
            images / split_page(name)[0],
            folder / labels[name] if name in labels else None,
            sequence_of(name, sequence),
        )
        for name in listed
    ]
    lists = _read_lists(root, labels.keys())
    test = frozenset(lists.get("test.txt", ()))
    return DataSet(
        root,
        read_classes(root / "classes.txt"),
        tuple(frame for frame in frames if frame.label is not None and frame.name not in test),
        (lists["train.txt"], lists["val.txt"]) if "train.txt" in lists else None,
        tuple(frame for frame in frames if frame.name in test),
        tuple(frame for frame in frames if frame.label is None),
    )


def _read_lists(root: Path, labelled: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The names in each of train.txt, val.txt and test.txt that is there. RequestError: a line is wrong."""
    listed_at: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for file in (root / name for name in ("train.txt", "val.txt", "test.txt")):
        if not file.is_file():
            continue
        names = list(read_lines(file))
        for where, name in names:
            if name not in labelled:
                raise RequestError(f"{where}: {name} is no labelled image in {root / 'images'}")
            if name in listed_at:
                raise RequestError(f"{where}: {name} is in {listed_at[name]} too; list it once")
            listed_at[name] = where
        lists[file.name] = tuple(name for _, name in names)
    if ("train.txt" in lists) != ("val.txt" in lists):
        raise RequestError(f"data {root} has only one of train.txt and val.txt; give both, or neither")
    return lists


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a list that are not blank, stripped, each with 'FILE, line N' before it for messages."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def photo_sequence(name: str, pattern: str) -> str:
    """The sequence of a photograph: itself, since it has no neighbours, unless the recipe's pattern says."""
    return sequence_of(name, pattern) if pattern else name


def require_file(path: Path, where: str) -> Path:
    """The same path. RequestError: no file is there; `where` says which line of which list names it."""
    if not path.is_file():
        raise RequestError(f"{where}: {path} is not there")
    return path
