"""Which files of an archive are images, in natural order, and which were left aside."""

import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.images import EXTENSIONS, count_pages, open_in, split_page
from seg.errors import RequestError
from seg.storage import Place, as_place, refuse_unlisted, require_archive, scan_folder
from seg.threads import map_ahead

HEADERS_AT_ONCE = 16
"""TIFFs whose pages are counted at the same time: on a server each is a wait."""
KEYS_AT_ONCE = 1 << 16
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Listing:
    """An archive's images, relative to it with '/', in natural order; and what was ignored, by extension."""

    images: list[str]
    ignored: dict[str, int]
    bytes: NDArray[np.int64]
    """Size of each image's file [N]; the pages of a TIFF have one file."""
    mtime_ns: NDArray[np.int64]
    """When each image's file was changed last [N]."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def first(self, count: int | None) -> "Listing":
        """The same with the first images alone; None: with all."""
        bytes_, mtime_ns = self.bytes[:count], self.mtime_ns[:count]
        return replace(self, images=self.images[:count], bytes=bytes_, mtime_ns=mtime_ns)

    def covers(self, image: str) -> bool:
        """Whether an image of this name, were it there, would be listed."""
        return _is_wanted(split_page(image)[0], self.include, self.exclude)


def natural_key(name: str) -> str:
    """Sort key under which digit runs compare as numbers: frame-9 before frame-10.

    One string: digits are led by how many they are without leading zeros, which decide between equal numbers.
    """
    return _DIGITS.sub(_number_key, name)


def _number_key(match: re.Match[str]) -> str:
    digits = str(int(match[0]))  # NUL is in no name and before all that is
    return f"\0{chr(len(digits))}{digits}{match[0]}\0"


def natural_order(names: Sequence[str]) -> NDArray[np.int64]:
    """Places of the names in natural order. The keys lie outside Python: of a million, 0.1 GB and not one."""
    keys = [
        pa.array(map(natural_key, names[first : first + KEYS_AT_ONCE]), pa.string())
        for first in range(0, len(names), KEYS_AT_ONCE)
    ]
    places = pc.call_function("sort_indices", [pa.chunked_array(keys, pa.string())])
    return places.to_numpy().view(np.int64)


def list_images(
    archive: Place | Path,
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    follow_links: bool = False,
) -> Listing:
    """List the images of an archive (docs/reference/data.md); pages of a TIFF are 'a.tif#0', 'a.tif#1', ...

    include, exclude: shell patterns on the relative path; empty: everything, nothing. follow_links: those to
    folders, and out of the archive, too.
    RequestError: no such folder, or one in it that cannot be listed; an image whose name is no UTF-8; links
    that go in a circle.
    """
    place, ignored = as_place(archive), Counter[str]()
    files: list[str] = []
    sizes, times = array("q"), array("q")
    with refuse_unlisted(place):
        require_archive(place)
        for name, size, mtime_ns in _walk(place, ignored, follow_links=follow_links):
            if not _is_wanted(name, include, exclude):
                ignored[ending_of(name)] += 1
                continue
            files.append(name)
            sizes.append(size)
            times.append(mtime_ns)
        pages = _count_pages(place, files)
    images = _name_pages(files, pages)
    order = _order(place, images)
    pa.default_memory_pool().release_unused()  # the sort keys are larger than the names
    return Listing(
        [images[place] for place in order],
        dict(sorted((+ignored).items())),
        np.repeat(np.array(sizes, np.int64), pages)[order],
        np.repeat(np.array(times, np.int64), pages)[order],
        include,
        exclude,
    )


def list_files(
    place: Place, links: list[str], *, follow_links: bool = False
) -> tuple[pa.ChunkedArray, NDArray[np.int64], NDArray[np.int64]]:
    """Names of all files of a place that are UTF-8, their sizes, and when they were changed, in no order.

    Left out, unless they are followed, are links to folders and links that leave the place; their names are
    added to `links`. RequestError: followed, they go in a circle.
    """
    chunks: list[pa.Array] = []
    names: list[str] = []
    sizes, times = array("q"), array("q")
    local = place.is_local
    files = _list_local(place.local(), links, follow_links=follow_links) if local else place.files()
    for name, size, mtime_ns in files:
        if not is_text(name):
            continue
        names.append(name)
        sizes.append(size)
        times.append(mtime_ns)
        if len(names) == KEYS_AT_ONCE:
            chunks.append(pa.array(names, pa.string()))
            names.clear()
    chunks.append(pa.array(names, pa.string()))
    return pa.chunked_array(chunks), np.array(sizes, np.int64), np.array(times, np.int64)


def ending_of(name: str) -> str:
    """What a file's name ends in, from its last dot on, in small letters; empty without one."""
    stem, _, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def _order(place: Place, images: list[str]) -> NDArray[np.int64]:
    try:
        return natural_order(images)
    except UnicodeEncodeError:
        name = next(image for image in images if not is_text(image))
        raise RequestError(
            f"archive {place}: the name {name!a} is no UTF-8; rename or `exclude` it"
        ) from None


def is_text(name: str) -> bool:
    """Whether a name is UTF-8, which alone Parquet and JSON hold."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _is_wanted(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    wanted = not include or any(fnmatch(name, pattern) for pattern in include)
    return wanted and not any(fnmatch(name, pattern) for pattern in exclude)


def _count_pages(place: Place, files: list[str]) -> NDArray[np.int64]:
    """How many images each file is."""
    pages = np.ones(len(files), np.int64)
    tiffs = [number for number, name in enumerate(files) if ending_of(name) in {".tif", ".tiff"}]
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        names = (files[number] for number in tiffs)
        for number, count in zip(
            tiffs, map_ahead(pool, partial(_read_pages, place), names, HEADERS_AT_ONCE), strict=True
        ):
            pages[number] = count
    return pages


def _read_pages(place: Place, name: str) -> int:
    if place.is_local:
        return count_pages(place.local(name))
    with open_in(place, name) as file:
        return count_pages(file)


def _name_pages(files: list[str], pages: NDArray[np.int64]) -> list[str]:
    if (pages == 1).all():
        return files
    images: list[str] = []
    for name, count in zip(files, pages.tolist(), strict=True):
        images += [name] if count == 1 else [f"{name}#{page}" for page in range(count)]
    return images


def _walk(place: Place, ignored: Counter[str], *, follow_links: bool) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of an archive's images; all else outside hidden folders is counted."""
    if place.is_local:
        yield from _walk_local(place.local(), ignored, follow_links=follow_links)
        return
    for file in place.files():
        if any(folder.startswith(".") for folder in file[0].split("/")[:-1]):
            continue
        if kind := _kind_ignored(file[0]):
            ignored[kind] += 1
        else:
            yield file


def _walk_local(root: Path, ignored: Counter[str], *, follow_links: bool) -> Iterator[tuple[str, int, int]]:
    """The same on this machine, where there are links too."""
    top = root.resolve()
    for name, entry in scan_folder(root, hidden=False, follow_links=follow_links):
        if entry.is_dir():
            ignored["(link)"] += 1
        elif kind := _kind_ignored(name):
            ignored[kind] += 1
        elif entry.is_symlink() and not follow_links and not is_inside(root / name, top):
            ignored["(link)"] += 1
        else:
            yield name, *_stat(entry)


def _list_local(root: Path, links: list[str], *, follow_links: bool) -> Iterator[tuple[str, int, int]]:
    top = root.resolve()
    for name, entry in scan_folder(root, follow_links=follow_links):
        leads_out = entry.is_symlink() and (entry.is_dir() or not is_inside(root / name, top))
        if leads_out and not follow_links:
            links.append(name)
        elif entry.is_file():
            found = entry.stat()
            yield name, found.st_size, found.st_mtime_ns


def is_inside(file: Path, folder: Path) -> bool:
    """Whether a file is in a folder or below it, once all links on its way are followed; folder: resolved."""
    try:
        return file.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no name that a file can have
        return False


def _stat(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and time of a file; zeros where a link leads nowhere: reading it will say so."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _kind_ignored(name: str) -> str:
    """What a file is counted as that is no image; empty for an image."""
    if name.rpartition("/")[2].startswith("."):
        return "(hidden)"
    ending = ending_of(name)
    return "" if ending in EXTENSIONS else ending or "(none)"


def sequence_of(image: str, pattern: str = "") -> str:
    """The sequence an image belongs to: its folder, or its file where it is a page of one.

    pattern: a recipe's regular expression on the relative path; its first group, else its whole match, is the
    sequence. RequestError: it does not match.
    """
    if pattern:
        match = re.search(pattern, image)
        if match is None:
            raise RequestError(
                f"recipe: sequence {pattern!r} does not match {image}; mend the regular expression"
            )
        return next(found for found in (*match.groups()[:1], match[0]) if found is not None)
    file, page = split_page(image)
    return Path(image).parent.as_posix() if page is None else file


def sequence_key(sequence: str) -> str:
    """A name for files about a sequence: 16 hexadecimal digits of its name's sha256."""
    return hashlib.sha256(sequence.encode()).hexdigest()[:16]


class Sequences:
    """An archive's images by sequence, in the archive's order."""

    def __init__(self, images: Iterable[str], pattern: str = "") -> None:
        """`pattern`: a model's regular expression. RequestError: it does not match one of the images."""
        self._frames: dict[str, list[str]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        for image in images:
            sequence = sequence_of(image, pattern)
            frames = self._frames.setdefault(sequence, [])
            self._places[image] = sequence, len(frames)
            frames.append(image)

    def sequence(self, image: str) -> str:
        """The sequence an image belongs to."""
        return self._places[image][0]

    def frames(self, sequence: str) -> list[str]:
        """The images of a sequence."""
        return self._frames[sequence]

    def clip(self, image: str, frames: int) -> list[str]:
        """The `frames` images that end with this one; the sequence's first repeats at its start."""
        sequence, place = self._places[image]
        return [self._frames[sequence][k] for k in clip_places(place, frames)]


def clip_places(place: int, frames: int) -> list[int]:
    """Places i-K+1 .. i of the clip of K `frames` that ends at `place`; none is below 0."""
    return [max(0, place - back) for back in range(frames - 1, -1, -1)]
