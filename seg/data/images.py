"""Image files: read once, or of several pages held open; bytes, hash, header, orientation, pixels."""

import errno
import hashlib
import io
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import ModuleType
from typing import BinaryIO
from weakref import finalize

import cv2

from seg.data.formats import bmp, jpeg, npy, png
from seg.data.formats.header import FORMS, UPRIGHT, Header, Pixels, as_pixels, read_exif
from seg.data.formats.tiff import Tiff
from seg.errors import EmptyImage, ImageError, TooLargeImage, UnreadableImage
from seg.storage import FileStat, Place

EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy"})
MAX_FILE_BYTES = 2**31
"""Of a file that is read whole: above all that MAX_PIXELS of 16-bit colours take uncompressed."""
READ_BYTES = 1 << 16
"""Read at once of a file on an object store: the directories of a TIFF are many small reads."""
HASH_BYTES = 1 << 20
KEPT = 4
"""Stacks that stay open, those used last: readers are at two or three at a time."""
MAGIC_BYTES = 8
"""So many tell the format."""
READER = 2
"""Goes up where files give other pixels than before: packs and scores never mix what two readers read.

1, which stands in no file, read TIFF by OpenCV.
"""
READ_ANEW = frozenset({".tif", ".tiff"})
"""Endings of the files that READER reads otherwise than the reader before it."""

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report damage ourselves, with the file


@dataclass(frozen=True)
class FileBytes:
    """A file as it was read, once: hashing and decoding share these bytes."""

    data: bytes
    mtime_ns: int

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def held_bytes(self) -> int:
        """What of the file is in memory."""
        return len(self.data)

    @property
    def orientation(self) -> int:
        """How its camera was held, as of `read_orientation`."""
        return read_orientation(io.BytesIO(self.data))

    def header(self, page: int | None = None) -> Header:
        """What decoding will give, as of `read_header`."""
        return read_header(io.BytesIO(self.data), page)

    def decode(self, page: int | None = None) -> Pixels:
        """Its pixels, as of `decode_image`."""
        return decode_image(self.data, page)

    def content(self, _: int | None = None) -> bytes:
        """All of it."""
        return self.data


def read_file(path: Path) -> FileBytes:
    """Read a file whole, with the modification time it had when it was opened.

    TooLargeImage: it is over MAX_FILE_BYTES, and was not read. OSError: as of `open_file`.
    """
    with open_file(path) as file:
        found = os.fstat(file.fileno())
        _check_bytes(found.st_size)
        return FileBytes(file.read(), found.st_mtime_ns)


def open_file(path: Path) -> BinaryIO:
    """A file to read. OSError: there is none, or it is a folder or a pipe, for whose writer we would wait."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to files this flag means nothing
    mode = os.fstat(handle).st_mode
    if not S_ISREG(mode):
        os.close(handle)
        number, text = (errno.EISDIR, "Is a directory") if S_ISDIR(mode) else (errno.EINVAL, "it is no file")
        raise OSError(number, text, str(path))
    return os.fdopen(handle, "rb")


def open_in(place: Place | None, name: str) -> BinaryIO:
    """The same of a place, of which little is read at a time; None: `name` is a path of this machine."""
    if place is None or place.is_local:
        return open_file(Path(name) if place is None else place.local(name))
    file = place.open(name)
    return io.BufferedReader(file, READ_BYTES)  # pyright: ignore[reportArgumentType]  # all but by type


def read_from(place: Place, name: str) -> FileBytes:
    """Read a file of a place whole. OSError: it is not there, or cannot be read. TooLargeImage: see above.

    On an object store the time is taken first: should the file be replaced meanwhile, it counts as changed.
    """
    if place.is_local:
        return read_file(place.local(name))
    found = _stat(place, name)
    _check_bytes(found.bytes)
    content = place.read(name)
    if content is None:
        raise _missing(place, name)
    return FileBytes(content, found.mtime_ns)


def _stat(place: Place, name: str) -> FileStat:
    found = place.stat(name)
    if found is None:
        raise _missing(place, name)
    return found


def _missing(place: Place, name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{place}/{name}")


def split_page(image: str) -> tuple[str, int | None]:
    """The file of an image's name, and its page: 'a.tif#2' is page 2 of a.tif, 'a.tif' a file of one page."""
    name, mark, page = image.rpartition("#")
    if mark and page.isascii() and page.isdecimal() and Path(name).suffix.lower() in {".tif", ".tiff"}:
        return name, int(page)
    return image, None


def is_read_anew(image: str) -> bool:
    """Whether an image, by its name, has other pixels since READER."""
    return Path(split_page(image)[0]).suffix.lower() in READ_ANEW


def count_pages(file: Path | BinaryIO) -> int:
    """Images in a TIFF; 1 where the file cannot be read, since decoding will say so with its reason."""
    try:
        if isinstance(file, Path):
            with open_file(file) as opened:
                return count_pages(opened)
        if not _is_tiff(file.read(MAGIC_BYTES)):
            return 1
        return Tiff(file).num_pages
    except (ImageError, OSError):
        return 1


def read_header(file: BinaryIO, page: int | None = None) -> Header:
    """What decoding will give, from the file's header, or that of one page of a TIFF, and little else of it.

    ImageError: decoding would refuse the file for this; what is damaged behind the header is not seen.
    """
    start = file.read(MAGIC_BYTES)
    file.seek(0)
    return Tiff(file).header(page) if _is_tiff(start) else _find_format(start, page).read_header(file)


def decode_image(data: bytes, page: int | None = None) -> Pixels:
    """Pixels of an encoded image: uint8 or uint16, [H, W] or RGB [H, W, 3], C order, values as stored.

    data: a PNG, BMP, TIFF, JPEG or NPY file; the content decides, not the name. Values are the stored
    samples, of a palette its colours, of a JPEG the RGB of libjpeg-turbo; no orientation is applied.
    page: of a TIFF with several; None is the first.
    ImageError (its reason goes into the quarantine): nothing to decode, damage, or a kind we do not support.
    """
    if _is_tiff(data[:MAGIC_BYTES]):
        return Tiff(io.BytesIO(data)).decode(page)
    return as_pixels(_find_format(data[:MAGIC_BYTES], page).decode(data))


def _is_tiff(start: bytes) -> bool:
    return start[:4] in FORMS


def _find_format(start: bytes, page: int | None) -> ModuleType:
    """The module that reads a file of one image, by its first bytes. ImageError: there is none."""
    for kind in (png, bmp, jpeg, npy):
        if start.startswith(kind.MAGIC):
            if page:
                raise UnreadableImage(f"the file has no page {page}")
            return kind
    if not start:
        raise EmptyImage("the file has no bytes")
    raise UnreadableImage("the content is no PNG, BMP, TIFF, JPEG or NPY image")


def _check_bytes(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise TooLargeImage(f"the file has {size} bytes, over the limit of {MAX_FILE_BYTES}")


class Stack:
    """A TIFF of several pages, open; any thread may use it."""

    held_bytes = 0
    """What of the file is in memory."""

    def __init__(self, file: BinaryIO, found: FileStat, reopen: Callable[[], BinaryIO]) -> None:
        """found: size and time of the file. reopen: opens it once more, to be hashed beside its pages.

        ImageError: it has no directory that can be read.
        """
        self.num_bytes, self.mtime_ns = found
        self._reopen = reopen
        finalize(self, file.close)  # with the last thread that reads it
        self._hashing, self._sha256 = threading.Lock(), ""
        self.orientation = read_orientation(file)
        self._tiff = Tiff(file)

    @property
    def sha256(self) -> str:
        """Hash of the whole file, in hexadecimal; computed once, while other threads that ask wait."""
        with self._hashing:
            if not self._sha256:
                total = hashlib.sha256()
                with self._reopen() as file:
                    while content := file.read(HASH_BYTES):
                        total.update(content)
                self._sha256 = total.hexdigest()
            return self._sha256

    def header(self, page: int | None) -> Header:
        """What a page holds. ImageError: there is none, or it is no image of ours."""
        return self._tiff.header(page)

    def decode(self, page: int | None) -> Pixels:
        """A page's pixels, as of `decode_image`."""
        return self._tiff.decode(page)

    def samples(self, page: int | None) -> Pixels:
        """The same as stored: of a palette its indices."""
        return self._tiff.samples(page)

    def content(self, page: int | None) -> "Page":
        """A page of it."""
        return Page(self, page)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an open TIFF, to be read when its pixels are asked for."""

    source: Stack | Tiff
    number: int | None

    def header(self) -> Header:
        """What it holds. ImageError: there is none of that number, or it is no image of ours."""
        return self.source.header(self.number)

    def decode(self) -> Pixels:
        """Its pixels, as of `decode_image`."""
        return self.source.decode(self.number)

    def samples(self) -> Pixels:
        """The same as stored: of a palette its indices."""
        return self.source.samples(self.number)


class ImageFiles:
    """Opens the files of images: whole, once, or, of a page of a TIFF, as a stack that stays open."""

    def __init__(self, place: Place | None = None) -> None:
        """place: what names are relative to; None: they are paths of this machine."""
        self.place = place
        self._lock = threading.Lock()
        self._stacks: OrderedDict[str, Stack] = OrderedDict()

    def open(self, file: str | Path, page: int | None = None) -> FileBytes | Stack:
        """A file whose `num_bytes`, `mtime_ns`, `sha256` and pixels are asked for next.

        OSError: it is not there, or cannot be read. ImageError: it is over the limit, or no TIFF at all.
        """
        if page is not None:
            return self._stack(str(file))
        return read_file(Path(file)) if self.place is None else read_from(self.place, str(file))

    def decode(self, file: str | Path, page: int | None = None) -> Pixels:
        """An image's pixels. OSError, ImageError: as of `open` and `decode_image`."""
        return self.open(file, page).decode(page)

    def look(self, file: str | Path, page: int | None = None) -> tuple[Header, int]:
        """What decoding will give, and the orientation that it will not apply, by little of the file.

        OSError, ImageError: as of `open` and `read_header`.
        """
        if page is not None:
            stack = self._stack(str(file))
            return stack.header(page), stack.orientation
        with open_in(self.place, str(file)) as opened:
            return read_header(opened), read_orientation(opened)

    def forget(self, file: str | Path) -> None:
        """Open a stack anew when it is asked for next: its storage failed."""
        with self._lock:
            self._stacks.pop(str(file), None)

    def _stack(self, name: str) -> Stack:
        with self._lock:  # one thread opens a file, the others wait for it
            if name not in self._stacks:
                self._stacks[name] = self._open_stack(name)
            self._stacks.move_to_end(name)
            while len(self._stacks) > KEPT:
                self._stacks.popitem(last=False)
            return self._stacks[name]

    def _open_stack(self, name: str) -> Stack:
        reopen = partial(open_in, self.place, name)
        if self.place is None or self.place.is_local:
            file = reopen()
            state = os.fstat(file.fileno())
            return Stack(file, FileStat(state.st_size, state.st_mtime_ns), reopen)
        found = _stat(self.place, name)
        return Stack(reopen(), found, reopen)


def read_orientation(file: BinaryIO) -> int:
    """The orientation that an image's file carries, from 1 to 8; 1 also where it carries none, or damage.

    Of a JPEG its EXIF, of a PNG its eXIf chunk, of a TIFF its first directory; pixels are as stored all the
    same. Little of the file is read, and nothing is raised: decoding will say what is wrong.
    """
    try:
        file.seek(0)
        start = file.read(MAGIC_BYTES)
        for kind in (jpeg, png):
            if start.startswith(kind.MAGIC):
                return kind.read_orientation(file)
        return read_exif(file)
    except (ImageError, struct.error, OverflowError, ValueError, OSError):  # cut short, or odd offsets
        return UPRIGHT


@dataclass(slots=True)
class Turned:
    """The images of an archive that carry an orientation, for the one warning about them."""

    images: int = 0
    first: str = ""
    """By name, in whatever order they come."""

    def add(self, image: str, orientation: int) -> None:
        """Count an image with its orientation, which may be none."""
        if orientation != UPRIGHT:
            self.images, self.first = self.images + 1, min(self.first or image, image)

    @property
    def warning(self) -> str:
        """What is said; empty where there are none."""
        if not self.images:
            return ""
        are = "1 image carries" if self.images == 1 else f"{self.images} images carry"
        return (
            f"{are} an orientation (the first is {self.first}), which viewers apply and we do not: pixels "
            "are as stored, and labels have to be"
        )
