"""PNG: its chunks say what it holds (PNG, third edition), OpenCV decodes it."""

import io
import struct
import zlib
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.formats.header import Header
from seg.data.mask_png import SIGNATURE, read_png, stored_samples
from seg.errors import ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

MAGIC = SIGNATURE
GRAY, COLOUR, PALETTE, GRAY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {
    GRAY: {1, 2, 4, 8, 16},
    COLOUR: {8, 16},
    PALETTE: {1, 2, 4, 8},
    GRAY_ALPHA: {8, 16},
    COLOUR_ALPHA: {8, 16},
}
"""Bit depths by colour type (section 11.2.1, table 11.1)."""


class _Kind(NamedTuple):
    header: Header
    bits: int
    colour: int


def read_header(file: BinaryIO) -> Header:
    """What a PNG holds, by its chunks before the pixels. ImageError: damaged, or no image of ours."""
    return _read_kind(file).header


def decode(data: bytes) -> NDArray[np.generic]:
    """The samples as stored, uint8 or uint16 [H, W] or RGB [H, W, 3]; of a palette its colours.

    Gray of 1, 2 and 4 bits keeps its values, 0 to 1, 3 and 15. ImageError: as of `read_header`; damage.
    """
    kind = _read_kind(io.BytesIO(data))
    if kind.colour == PALETTE:
        return _decode_palette(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise _damage(data, "the image data is damaged")
    if kind.header.channels == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if kind.bits < 8:  # OpenCV spreads them over 0 to 255: section 13.12, so that this division is exact
        return pixels // np.uint8(255 // (2**kind.bits - 1))
    return pixels


def _decode_palette(data: bytes) -> NDArray[np.uint8]:
    """The colours of a palette; OpenCV gives black for an index that has none, where we refuse."""
    png = read_png(data)
    indices = stored_samples(png)
    colours = np.frombuffer(png.palette[: len(png.palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if int(indices.max()) >= len(colours):
        raise UnreadableImage(
            f"the PNG is damaged: it uses more than the {len(colours)} colours of its palette"
        )
    return colours[indices]


def _read_kind(file: BinaryIO) -> _Kind:
    start = file.read(33)
    if len(start) < 33:
        raise TruncatedImage(f"the file ends after {len(start)} bytes, before its image does")
    length, name = struct.unpack_from(">I4s", start, 8)
    (crc,) = struct.unpack_from(">I", start, 29)
    if (length, name) != (13, b"IHDR") or crc != zlib.crc32(start[12:29]):
        raise UnreadableImage("the header is damaged: its checksum does not fit")
    width, height, bits, colour = struct.unpack_from(">IIBB", start, 16)
    if bits not in DEPTHS.get(colour, ()):
        raise UnreadableImage(f"the header is damaged: colour type {colour} of {bits} bits does not exist")
    channels: Literal[1, 3] = 1 if colour in (GRAY, GRAY_ALPHA) else 3
    kind = _Kind(Header("PNG", height, width, channels, 16 if bits == 16 else 8), bits, colour)
    _refuse_more(file, kind)
    return kind


def _refuse_more(file: BinaryIO, kind: _Kind) -> None:
    """UnsupportedImage: beside its pixels the file has an alpha channel, transparent values or frames."""
    if kind.colour in (GRAY_ALPHA, COLOUR_ALPHA):
        channels = kind.header.channels + 1
        raise UnsupportedImage(
            f"the image has {channels} channels, wanted 1 or 3 channels; drop its alpha channel"
        )
    while True:
        chunk = file.read(8)
        if len(chunk) < 8:
            raise TruncatedImage("the file ends before its pixels begin")
        length, name = struct.unpack(">I4s", chunk)
        if name in (b"IDAT", b"IEND"):
            return
        if name == b"tRNS":
            raise UnsupportedImage("the image has transparent values (tRNS); drop its transparency")
        if name == b"acTL":
            raise UnsupportedImage("the file is an animation (APNG); save its frames as files")
        file.seek(length + 4, io.SEEK_CUR)


def _damage(data: bytes, detail: str) -> ImageError:
    if b"IEND" not in data[-16:]:
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage(detail)
