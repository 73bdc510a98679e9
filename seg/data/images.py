"""One image file, read once: bytes, hash, header, pixels."""

import errno
import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

import cv2

from seg.data.formats import bmp, jpeg, npy, png
from seg.data.formats.header import Header, Pixels, as_pixels
from seg.data.formats.tiff import FORMS, Tiff
from seg.data.orientation import orientation_of
from seg.errors import EmptyImage, ImageError, TooLargeImage, UnreadableImage
from seg.storage import Place

EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy"})
MAX_FILE_BYTES = 2**31
"""Of a file that is read whole: above all that MAX_PIXELS of 16-bit colours take uncompressed."""
READ_BYTES = 1 << 16
"""Read at once of a file on an object store: the directories of a TIFF are many small reads."""
MAGIC_BYTES = 8
"""So many tell the format."""
READER = 2
"""Goes up where files give other pixels than before: packs and scores never mix what two readers read.

1, which stands in no file, read TIFF by OpenCV.
"""

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
        """How its camera was held, as of `orientation_of`."""
        return orientation_of(self.data)

    def header(self, page: int | None = None) -> Header:
        """What decoding will give, as of `read_header`."""
        return read_header(io.BytesIO(self.data), page)

    def decode(self, page: int | None = None) -> Pixels:
        """Its pixels, as of `decode_image`."""
        return decode_image(self.data, page)


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


def open_buffered(place: Place, name: str) -> BinaryIO:
    """A file on an object store, read here and there in. FileNotFoundError: there is none."""
    file = place.open(name)
    return io.BufferedReader(file, READ_BYTES)  # pyright: ignore[reportArgumentType]  # all but by type


def read_from(place: Place, name: str) -> FileBytes:
    """Read a file of a place whole. OSError: it is not there, or cannot be read. TooLargeImage: see above.

    On an object store the time is taken first: should the file be replaced meanwhile, it counts as changed.
    """
    if place.is_local:
        return read_file(place.local(name))
    found = place.stat(name)
    _check_bytes(found.bytes if found else 0)
    content = place.read(name)
    if found is None or content is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{place}/{name}")
    return FileBytes(content, found.mtime_ns)


def split_page(image: str) -> tuple[str, int | None]:
    """The file of an image's name, and its page: 'a.tif#2' is page 2 of a.tif, 'a.tif' a file of one page."""
    name, mark, page = image.rpartition("#")
    if mark and page.isascii() and page.isdecimal() and Path(name).suffix.lower() in {".tif", ".tiff"}:
        return name, int(page)
    return image, None


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
    if _is_tiff(start):
        return Tiff(file).header(page)
    for kind in (png, bmp, jpeg, npy):
        if start.startswith(kind.MAGIC):
            _refuse_page(page)
            return kind.read_header(file)
    raise _unknown(start)


def decode_image(data: bytes, page: int | None = None) -> Pixels:
    """Pixels of an encoded image: uint8 or uint16, [H, W] or RGB [H, W, 3], C order, values as stored.

    data: a PNG, BMP, TIFF, JPEG or NPY file; the content decides, not the name. Values are the stored
    samples, of a palette its colours, of a JPEG the RGB of libjpeg-turbo; no orientation is applied.
    page: of a TIFF with several; None is the first.
    ImageError (its reason goes into the quarantine): nothing to decode, damage, or a kind we do not support.
    """
    if _is_tiff(data[:MAGIC_BYTES]):
        return Tiff(io.BytesIO(data)).decode(page)
    for kind in (png, bmp, jpeg, npy):
        if data.startswith(kind.MAGIC):
            _refuse_page(page)
            return as_pixels(kind.decode(data))
    raise _unknown(data[:MAGIC_BYTES])


def _is_tiff(start: bytes) -> bool:
    return start[:4] in FORMS


def _refuse_page(page: int | None) -> None:
    if page:
        raise UnreadableImage(f"the file has no page {page}")


def _unknown(start: bytes) -> ImageError:
    if not start:
        return EmptyImage("the file has no bytes")
    return UnreadableImage("the content is no PNG, BMP, TIFF, JPEG or NPY image")


def _check_bytes(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise TooLargeImage(f"the file has {size} bytes, over the limit of {MAX_FILE_BYTES}")
