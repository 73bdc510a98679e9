"""How a camera says its image was held (EXIF), which we read and never apply: pixels are as stored."""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from seg.data.formats.jpeg import STANDALONE

UPRIGHT = 1
"""Rows from the top, columns from the left: as stored."""
ORIENTATION = 274
"""Tag (TIFF 6.0, section 8; EXIF 2.3, section 4.6.4), a number from 1 to 8."""
MOST_PARTS = 4096
"""Segments, chunks or tags that are looked through before the image counts as upright."""
EXIF = b"Exif\0\0"


@dataclass(slots=True)
class Turned:
    """The images of an archive that carry an orientation, for the one warning about them."""

    images: int = 0
    first: str = ""

    def add(self, image: str, orientation: int) -> None:
        """Count an image with its orientation, which may be none."""
        if orientation != UPRIGHT:
            self.images, self.first = self.images + 1, self.first or image

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


def orientation_of(data: bytes) -> int:
    """The orientation that an image's file carries, from 1 to 8; 1 also where it carries none, or damage.

    Of a JPEG its EXIF, of a PNG its eXIf chunk, of a TIFF its first directory. Never raises.
    """
    return read_orientation(BytesIO(data))


def read_orientation(file: BinaryIO) -> int:
    """The same of an open file, of which little is read; 1 where that cannot be, as decoding will say it."""
    try:
        start = _read(file, 0, "8s")[0]
        if start.startswith(b"\xff\xd8"):
            return _of_jpeg(file)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _of_png(file)
        return _of_tiff(file, 0)
    except (struct.error, OverflowError, ValueError, OSError):  # cut short, or offsets that lead nowhere
        return UPRIGHT


def _of_jpeg(file: BinaryIO) -> int:
    """Marker segments until the first scan (ITU T.81, section B.1.1; EXIF 2.3, section 4.7.2)."""
    place = 2
    for _ in range(MOST_PARTS):
        prefix, marker = _read(file, place, ">BB")
        if prefix != 0xFF or marker in (0xD9, 0xDA):
            break
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        length = 0 if marker in STANDALONE else _read(file, place + 2, ">H")[0]
        if marker == 0xE1 and file.read(len(EXIF)) == EXIF:
            return _of_tiff(BytesIO(file.read(max(0, length - 2 - len(EXIF)))), 0)
        place += 2 + length
    return UPRIGHT


def _of_png(file: BinaryIO) -> int:
    """Chunks until the eXIf one (PNG, third edition, section 11.3.3.6)."""
    place = 8
    for _ in range(MOST_PARTS):
        length, kind = _read(file, place, ">I4s")
        if kind == b"eXIf":
            return _of_tiff(file, place + 8)
        if kind == b"IEND":
            break
        place += 12 + length
    return UPRIGHT


def _of_tiff(file: BinaryIO, base: int) -> int:
    """The first directory of a TIFF that begins at `base`, classic or BigTIFF, in either byte order."""
    mark = _read(file, base, "4s")[0]
    order = {b"II": "<", b"MM": ">"}.get(mark[:2])
    version = 0 if order is None else struct.unpack(f"{order}H", mark[2:])[0]
    if order is None or version not in (42, 43):
        return UPRIGHT
    big = version == 43
    (place,) = _read(file, base + (8 if big else 4), f"{order}{'Q' if big else 'I'}")
    (count,) = _read(file, base + place, f"{order}{'Q' if big else 'H'}")
    first, step = base + place + (8 if big else 2), 20 if big else 12
    for entry in range(min(count, MOST_PARTS)):
        tag, kind = _read(file, first + entry * step, f"{order}HH")
        if tag == ORIENTATION:
            value = first + entry * step + (12 if big else 8)
            (found,) = _read(file, value, f"{order}{'I' if kind == 4 else 'H'}")
            return found if kind in (3, 4) and 1 <= found <= 8 else UPRIGHT
    return UPRIGHT


def _read(file: BinaryIO, place: int, form: str) -> tuple[Any, ...]:
    """Values at a place. struct.error: the file ends before."""
    file.seek(place)
    return struct.unpack(form, file.read(struct.calcsize(form)))
