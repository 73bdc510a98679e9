"""A PNG that holds a mask: every chunk checked against its sum, samples of up to 8 bits as they are stored.

OpenCV and Pillow scale gray of 1, 2 and 4 bits, OpenCV gives a palette's colours for its indices, and Pillow
opens a palette whose sums are wrong, or whose rows end early. Sections are those of the PNG specification,
third edition.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg.errors import TruncatedImage, UnreadableImage, UnsupportedImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, PALETTE = 0, 3
"""Colour types (11.2.1)."""
PACKED_BITS = {GRAY: (1, 2, 4), PALETTE: (1, 2, 4, 8)}
"""Depths at which other readers give something else than what is stored, by colour type."""
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and the steps between them, of each pass of an interlaced image (8.1)."""
INFLATED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG whose chunks are whole: its header, and its rows still compressed."""

    height: int
    width: int
    depth: int
    colour_type: int
    interlaced: bool
    palette: bytes
    """Its colours, three bytes each; empty where there is none."""
    compressed: bytes

    @property
    def is_packed(self) -> bool:
        """Whether `stored_samples` is what reads it."""
        return self.depth in PACKED_BITS.get(self.colour_type, ())


def read_png(data: bytes) -> Png:
    """The chunks of a PNG; only its rows are yet to be checked.

    TruncatedImage: it ends before its last chunk does. UnreadableImage: a chunk does not fit its sum, or is
    none that the specification knows and demands. What stands behind the last chunk is not looked at.
    """
    chunks = list(_read_chunks(data))
    kinds = [kind for kind, _ in chunks]
    unknown = [
        kind for kind in kinds if kind[:1].isupper() and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
    ]
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1 or len(chunks[0][1]) != 13 or unknown:
        raise UnreadableImage("the PNG is damaged: its chunks are not those of an image")
    width, height, depth, colour_type, *methods, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if methods != [0, 0] or interlace > 1:
        raise UnsupportedImage(
            "the PNG is compressed or interlaced in a way that the specification does not know"
        )
    compressed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    palette = next((bytes(content) for kind, content in chunks if kind == b"PLTE"), b"")
    return Png(height, width, depth, colour_type, bool(interlace), palette, compressed)


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk up to the last (5.3)."""
    view, at, number = memoryview(data), len(SIGNATURE), 1
    while True:
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if len(data) < end + 4:
            raise TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise UnreadableImage(f"the PNG is damaged: chunk {number} does not fit its checksum")
        kind = data[at + 4 : at + 8]
        yield kind, view[at + 8 : end]
        if kind == b"IEND":
            return
        at, number = end + 4, number + 1


def stored_samples(png: Png) -> NDArray[np.uint8]:
    """The samples of a packed image, uint8 [H, W]: grays as numbers, never scaled; of a palette its indices.

    Allocates what the header announces. UnreadableImage: the rows are damaged, too few or too many.
    """
    if png.colour_type == PALETTE and not png.palette:
        raise UnreadableImage("the PNG is damaged: it has no palette")
    try:
        if not _holds(png.compressed, _row_bytes(png)):
            raise UnreadableImage("the PNG is damaged: its rows are not as many as its header announces")
        raw = "P" if png.depth == 8 else f"P;{png.depth}"
        size = png.width, png.height
        image = Image.frombytes("P", size, png.compressed, "zip", raw, int(png.interlaced))
    except (zlib.error, ValueError):
        raise UnreadableImage("the PNG is damaged: its rows do not decode") from None
    return np.asarray(image, np.uint8)


def _holds(compressed: bytes, wanted: int) -> bool:
    """Whether a stream is whole, fits its checksum and gives so many bytes. zlib.error: it does not."""
    stream, total = zlib.decompressobj(), 0
    while not stream.eof and total <= wanted:
        part = stream.decompress(compressed, INFLATED_AT_ONCE)
        compressed = stream.unconsumed_tail
        if not (part or compressed or stream.eof):  # cut
            return False
        total += len(part)
    return total == wanted


def _row_bytes(png: Png) -> int:
    """Bytes of all rows, each with the number of its filter before it (7.2, 9.2)."""
    total = 0
    for row, column, down, right in PASSES if png.interlaced else ((0, 0, 1, 1),):
        rows = len(range(row, png.height, down))
        columns = len(range(column, png.width, right))
        total += rows * (1 + (columns * png.depth + 7) // 8) if columns else 0
    return total
