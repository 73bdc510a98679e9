"""Which file of a label folder is an image's label: by the image's path or name, with a suffix or without."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from heapq import nlargest, nsmallest
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.formats.tiff import Tiff
from seg.data.images import open_in, split_page
from seg.data.labels import holds_mask
from seg.data.listing import ending_of, list_files
from seg.errors import DataWarning, ImageError, RequestError
from seg.storage import Place, as_place, refuse_unlisted, require_label_folder
from seg.words import plural

LOOK_UPS = 1 << 16
"""Images whose labels are looked for at once."""
NAMED = 3
"""File names that a message gives before it only counts."""
COMPARED = 2000
"""Names at most that are compared with what an image wants: 0.1 s."""
MOST_NAMES = 5
"""Names that a label may have under one naming."""
ENDINGS, OTHER_ENDINGS = ("png", "txt", "json"), ("tif", "tiff", "bmp")
STACKS = ("tif", "tiff")
"""Endings of files whose pages are the labels of an image's pages."""
NOWHERE = ""
"""A name that no file has."""
HIDDEN, CLASSES = r"(?:^|/)\.", r"(?:^|/)classes\.txt$"


@dataclass(frozen=True, slots=True)
class Naming:
    """How the labels of a folder are named after images."""

    suffix: str = ""
    """What stands between an image's name and the ending: _mask."""
    other_masks: bool = False
    """Masks are TIFF or BMP; else PNG, beside boxes in text or JSON."""
    flat: bool = False
    """The folders before an image's name are left out."""
    folder: str = ""
    """What stands before all names: masks/, where the label folder is the one above."""

    @property
    def endings(self) -> tuple[str, ...]:
        """What the names end in."""
        return OTHER_ENDINGS if self.other_masks else ENDINGS

    def names(self, image: str) -> list[str]:
        """The files that may be the image's label, relative to the label folder; as many for each image.

        Of a page the last two are the same page of a stack of masks; of other images, names of no file.
        """
        image = f"{self.folder}{image.rpartition('/')[2] if self.flat else image}"
        stem = f"{label_stem(image)}{self.suffix}"
        names = [f"{stem}.{ending}" for ending in self.endings]
        if not self.other_masks:
            return [f"{image}{self.suffix}.png", *names]
        file, page = split_page(image)
        if page is None:
            return [*names, *[NOWHERE for _ in STACKS]]
        return [*names, *(f"{label_stem(file)}{self.suffix}.{ending}#{page}" for ending in STACKS)]

    @property
    def pattern(self) -> str:
        """Regular expression of the files that may have been meant as labels; hidden ones are none."""
        endings = "|".join(ENDINGS + OTHER_ENDINGS if self.other_masks else ENDINGS)
        return rf"(?:^|/)[^./][^/]*{re.escape(self.suffix)}\.(?i:{endings})$"

    def __str__(self) -> str:
        """In words, as screens have it."""
        *some, last = (f"P{self.suffix}.{ending}" for ending in self.endings)
        return f"{', '.join(some)} or {last} of image P, by {'name alone' if self.flat else 'path'}"


def find_namings(suffix: str = "") -> tuple[Naming, ...]:
    """How labels may be named, in the order of trial: as ever, as TIFF or BMP, and both without folders."""
    return tuple(Naming(suffix, other, flat) for flat in (False, True) for other in (False, True))


NAMINGS = find_namings()


class LabelNames(Mapping[str, str]):
    """Each labelled image's label, relative to the label folder; of a million, their forms alone are held."""

    def __init__(self, forms: dict[str, int], *namings: Naming) -> None:
        """forms: of each labelled image, which of the names it has, of MOST_NAMES that each naming gives."""
        self._forms, self._namings = forms, namings

    def __getitem__(self, image: str) -> str:
        naming, form = divmod(self._forms[image], MOST_NAMES)
        return self._namings[naming].names(image)[form]

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)

    def join(self, others: "LabelNames", folder: str, other_folder: str) -> "LabelNames":
        """Those of two folders, from the folder above them; an image's other label is left out."""
        namings = replace(self._namings[0], folder=folder), replace(others._namings[0], folder=other_folder)
        boxes = {image: form + MOST_NAMES for image, form in others._forms.items()}
        return LabelNames(boxes | self._forms, *namings)

    def masks(self) -> list[str]:
        """Images whose label is a mask."""
        return [image for image, label in self.items() if holds_mask(label)]


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
    naming: Naming = Naming()
    """How the labels are named; the first that was tried where there are none."""

    @classmethod
    def none(cls, images: int) -> "Labels":
        """Labels of so many images that have none."""
        return cls(LabelNames({}, Naming()), np.full(images, -1), np.full(images, -1), 0)


def join_labels(first: Labels, second: Labels, folder: str, other_folder: str) -> Labels:
    """The labels in two folders beside each other, as of `LabelNames.join`: the first's win."""
    own = first.bytes >= 0
    return Labels(
        first.names.join(second.names, folder, other_folder),
        np.where(own, first.bytes, second.bytes),
        np.where(own, first.mtime_ns, second.mtime_ns),
        first.unused + second.unused,
        first.links + second.links,
        first.naming,
    )


def pair_labels(images: list[str], folder: Place | Path) -> dict[str, str]:
    """Each labelled image's label, as ever: P.ext.png, P.png, P.txt or P.json; errors as of `find_labels`."""
    return dict(find_labels(images, folder, (Naming(),)).names)


def find_labels(
    images: list[str],
    folder: Place | Path,
    namings: Sequence[Naming] = NAMINGS,
    *,
    holds_images: bool = False,
    follow_links: bool = False,
) -> Labels:
    """The images' labels, relative to `folder`, by the first of the namings that fits any of them.

    holds_images: the folder is that of the images too, of which none is its own label.
    A link that leaves the folder is no label, unless links are followed. RequestError: `folder` is missing;
    an image has two candidates, or a label two images; a stack of masks has other pages than that of the
    images; links go in a circle. DataWarning: links are left out, or masks of another naming.
    """
    place = as_place(folder)
    links: list[str] = []
    with refuse_unlisted(place):
        require_label_folder(place)
        files, sizes, times = list_files(place, links, follow_links=follow_links)
    _warn_of_links(place, links)
    if holds_images:
        others = _without(files, [split_page(image)[0] for image in images])
        files, sizes, times = files.filter(pa.array(others)), sizes[others], times[others]
    for naming in namings:
        at, forms = _match(place, images, files, naming)
        if forms:
            break
    else:
        naming, at, forms = namings[0], np.full(len(images), -1), {}
    if forms and not naming.other_masks:
        _warn_of_other_masks(place, [images[k] for k in np.flatnonzero(at < 0)], files, naming)
    pa.default_memory_pool().release_unused()
    sizes, times = np.append(sizes, -1), np.append(times, -1)  # the last is that of no label
    unused = _count_label_files(files, naming) - len(np.unique(at[at >= 0]))
    return Labels(LabelNames(forms, naming), sizes[at], times[at], unused, len(links), naming)


def _match(
    place: Place, images: list[str], files: pa.ChunkedArray, naming: Naming
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Where in `files` each image's label is [N], -1 without one; and which of its names it has."""
    at, forms = np.full(len(images), -1), {}
    for first in range(0, len(images), LOOK_UPS):
        some = images[first : first + LOOK_UPS]
        found = _look_up(some, files, naming)
        _refuse_two(place, some, found, naming)
        at[first : first + len(some)] = found.max(1)
        forms |= {some[k]: int(found[k].argmax()) for k in np.flatnonzero(found.max(1) >= 0)}
    _check_shared(place, images, at, LabelNames(forms, naming), naming.suffix)
    return at, forms


def _warn_of_other_masks(place: Place, images: list[str], files: pa.ChunkedArray, naming: Naming) -> None:
    """Say where images without a label have a TIFF or a BMP that would be one if there were no others."""
    other = replace(naming, other_masks=True)
    files = files.filter(_matches(files, rf"\.(?i:{'|'.join(OTHER_ENDINGS)})$"))
    chunks = (images[first : first + LOOK_UPS] for first in range(0, len(images), LOOK_UPS))
    found = [
        some[k]
        for some in (chunks if files.length() else ())
        for k in np.flatnonzero(_look_up(some, files, other).max(1) >= 0)
    ]
    if found:
        warnings.warn(
            f"labels {place}: {plural(len(found), 'image')} without a label would have a TIFF or BMP of that "
            f"name (the first is {found[0]}), which is no mask where others are {', '.join(ENDINGS)}; save "
            "masks as PNG, or put these others elsewhere",
            DataWarning,
            stacklevel=3,
        )


def _without(files: pa.ChunkedArray, images: list[str]) -> NDArray[np.bool_]:
    """Which of the files are none of the images."""
    wanted = pc.SetLookupOptions(pa.array(images, pa.string()))
    return ~pc.call_function("is_in", [files], wanted).to_numpy()


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
    used = pc.SetLookupOptions(pa.array(map(_file_of, labels.names.values()), pa.string()))
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
    *forms, last = dict.fromkeys(filter(None, labels.naming.names(image)))
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


def _count_label_files(files: pa.ChunkedArray, naming: Naming) -> int:
    """How many of these names end as labels do; hidden ones and classes.txt are none."""
    labels = files.filter(_matches(files, naming.pattern))
    return labels.length() - labels.filter(_matches(labels, CLASSES)).length()


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


def _look_up(images: list[str], files: pa.ChunkedArray, naming: Naming) -> NDArray[np.int64]:
    """Where in `files` each name of each image's label is, [N, names]; -1: it is not there."""
    forms = zip(*map(naming.names, images), strict=True)
    wanted = pc.SetLookupOptions(files)
    found = [
        pc.call_function("index_in", [pa.array(map(_file_of, names), pa.string())], wanted) for names in forms
    ]
    return np.stack([column.fill_null(-1).to_numpy(zero_copy_only=False) for column in found], 1)


def _refuse_two(place: Place, images: list[str], found: NDArray[np.int64], naming: Naming) -> None:
    """RequestError: an image has labels in two forms."""
    for k in np.flatnonzero((found >= 0).sum(1) > 1)[:1]:
        names = [name for name, at in zip(naming.names(images[k]), found[k], strict=True) if at >= 0]
        raise RequestError(f"labels {place}: {images[k]} has two labels, {' and '.join(names)}; remove one")


def _file_of(label: str) -> str:
    """The file of a label's name, which may end in a page; most have none, and there are millions."""
    return split_page(label)[0] if "#" in label else label


def _check_shared(
    place: Place, images: list[str], at: NDArray[np.int64], labels: LabelNames, suffix: str
) -> None:
    """RequestError: two images have one label, or a stack of masks has other pages than that of the images.

    at: the file of each image's label; -1: it has none.
    """
    used, counts = np.unique(at[at >= 0], return_counts=True)
    shared = np.flatnonzero(np.isin(at, used[counts > 1]))
    stacks: dict[str, dict[str, str]] = {}
    for image in (images[k] for k in shared):
        label = labels[image]
        first = stacks.setdefault(_file_of(label), {}).setdefault(label, image)
        if first != image:
            raise RequestError(
                f"labels {place}: {label} fits {first} and {image}; name it after one, as {first}{suffix}.png"
            )
    for file, pages in stacks.items():
        _check_pages(place, file, len(pages), split_page(next(iter(pages.values())))[0])


def _check_pages(place: Place, file: str, images: int, stack: str) -> None:
    """RequestError: a stack of masks has more or fewer pages than there are images of its own."""
    try:
        with open_in(place, file) as opened:
            pages = Tiff(opened).num_pages
    except (ImageError, OSError):
        return  # whoever reads a mask of it says why
    if pages != images:
        raise RequestError(
            f"labels {place}: {file} has {plural(pages, 'page')} but {stack} {images}, so that nobody knows "
            "which mask is which image's; make them as many"
        )


def label_stem(image: str) -> str:
    """The name of an image's label without its ending: the image's own, and the page of one."""
    file, page = split_page(image)
    return file[: len(file) - len(ending_of(file))] + ("" if page is None else f"#{page}")
