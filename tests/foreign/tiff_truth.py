"""The samples of a TIFF by its specification (TIFF 6.0), in plain Python: slow, strict, on its own.

Reads classic and big files, strips and tiles, contiguous and separate planes, any depth up to 16 bits, the
horizontal predictor; uncompressed, LZW, deflate, PackBits, zstd (by pyarrow), LZMA. The rest is not judged.
"""

import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tests.foreign.png_truth import LARGEST_BYTES, Damaged, NotJudged

SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Bytes of a value by its type, else 1, and how `struct` calls those that are integers."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIPS, SAMPLES = (
    *(256, 257, 258, 259, 262, 266, 273, 277),
)
ROWS, STRIP_BYTES, PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, FORMAT = (
    *(278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339),
)
NEEDED = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIPS, SAMPLES, ROWS, STRIP_BYTES}
NEEDED |= {PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, FORMAT}
"""Tags on which pixels depend."""


@dataclass(frozen=True, slots=True)
class Tiff:
    """A sound page."""

    samples: NDArray[np.generic]
    """As stored, [H, W] or [H, W, C]: uint8 up to 8 bits, else uint16."""
    bits: int
    photometric: int
    extra: int
    """Samples a pixel beyond its colours."""
    colours: NDArray[np.uint16] | None
    """[N, 3] of a palette."""


@dataclass(frozen=True, slots=True)
class Tags:
    """A directory's integers."""

    values: dict[int, tuple[int, ...]]
    order: str

    def one(self, tag: int, default: int) -> int:
        return self.values.get(tag, (default,))[0]


def decode_tiff(data: bytes, page: int = 0) -> Tiff:
    """Samples of a page. Damaged; NotJudged: of a kind that this reader does not know."""
    tags = read_directories(data, page)
    height, width, samples = tags.one(HEIGHT, 0), tags.one(WIDTH, 0), tags.one(SAMPLES, 1)
    if min(height, width, samples) < 1:
        raise Damaged("no pixels")
    depths = set(tags.values.get(BITS, (1,)))
    bits, kind = depths.pop(), tags.values.get(FORMAT, (1,))
    if depths or not 1 <= bits <= 16 or set(kind) != {1}:
        raise NotJudged("other than unsigned samples of one depth up to 16 bits")
    photometric = tags.one(PHOTOMETRIC, -1)
    if photometric == 6 and tags.one(COMPRESSION, 1) != 7 and samples == 3:
        raise NotJudged("YCbCr may be subsampled")
    colours = None
    if photometric == 3:
        values = tags.values.get(COLOURS, ())
        if len(values) != 3 << bits:
            raise Damaged("the palette has another length than 3 * 2 ** bits")
        colours = np.array(values, np.uint16).reshape(3, -1).T
    pixels = np.zeros((height, width, samples), np.uint8 if bits <= 8 else np.uint16)
    if pixels.nbytes > LARGEST_BYTES:
        raise NotJudged("too large")
    for place, block in _blocks(data, tags, bits, (height, width, samples)):
        pixels[place] = block
    wanted = {0: 1, 1: 1, 2: 3, 3: 1}.get(photometric, samples)
    flat = pixels[:, :, 0] if samples == 1 else pixels
    return Tiff(flat, bits, photometric, samples - wanted, colours)


def read_directories(data: bytes, page: int) -> Tags:
    """The tags of a page. Damaged: it is not there, or reaches out of the file."""
    try:
        order, big, at = _start(data)
        for _ in range(page):
            at = _directory(data, order, big, at)[1]
            if not at:
                raise Damaged(f"no page {page}")
        return Tags(_directory(data, order, big, at)[0], order)
    except struct.error:
        raise Damaged("a directory reaches out of the file") from None


def _start(data: bytes) -> tuple[str, bool, int]:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise Damaged("no TIFF")
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 43:
        if struct.unpack_from(f"{order}HH", data, 4) != (8, 0):
            raise Damaged("offsets of a big TIFF have 8 bytes")
        return order, True, struct.unpack_from(f"{order}Q", data, 8)[0]
    if version != 42:
        raise Damaged(f"version {version}")
    return order, False, struct.unpack_from(f"{order}I", data, 4)[0]


def _directory(data: bytes, order: str, big: bool, at: int) -> tuple[dict[int, tuple[int, ...]], int]:
    """Integers by tag, and where the next directory is."""
    counting, entry, inside, pointer = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    (entries,) = struct.unpack_from(order + counting, data, at)
    at += struct.calcsize("=" + counting)
    size = struct.calcsize("=" + entry) + inside
    tags: dict[int, tuple[int, ...]] = {}
    if at + entries * size > len(data):
        raise Damaged("a directory reaches out of the file")
    for number in range(entries):
        start = at + number * size
        tag, kind, count = struct.unpack_from(order + entry, data, start)
        value_at = start + size - inside
        if count * SIZES.get(kind, 1) > inside:
            (value_at,) = struct.unpack_from(order + pointer, data, value_at)
        if value_at + count * SIZES.get(kind, 1) > len(data):
            if tag in NEEDED:
                raise Damaged(f"tag {tag} reaches out of the file")
            continue
        if kind in CODES and count:
            tags.setdefault(tag, struct.unpack_from(f"{order}{count}{CODES[kind]}", data, value_at))
    end = data[at + entries * size :][: struct.calcsize("=" + pointer)]
    is_cut = len(end) < struct.calcsize("=" + pointer)  # some files end here, which costs no pixel
    return tags, 0 if is_cut else struct.unpack(order + pointer, end)[0]


def _blocks(
    data: bytes, tags: Tags, bits: int, shape: tuple[int, int, int]
) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.generic]]]:
    """Where each strip or tile belongs, and its samples [rows, columns, samples]."""
    height, width, samples = shape
    tiled = TILES in tags.values or TILE_WIDTH in tags.values
    columns = tags.one(TILE_WIDTH, 0) if tiled else width
    rows = tags.one(TILE_HEIGHT, 0) if tiled else min(tags.one(ROWS, height), height)
    offsets = tags.values.get(TILES if tiled else STRIPS, ())
    sizes = tags.values.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    planes = samples if tags.one(PLANAR, 1) == 2 else 1
    if min(rows, columns) < 1:
        raise Damaged("blocks of no size")
    grid = [
        (plane, y, x)
        for plane in range(planes)
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]
    if len(offsets) < len(grid) or len(sizes) < len(grid):
        raise Damaged(f"{len(grid)} blocks, but {len(offsets)} places and {len(sizes)} sizes")
    for (plane, y, x), offset, size in zip(grid, offsets, sizes, strict=False):
        if not size or offset + size > len(data):
            raise Damaged("a block is empty, or reaches out of the file")
        tall = rows if tiled else min(rows, height - y)
        block = _decode_block(
            data[offset : offset + size], tags, bits, (tall, columns, 1 if planes > 1 else samples)
        )
        inside = block[: height - y, : width - x]
        chosen = slice(plane, plane + 1) if planes > 1 else slice(None)
        yield (slice(y, y + rows), slice(x, x + columns), chosen), inside


def _decode_block(packed: bytes, tags: Tags, bits: int, shape: tuple[int, int, int]) -> NDArray[np.generic]:
    rows, columns, samples = shape
    stride = -(-columns * samples * bits // 8)
    if rows * stride > LARGEST_BYTES:
        raise NotJudged("too large")
    if tags.one(FILL_ORDER, 1) == 2:
        packed = packed.translate(REVERSED)
    unpack = UNPACKERS.get(tags.one(COMPRESSION, 1))
    if unpack is None:
        raise NotJudged(f"compression {tags.one(COMPRESSION, 1)}")
    raw = unpack(packed, rows * stride)
    if len(raw) < rows * stride:
        raise Damaged(f"a block has {len(raw)} bytes of {rows * stride}")
    lines = np.frombuffer(raw[: rows * stride], np.uint8).reshape(rows, stride)
    if bits == 16:
        values = np.frombuffer(lines.tobytes(), f"{tags.order}u2").astype(np.uint16)
    elif bits == 8:
        values = lines
    else:
        flags = np.unpackbits(lines, axis=1)[:, : columns * samples * bits].reshape(-1, bits)
        weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
        values = (flags * weights).sum(1, dtype=np.uint16).astype(np.uint8 if bits < 8 else np.uint16)
    block = values.reshape(rows, columns, samples)
    predictor = tags.one(PREDICTOR, 1) if tags.one(COMPRESSION, 1) not in (1, 32773) else 1
    if predictor not in (1, 2):
        raise NotJudged(f"predictor {predictor}")
    if predictor == 1:
        return block
    return np.cumsum(block, axis=1, dtype=block.dtype) & np.array((1 << bits) - 1, block.dtype)


def unpack_lzw(packed: bytes, wanted: int) -> bytes:
    """Section 13: codes of 9 to 12 bits, the highest bit first, that grow one code early."""
    if packed[:1] == b"\0" and len(packed) > 1 and packed[1] & 1:
        raise NotJudged("LZW of before TIFF 6.0")
    table: list[bytes] = []
    out, before, held, bits, size = bytearray(), b"", 0, 0, 9
    for byte in packed:
        held, bits = (held << 8 | byte) & 0xFFFFFFF, bits + 8
        if bits < size:
            continue
        bits -= size
        code = held >> bits & ((1 << size) - 1)
        if code == 257:
            return bytes(out)
        if code == 256:
            table, before, size = [bytes([value]) for value in range(256)] + [b"", b""], b"", 9
            continue
        if not table or code > len(table) or (code == len(table) and not before):
            raise Damaged(f"LZW: code {code} of {len(table)}")
        entry = table[code] if code < len(table) else before + before[:1]
        out += entry
        if before:
            table.append(before + entry[:1])
        if len(table) > 4096:
            raise Damaged("LZW: the table overflows")
        before, size = entry, 9 + sum(len(table) >= limit for limit in (511, 1023, 2047))
        if len(out) > wanted:
            return bytes(out)
    return bytes(out)


def unpack_packbits(packed: bytes, wanted: int) -> bytes:
    """Section 9."""
    out, at = bytearray(), 0
    while at < len(packed) and len(out) < wanted:
        head, at = packed[at], at + 1
        if head < 128:
            if at + head + 1 > len(packed):
                raise Damaged("PackBits: a run of bytes is cut")
            out += packed[at : at + head + 1]
            at += head + 1
        elif head > 128:
            if at >= len(packed):
                raise Damaged("PackBits: a repetition is cut")
            out += packed[at : at + 1] * (257 - head)
            at += 1
    return bytes(out)


def _inflate(packed: bytes, wanted: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(packed, wanted + 1)
    except zlib.error as error:
        raise Damaged(f"deflate: {error}") from None
    if not unpacking.eof and len(raw) <= wanted:
        raise Damaged("deflate does not end")
    return raw


def _by_lzma(packed: bytes, wanted: int) -> bytes:
    try:
        return lzma.decompress(packed)
    except (lzma.LZMAError, EOFError) as error:
        raise Damaged(f"LZMA: {error}") from None


def _by_zstd(packed: bytes, wanted: int) -> bytes:
    try:
        return pa.decompress(packed, wanted, codec="zstd", asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"zstd: {error}") from None


UNPACKERS: dict[int, Callable[[bytes, int], bytes]] = {
    1: lambda packed, _: packed,
    5: unpack_lzw,
    8: _inflate,
    32946: _inflate,
    32773: unpack_packbits,
    34925: _by_lzma,
    50000: _by_zstd,
}
