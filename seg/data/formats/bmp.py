"""BMP of Windows and OS/2: Pillow decodes it, once its header says that nothing would be scaled."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.header import Header, check_size
from seg.errors import ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

MAGIC = b"BM"
CORE_BYTES = 12
"""Of the header of OS/2 1: sides of 16 bits, palette entries of three bytes."""
BAND_ROWS = 256
"""Rows that are copied at a time."""
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error)
"""What Pillow raises on a damaged file; UnidentifiedImageError is an OSError."""

Image.MAX_IMAGE_PIXELS = None  # the limit is ours, with our own message


class _Kind(NamedTuple):
    header: Header
    is_palette: bool


def read_header(file: BinaryIO) -> Header:
    """What a BMP holds, by its header and palette. ImageError: damaged, or no image of ours."""
    _check_depth(file)
    try:
        with Image.open(file, formats=("BMP",)) as opened:
            return _describe(opened).header
    except PILLOW_ERRORS as error:
        raise UnreadableImage(f"the header is damaged: {error}") from None


def decode(data: bytes) -> NDArray[np.uint8]:
    """The samples as stored, uint8 [H, W] or RGB [H, W, 3]; of a palette its colours (gray: one channel).

    ImageError: as of `read_header`; damage.
    """
    _check_depth(io.BytesIO(data))
    try:
        with Image.open(io.BytesIO(data), formats=("BMP",)) as opened:
            kind = _describe(opened)
            opened.load()
            header, bands = kind.header, (opened.crop(box) for box in _bands(opened))
            colours = () if header.channels == 1 else (3,)
            pixels = np.empty((header.height, header.width, *colours), np.uint8)
            for number, band in enumerate(bands):
                rows = np.asarray(band.convert("RGB") if kind.is_palette else band, np.uint8)
                rows = rows[:, :, 0] if rows.ndim > pixels.ndim else rows
                pixels[BAND_ROWS * number : BAND_ROWS * (number + 1)] = rows
            if opened.mode == "1":
                pixels *= np.uint8(255)  # the two colours of the palette are black and white
    except PILLOW_ERRORS as error:
        raise _damage(data, f"the image is damaged: {error}") from None
    return pixels


def _bands(opened: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of BAND_ROWS rows: Pillow has four bytes for each pixel of colour, and one copy is enough."""
    for top in range(0, opened.height, BAND_ROWS):
        yield 0, top, opened.width, min(opened.height, top + BAND_ROWS)


def _check_depth(file: BinaryIO) -> None:
    """UnsupportedImage: pixels of 16 or 32 bits, which decoders scale or cut. ImageError: no size of ours."""
    start = file.read(34)
    file.seek(0)
    try:
        (size,) = struct.unpack_from("<I", start, 14)
        names = "<HHHH" if size == CORE_BYTES else "<iiHH"
        width, height, _, bits = struct.unpack_from(names, start, 18)
    except struct.error:
        raise TruncatedImage(f"the file ends after {len(start)} bytes, before its image does") from None
    if bits in (16, 32):
        raise UnsupportedImage(f"the channels of a pixel are packed into {bits} bits, wanted 8 or 24 bits")
    check_size(abs(height), width)


def _describe(opened: Image.Image) -> _Kind:
    if opened.mode not in ("1", "L", "P", "RGB"):
        raise UnsupportedImage(f"the pixels are {opened.mode}, wanted gray, colours or a palette")
    is_palette = opened.mode == "P"
    channels: Literal[1, 3] = 3 if opened.mode == "RGB" or (is_palette and not _is_gray(opened)) else 1
    return _Kind(Header("BMP", opened.height, opened.width, channels, 8), is_palette)


def _is_gray(opened: Image.Image) -> bool:
    colours = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _damage(data: bytes, detail: str) -> ImageError:
    if len(data) < int.from_bytes(data[2:6], "little"):
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage(detail)
