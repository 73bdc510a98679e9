"""What an image file says of itself before its pixels, and the limits that every format keeps."""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seg.errors import EmptyImage, TooLargeImage

MAX_PIXELS = 2**28
"""A header that announces more is refused before anything is allocated (16384 x 16384)."""
MAX_SIDE_PX = 2**20
"""The longest side that OpenCV decodes."""

UPRIGHT = 1
"""Rows from the top, columns from the left: as stored."""
ORIENTATION = 274
"""Tag (TIFF 6.0, section 8; EXIF 2.3, section 4.6.4), a number from 1 to 8."""
MOST_PARTS = 4096
"""Segments, chunks or tags that are looked through before the image counts as upright."""


class Form(NamedTuple):
    """How numbers are stored in a TIFF's directory, for `struct`."""

    number: str
    """How many fields a directory has."""
    field: str
    """Tag, type, number of values."""
    offset: str


FORMS = {
    b"II*\0": Form("<H", "<HHI", "<I"),
    b"MM\0*": Form(">H", ">HHI", ">I"),
    b"II+\0": Form("<Q", "<HHQ", "<Q"),
    b"MM\0+": Form(">Q", ">HHQ", ">Q"),
}
"""By a TIFF's first bytes."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""[H, W] or, in RGB order, [H, W, 3]."""


def as_pixels(array: NDArray[np.generic]) -> Pixels:
    """The same array in C order, its dtype known. It is one that a header of ours was made for."""
    if array.dtype == np.uint16:
        return np.ascontiguousarray(array, np.uint16)
    assert array.dtype == np.uint8, f"{array.dtype} should have been refused"
    return np.ascontiguousarray(array, np.uint8)


@dataclass(frozen=True, slots=True)
class Header:
    """What decoding gives: each format makes it of the same checks that its decoder begins with."""

    format: Literal["PNG", "BMP", "TIFF", "JPEG", "NPY"]
    height: int
    width: int
    channels: Literal[1, 3]
    bit_depth: Literal[8, 16]
    """Of the array; samples of fewer bits keep their values in it."""

    def __post_init__(self) -> None:
        """EmptyImage, TooLargeImage: sides outside the limits."""
        check_size(self.height, self.width)


def check_size(height: int, width: int) -> None:
    """EmptyImage: no pixels. TooLargeImage: more than we decode."""
    if height < 1 or width < 1:
        raise EmptyImage(f"the image is {width} x {height} pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE_PX:
        raise TooLargeImage(
            f"the header announces {width} x {height} pixels, over the limit of {MAX_PIXELS} "
            f"({MAX_SIDE_PX} a side)"
        )


def read_exif(file: BinaryIO, base: int = 0) -> int:
    """The orientation in the first directory of a TIFF, or of EXIF, that begins at `base`.

    Classic or BigTIFF, in either byte order. struct.error: the file ends before.
    """
    form = FORMS.get(unpack_at(file, base, "4s")[0])
    if form is None:
        return UPRIGHT
    field, room = struct.calcsize(form.field), struct.calcsize(form.offset)
    (place,) = unpack_at(file, base + room, form.offset)  # 4 bytes in, and of a BigTIFF 8
    (count,) = unpack_at(file, base + place, form.number)
    first = base + place + struct.calcsize(form.number)
    for at in range(first, first + min(count, MOST_PARTS) * (field + room), field + room):
        tag, kind, _ = unpack_at(file, at, form.field)
        if tag == ORIENTATION:
            (found,) = unpack_at(file, at + field, f"{form.offset[0]}{'I' if kind == 4 else 'H'}")
            return found if kind in (3, 4) and 1 <= found <= 8 else UPRIGHT
    return UPRIGHT


def unpack_at(file: BinaryIO, place: int, form: str) -> tuple[Any, ...]:
    """Values at a place. struct.error: the file ends before."""
    file.seek(place)
    return struct.unpack(form, file.read(struct.calcsize(form)))
