"""PNG: its chunks say what it holds (PNG, third edition), OpenCV decodes it."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.header import MOST_PARTS, UPRIGHT, Header, read_exif, unpack_at
from seg.errors import ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

MAGIC = b"\x89PNG\r\n\x1a\n"
GRAY, COLOUR, PALETTE, GRAY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
"""Colour types (11.2.1)."""
PACKED_BITS = {GRAY: (1, 2, 4), PALETTE: (1, 2, 4, 8)}
"""Depths at which other readers give something else than what is stored, by colour type."""
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and the steps between them, of each pass of an interlaced image (8.1)."""
INFLATED_AT_ONCE = 1 << 20
DEPTHS = {GRAY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}
DEPTHS |= dict.fromkeys((COLOUR, GRAY_ALPHA, COLOUR_ALPHA), (8, 16))
"""Bit depths by colour type (section 11.2.1, table 11.1)."""


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
    _refuse_disorder(kinds)
    width, height, depth, colour_type, *methods, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if methods != [0, 0] or interlace > 1:
        raise UnsupportedImage(
            "the PNG is compressed or interlaced in a way that the specification does not know"
        )
    compressed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    palette = next((bytes(content) for kind, content in chunks if kind == b"PLTE"), b"")
    if len(palette) % 3 or len(palette) > 768:
        raise UnreadableImage(f"the PNG is damaged: its palette has {len(palette)} bytes")
    return Png(height, width, depth, colour_type, bool(interlace), palette, compressed)


def _read_chunks(data: bytes, *, all_sums: bool = True) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk up to the last (5.3).

    all_sums: whether those of image data, which libpng checks, and of chunks without pixels have to fit too.
    """
    view, at, number = memoryview(data), len(MAGIC), 1
    while True:
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if len(data) < end + 4:
            raise TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
        kind = data[at + 4 : at + 8]
        is_checked = all_sums or (kind[:1].isupper() and kind != b"IDAT")
        if is_checked and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise UnreadableImage(f"the PNG is damaged: chunk {number} does not fit its checksum")
        yield kind, view[at + 8 : end]
        if kind == b"IEND":
            return
        at, number = end + 4, number + 1


def _refuse_disorder(kinds: Sequence[bytes]) -> None:
    """UnreadableImage: palettes or pixels stand where a PNG has none (5.6), so that readers differ."""
    order = [kind for kind, _ in groupby(kinds) if kind in (b"PLTE", b"IDAT")]
    if order not in ([b"IDAT"], [b"PLTE", b"IDAT"]) or kinds.count(b"PLTE") > 1:
        raise UnreadableImage("the PNG is damaged: its palette or its image data are not in their place")


def add_palette(data: bytes, palette: bytes) -> bytes:
    """A PNG of 8-bit gray as one with a palette: its grays become numbers of colours, three bytes each.

    Both store the same rows (11.2.1): the header's colour type and the palette are all that differs.
    ValueError: it is no such PNG.
    """
    png = read_png(data)
    if (png.colour_type, png.depth) != (GRAY, 8):
        raise ValueError(f"colour type {png.colour_type} of {png.depth} bits is not gray of 8")
    header = struct.pack(">IIBBBBB", png.width, png.height, 8, PALETTE, 0, 0, int(png.interlaced))
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", png.compressed), (b"IEND", b""))
    parts = (
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )
    return MAGIC + b"".join(parts)


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
    _refuse_disorder([chunk for chunk, _ in _read_chunks(data, all_sums=False)])
    if kind.header.channels == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if kind.bits < 8:  # OpenCV spreads them over 0 to 255: section 13.12, so that this division is exact
        return pixels // np.uint8(255 // (2**kind.bits - 1))
    return pixels


def _decode_palette(data: bytes) -> NDArray[np.uint8]:
    """The colours of a palette; OpenCV gives black for an index that has none, where we refuse."""
    png = read_png(data)
    indices = stored_samples(png)
    colours = np.frombuffer(png.palette, np.uint8).reshape(-1, 3)
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
    try:
        for name, _ in _walk_file(file):
            if name in (b"IDAT", b"IEND"):
                return
            if name == b"tRNS":
                raise UnsupportedImage("the image has transparent values (tRNS); drop its transparency")
            if name == b"acTL":
                raise UnsupportedImage("the file is an animation (APNG); save its frames as files")
    except struct.error:
        raise TruncatedImage("the file ends before its pixels begin") from None


def _walk_file(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and place of the content of each chunk, of which nothing is read. struct.error: the file ends."""
    place = len(MAGIC)
    while True:
        length, kind = unpack_at(file, place, ">I4s")
        yield kind, place + 8
        place += 12 + length


def _damage(data: bytes, detail: str) -> ImageError:
    if b"IEND" not in data[-16:]:
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage(detail)


def read_orientation(file: BinaryIO) -> int:
    """How the camera was held, by the eXIf chunk (section 11.3.3.6). struct.error: the file ends before."""
    for kind, place in islice(_walk_file(file), MOST_PARTS):
        if kind in (b"eXIf", b"IEND"):
            return read_exif(file, place) if kind == b"eXIf" else UPRIGHT
    return UPRIGHT
