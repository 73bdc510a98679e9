"""A TIFF put together byte by byte (TIFF 6.0, section 2), for what no library writes."""

import struct
from collections.abc import Sequence

SHORT, LONG, ASCII = 3, 4, 2
Tags = dict[int, int | Sequence[int] | bytes]
"""By tag: numbers, or a text."""


def gray_tags(height: int, width: int, bits: int, **others: int) -> Tags:
    """Of one strip of gray samples that begins at byte 8."""
    size = (width * bits + 7) // 8 * height
    tags: Tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: size}
    return tags | {int(name.removeprefix("tag")): value for name, value in others.items()}


def write_tiff(pixels: bytes, *directories: Tags, order: str = "<", behind_last: int = 0) -> bytes:
    """Pixels from byte 8 on, then the directories; behind_last: what the last one says of its successor."""
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4) + pixels)
    link = 4
    for tags in directories:
        values = {code: _encode(value, order) for code, value in sorted(tags.items())}
        places = {}
        for code, (_, _, encoded) in values.items():
            if len(encoded) > 4:
                places[code] = len(data)
                data += encoded
        data[link : link + 4] = struct.pack(f"{order}I", len(data))
        data += struct.pack(f"{order}H", len(values))
        for code, (kind, count, encoded) in values.items():
            data += struct.pack(f"{order}HHI", code, kind, count)
            data += struct.pack(f"{order}I", places[code]) if code in places else encoded.ljust(4, b"\0")
        link = len(data)
        data += struct.pack(f"{order}I", behind_last)
    return bytes(data)


def _encode(value: int | Sequence[int] | bytes, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, bytes):
        return ASCII, len(value) + 1, value + b"\0"
    numbers = [value] if isinstance(value, int) else list(value)
    kind = SHORT if max(numbers) < 1 << 16 else LONG
    letters = {SHORT: "H", LONG: "I"}[kind]
    return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{letters}", *numbers)
