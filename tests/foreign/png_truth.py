"""The samples of a PNG by the specification (third edition), with zlib alone: slow, strict, on its own."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""Bit depths of each colour type (section 11.2.1)."""
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and the steps, of each pass of an interlaced image (section 8.1)."""
LARGEST_BYTES = 1 << 25
"""Of unpacked rows: more takes this reader minutes."""


class Damaged(Exception):
    """The file is not what the specification calls a PNG, where pixels depend on it."""


class OddChunks(Damaged):
    """A palette of an odd length, chunks in an odd order: it decides over colours, not over indices."""


class NotJudged(Exception):
    """This reader has no opinion."""


@dataclass(frozen=True, slots=True)
class Png:
    """A sound PNG."""

    samples: NDArray[np.generic]
    """As stored, [H, W] or [H, W, C]: uint8, or uint16 where there are 16 bits; of a palette its indices."""
    palette: NDArray[np.uint8] | None
    """[N, 3]; None: the samples are no indices."""
    colour_type: int


@dataclass(slots=True)
class _Found:
    """What the critical chunks say."""

    header: bytes = b""
    palette: bytes = b""
    data: bytes = b""


def decode_png(data: bytes) -> Png:
    """Samples of a PNG, every critical chunk checked. Damaged; NotJudged: it is too large."""
    found = _gather(data)
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", found.header)
    if not (0 < width < 2**31 and 0 < height < 2**31 and depth in DEPTHS.get(colour, ())):
        raise Damaged(f"IHDR: {width} x {height}, {depth} bits, colour type {colour}")
    if compression or filtering or interlaced > 1:
        raise Damaged("IHDR: an unknown method")
    palette = _palette(found.palette) if colour == 3 else None
    channels = CHANNELS[colour]
    grids = [(0, 0, 1, 1)] if not interlaced else PASSES
    shapes = [(-(-(height - y) // dy), -(-(width - x) // dx)) for y, x, dy, dx in grids]
    shapes = [shape if min(shape) > 0 else (0, 0) for shape in shapes]
    strides = [-(-columns * channels * depth // 8) for _, columns in shapes]
    raw = _inflate(
        found.data, sum(rows * (1 + stride) for (rows, _), stride in zip(shapes, strides, strict=True))
    )
    samples = np.zeros((height, width, channels), np.uint16 if depth == 16 else np.uint8)
    at = 0
    for (y, x, dy, dx), (rows, columns), stride in zip(grids, shapes, strides, strict=True):
        size = rows * (1 + stride)
        lines = _unfilter(raw[at : at + size], rows, stride, max(1, channels * depth // 8))
        if rows:
            unpacked = _unpack(lines, depth, columns * channels)
            samples[y::dy, x::dx] = unpacked.reshape(rows, columns, channels)
        at += size
    return Png(samples[:, :, 0] if channels == 1 else samples, palette, colour)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to IEND; the ancillary ones' checksums decide over no pixel."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise Damaged("no signature")
    at = 8
    while True:
        if at + 12 > len(data):
            raise Damaged("no IEND")
        size, kind = struct.unpack_from(">I4s", data, at)
        content, check = data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if len(check) < 4:
            raise Damaged(f"{kind} is cut")
        is_critical = not kind[0] & 32
        if is_critical and zlib.crc32(kind + content) != int.from_bytes(check, "big"):
            raise Damaged(f"{kind}: wrong CRC")
        yield kind, content
        if kind == b"IEND":
            return
        at += 12 + size


def _gather(data: bytes) -> _Found:
    found, before = _Found(), b""
    for kind, content in _chunks(data):
        if not found.header and (kind != b"IHDR" or len(content) != 13):
            raise Damaged("IHDR does not come first")
        if kind == b"IHDR":
            if found.header:
                raise Damaged("two IHDR")
            found.header = content
        elif kind == b"PLTE":
            if found.palette or found.data:
                raise OddChunks("PLTE out of place")
            found.palette = content
        elif kind == b"IDAT":
            if found.data and before != b"IDAT":
                raise OddChunks("IDAT are apart")
            found.data += content
        elif kind != b"IEND" and not kind[0] & 32:
            raise Damaged(f"unknown critical chunk {kind}")
        before = kind
    return found


def _palette(content: bytes) -> NDArray[np.uint8]:
    if not content or len(content) % 3 or len(content) > 768:
        raise OddChunks(f"PLTE of {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(-1, 3)


def _inflate(data: bytes, wanted: int) -> bytes:
    if wanted > LARGEST_BYTES:
        raise NotJudged(f"{wanted} bytes")
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(data, wanted + 1)
    except zlib.error as error:
        raise Damaged(f"IDAT: {error}") from None
    if len(raw) < wanted:
        raise Damaged(f"IDAT holds fewer bytes than {wanted}")
    if len(raw) > wanted:  # more than rows: no pixel is in doubt
        return raw[:wanted]
    if not unpacking.eof:
        raise Damaged("IDAT does not end")
    return raw


def _unfilter(raw: bytes, rows: int, stride: int, step: int) -> NDArray[np.uint8]:
    """Rows [rows, stride] of one pass; `step`: bytes to the pixel on the left (section 9)."""
    lines = np.zeros((rows, stride), np.uint8)
    above = bytearray(stride)
    for row in range(rows):
        start = row * (1 + stride)
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _undo(raw[start], line, above, step)
        lines[row] = above = line
    return lines


def _undo(kind: int, line: bytearray, above: bytearray, step: int) -> None:
    if kind > 4:
        raise Damaged(f"filter {kind}")
    for k in range(len(line)) if kind else ():
        left, corner = (line[k - step], above[k - step]) if k >= step else (0, 0)
        up = above[k]
        guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        line[k] = (line[k] + guess) & 255


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))  # the first of equals


def _unpack(lines: NDArray[np.uint8], depth: int, count: int) -> NDArray[np.generic]:
    if depth == 16:
        return np.frombuffer(lines.tobytes(), ">u2").reshape(len(lines), count)
    if depth == 8:
        return lines[:, :count]
    bits = np.unpackbits(lines, axis=1)[:, : count * depth].reshape(len(lines), count, depth)
    return (bits << np.arange(depth - 1, -1, -1, dtype=np.uint8)).sum(2, dtype=np.uint8)
