"""Images with their labels: pairing by name, and the plain layout (docs/formats.md)."""

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import nlargest, nsmallest
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.images import split_page
from seg.data.labels import IGNORE, LabelDecoder, LabelMap, decode_label
from seg.data.listing import (
    ending_of,
    is_inside,
    list_files,
    list_images,
    natural_key,
    refuse_unlisted,
    sequence_of,
)
from seg.errors import DataWarning, RequestError
from seg.storage import Place, as_place

MAX_CLASSES = 255
"""A mask has 8 bits, and its 255 is no class."""
LOOK_UPS = 1 << 16
"""Images whose labels are looked for at once."""
MASK_FORMS = 2
"""Of the names that an image's label may have, the first so many are masks."""
NAMED = 3
"""File names that a message gives before it only counts."""
COMPARED = 2000
"""Names at most that are compared with what an image wants: 0.1 s."""
LABEL_FILE = r"(?i)(?:^|/)[^./][^/]*\.(?:png|txt|json)$"
HIDDEN, CLASSES = r"(?:^|/)\.", r"(?:^|/)classes\.txt$"


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

    @property
    def page(self) -> int | None:
        """Which page of `image` it is, where that has several."""
        return split_page(self.name)[1]

    def read_mask(
        self, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The label as a mask, uint8 of the image's own size, as of LabelDecoder; 255 where there is none."""
        if self.label is None:
            return np.full(size, IGNORE, np.uint8)
        decode = self.decoder or decode_label
        return decode(self.label.read_bytes(), self.label, size, classes, label_map)


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


class LabelNames(Mapping[str, str]):
    """Each labelled image's label, relative to the label folder; of a million, their forms alone are held."""

    def __init__(self, forms: dict[str, int]) -> None:
        """forms: of each labelled image, which of `_label_names` it has."""
        self._forms = forms

    def __getitem__(self, image: str) -> str:
        return _label_names(image)[self._forms[image]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    def masks(self) -> list[str]:
        """Images whose label is a mask."""
        return [image for image, form in self._forms.items() if form < MASK_FORMS]


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a list of N images."""

    names: LabelNames
    bytes: NDArray[np.int64]
    """Size of each image's label [N]; -1 where it has none."""
    mtime_ns: NDArray[np.int64]
    """When each image's label was changed last [N]; -1 where it has none."""
    unused: int
    """Files of the label folder that end as labels do and are no image's."""
    links: int = 0
    """Left out of it: links to folders, and links to files outside of it."""

    @classmethod
    def none(cls, images: int) -> "Labels":
        """Labels of so many images that have none."""
        return cls(LabelNames({}), np.full(images, -1), np.full(images, -1), 0)


def pair_labels(images: list[str], folder: Place | Path) -> dict[str, str]:
    """Each labelled image's label, as of `find_labels`, which also says what it raises."""
    return dict(find_labels(images, folder).names)


def find_labels(images: list[str], folder: Place | Path) -> Labels:
    """The images' labels, relative to `folder`: P.ext.png, else P.png, P.txt or P.json.

    A link that leaves the folder is no label. RequestError: `folder` is missing; an image has two candidates,
    or a label two images. DataWarning: there are such links.
    """
    place = as_place(folder)
    links: list[str] = []
    with refuse_unlisted(place):
        require_label_folder(place)
        files, sizes, times = list_files(place, links)
    _warn_of_links(place, links)
    at, forms = np.full(len(images), -1), {}
    for first in range(0, len(images), LOOK_UPS):
        some = images[first : first + LOOK_UPS]
        found = _look_up(some, files)
        _refuse_two(place, some, found)
        at[first : first + len(some)] = found.max(1)
        forms |= {some[k]: int(found[k].argmax()) for k in np.flatnonzero(found.max(1) >= 0)}
    pa.default_memory_pool().release_unused()
    _refuse_shared(place, images, at)
    sizes, times = np.append(sizes, -1), np.append(times, -1)  # the last is that of no label
    unused = _count_label_files(files) - len(forms)
    return Labels(LabelNames(forms), sizes[at], times[at], unused, len(links))


def require_label_folder(place: Place) -> None:
    """RequestError: there is no such folder."""
    if not place.exists():
        raise RequestError(
            f"label folder {place} is no folder; give the folder that holds the masks or boxes"
        )


def _warn_of_links(place: Place, links: list[str]) -> None:
    if links:
        more = f" and {len(links) - 1} more" if links[1:] else ""
        warnings.warn(
            f"labels {place}: left out: {min(links)}{more}, a link out of the label folder or to a folder; "
            "put the files themselves there",
            DataWarning,
            stacklevel=3,
        )


def nearest_labels(images: list[str], labels: Labels, folder: Place | Path) -> str:
    """What the first image without a label would want, and what is there instead, the nearest names first.

    Empty: no file of the folder is without an image.
    """
    place = as_place(folder)
    with refuse_unlisted(place):
        files = list_files(place, [])[0]
    used = pc.SetLookupOptions(pa.array(labels.names.values(), pa.string()))
    unused = files.filter(pc.call_function("invert", [pc.call_function("is_in", [files], used)]))
    for others in (HIDDEN, CLASSES):
        unused = unused.filter(pc.call_function("invert", [_matches(unused, others)]))
    if not unused.length():
        return ""
    endings = Counter(ending_of(name) or "without an ending" for name in unused.to_pylist())
    counts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(NAMED))
    image = next((image for image in images if image not in labels.names), None)
    if image is None:
        return f"unused: {_name(nsmallest(NAMED, unused.to_pylist()), unused.length())} ({counts})"
    *forms, last = dict.fromkeys(_label_names(image))
    near = _name(_find_nearest(unused, forms[0]), unused.length())
    return f"{image} would want {', '.join(forms)} or {last}; unused: {near} ({counts})"


def _find_nearest(names: pa.ChunkedArray, wanted: str) -> list[str]:
    """The names most like the wanted one, best first; those that hold its stem before all others."""
    stem = PurePosixPath(wanted).name.partition(".")[0]
    holding = names.filter(pc.call_function("match_substring", [names], pc.MatchSubstringOptions(stem)))
    compared = {*holding[:COMPARED].to_pylist(), *names[:COMPARED].to_pylist()}

    def likeness(name: str) -> tuple[bool, float]:
        return stem in name, SequenceMatcher(None, name, wanted).ratio()

    return nlargest(NAMED, sorted(compared), likeness)


def _name(names: list[str], total: int) -> str:
    return ", ".join(names) + (", ..." if total > len(names) else "")


def _count_label_files(files: pa.ChunkedArray) -> int:
    """How many of these names end as labels do; hidden ones and classes.txt are none."""
    labels, classes = (files.filter(_matches(files, pattern)).length() for pattern in (LABEL_FILE, CLASSES))
    return labels - classes


def _matches(names: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.call_function("match_substring_regex", [names], pc.MatchSubstringOptions(pattern))


def warn_of_unmatched(images: list[str], labels: Labels, folder: Place | Path) -> None:
    """Say where fewer than half of the label files are an image's label: their names may not be as meant."""
    matched, there = len(labels.names), len(labels.names) + labels.unused
    if matched and 2 * matched >= there:
        return
    if near := nearest_labels(images, labels, folder):
        text = f"labels {folder}: ONLY {matched} of its {there} label files fit an image: {near}"
        warnings.warn(text, DataWarning, stacklevel=2)


def _look_up(images: list[str], files: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where in `files` each form of each image's label is, [N, 4]; -1: it is not there."""
    forms = zip(*map(_label_names, images), strict=True)
    wanted = pc.SetLookupOptions(files)
    found = [pc.call_function("index_in", [pa.array(names, pa.string())], wanted) for names in forms]
    return np.stack([column.fill_null(-1).to_numpy(zero_copy_only=False) for column in found], 1)


def _refuse_two(place: Place, images: list[str], found: NDArray[np.int64]) -> None:
    """RequestError: an image has labels in two forms."""
    for k in np.flatnonzero((found >= 0).sum(1) > 1)[:1]:
        names = [name for name, at in zip(_label_names(images[k]), found[k], strict=True) if at >= 0]
        raise RequestError(f"labels {place}: {images[k]} has two labels, {' and '.join(names)}; remove one")


def _refuse_shared(place: Place, images: list[str], at: NDArray[np.int64]) -> None:
    """RequestError: two images have one label. at: the file of each image's label; -1: it has none."""
    files, counts = np.unique(at[at >= 0], return_counts=True)
    for file in files[counts > 1][:1]:
        sharing = [images[k] for k in np.flatnonzero(at == file)]
        label = next(name for name in _label_names(sharing[0]) if name in _label_names(sharing[1]))
        raise RequestError(
            f"labels {place}: {label} fits {' and '.join(sharing)}; name it after one, as {sharing[0]}.png"
        )


def label_stem(image: str) -> str:
    """The name of an image's label without its ending: the image's own, and the page of one."""
    file, page = split_page(image)
    return file[: len(file) - len(ending_of(file))] + ("" if page is None else f"#{page}")


def _label_names(image: str) -> list[str]:
    stem = label_stem(image)
    return [f"{image}.png", f"{stem}.png", f"{stem}.txt", f"{stem}.json"]


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names of a classes.txt. RequestError: it cannot be read; as of `parse_classes`, `refuse_link`."""
    refuse_link(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}); mend its permissions") from None
    return parse_classes(content, str(file))


def parse_classes(content: bytes, file: str) -> tuple[str, ...]:
    """Class names of a classes.txt, UTF-8, one a line in id order; `file` is for people.

    RequestError: another encoding, an empty or repeated name, or more than ids below 255.
    """
    try:
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{file} is no UTF-8 (its byte {error.start}); save it as UTF-8, one class name a line"
        ) from None
    names = tuple(name.strip() for name in (lines if lines[-1] else lines[:-1]))
    if len(names) > MAX_CLASSES:
        raise RequestError(
            f"{file}: {len(names)} classes, but ids end at {MAX_CLASSES - 1} and 255 is ignored"
        )
    wrong = next((k for k, name in enumerate(names) if not name or name in names[:k]), None if names else 0)
    if wrong is not None:
        raise RequestError(
            f"{file}: class names must be there, one a line, and differ; look at line {wrong + 1}"
        )
    return names


def is_plain_layout(root: Place | Path) -> bool:
    """Whether a folder is laid out as docs/formats.md says: classes.txt beside images/."""
    place = as_place(root)
    return place.stat("classes.txt") is not None and place.below("images").exists()


def label_folder(root: Place | Path) -> str | None:
    """What a plain layout calls the folder of its labels: masks if there, else boxes; None: it has none."""
    place = as_place(root)
    return next((name for name in ("masks", "boxes") if place.below(name).exists()), None)


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
    labels_in = label_folder(root)
    if labels_in is None:
        raise RequestError(
            f"data {root} has no labels: neither masks/ nor boxes/; training needs one of them"
        )
    images, folder = root / "images", root / labels_in
    listed = list_images(images).images
    found = find_labels(listed, folder)
    if not found.names:
        near = ": ".join(filter(None, (f"{folder.name}/", nearest_labels(listed, found, folder))))
        raise RequestError(f"data {root}: none of its {len(listed)} images has a label in {near}")
    warn_of_unmatched(listed, found, folder)
    labels = dict(found.names)
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
                raise RequestError(
                    f"{where}: it names no labelled image of {root / 'images'}; mend this line"
                )
            if name in listed_at:
                raise RequestError(f"{where}: the image is in {listed_at[name]} too; list it once")
            listed_at[name] = where
        lists[file.name] = tuple(name for _, name in names)
    if ("train.txt" in lists) != ("val.txt" in lists):
        raise RequestError(f"data {root} has only one of train.txt and val.txt; give both, or neither")
    return lists


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a list that are not blank, stripped, each with 'FILE, line N' before it for messages.

    RequestError: as of `refuse_link`.
    """
    refuse_link(file)
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def photo_sequence(name: str, pattern: str) -> str:
    """The sequence of a photograph: itself, since it has no neighbours, unless the recipe's pattern says."""
    return sequence_of(name, pattern) if pattern else name


def refuse_link(file: Path) -> None:
    """RequestError: a list is a link out of its folder, whose text would be shown as names of classes."""
    if file.is_symlink() and not is_inside(file, file.parent.resolve()):
        raise RequestError(f"{file} is a link out of its folder; put the file itself there")


def require_file(folder: Path, name: str, where: str) -> Path:
    """The file of that name in a folder. `where`: which field of which line of which list names it.

    RequestError, which does not quote the name: no file is there; the name or a link leads out of the folder.
    """
    path = folder / name
    away = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if away or not is_inside(path, folder.resolve()):
        raise RequestError(f"{where} leads out of {folder}; name files in it, without .. or links")
    try:
        there = path.is_file()
    except OSError:  # a name longer than any file's
        there = False
    if not there:
        raise RequestError(f"{where} names no file in {folder}; mend it, or put the file there")
    return path
