"""How sound files become others: damage of any bytes, and edits that know the format."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.foreign.tiff_truth import STRIP_BYTES, STRIPS, TILE_BYTES, TILES, read_directories

Random = np.random.Generator
Mutator = Callable[[bytes, Sequence[bytes], Random], bytes]
"""From a sound file, its fellows and chance to another file."""

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def damage(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """What disks, networks and half-written files do: one to four of them."""
    for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
        data = DAMAGES[random.integers(len(DAMAGES))](data, fellows, random)
    return data


def flip_bit(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """One bit, more often near the beginning, where headers are."""
    if not data:
        return data
    changed = bytearray(data)
    changed[_place(data, random)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def write_number(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """A number at which code goes wrong, in 1, 2 or 4 bytes of either order."""
    size = int(random.choice([1, 2, 4]))
    order = "little" if random.integers(2) else "big"
    number = (NUMBERS[random.integers(len(NUMBERS))] & ((1 << 8 * size) - 1)).to_bytes(size, order)
    at = _place(data, random)
    return data[:at] + number + data[at + size :]


def zero(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Up to 512 bytes become 0, as a lost block does."""
    at, size = _place(data, random), int(random.choice([1, 8, 64, 512]))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def cut(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """The file ends early."""
    return data[: int(random.integers(len(data) + 1))]


def lose(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Some bytes in the middle are gone."""
    at = _place(data, random)
    return data[:at] + data[at + int(random.integers(1, 64)) :]


def splice(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Bytes of another file, over these or between them."""
    other = fellows[random.integers(len(fellows))]
    at, start, size = _place(data, random), _place(other, random), int(random.integers(1, 256))
    piece = other[start : start + size]
    return data[:at] + piece + data[at + (len(piece) if random.integers(2) else 0) :]


DAMAGES: tuple[Mutator, ...] = (flip_bit, flip_bit, write_number, zero, cut, lose, splice)


def _place(data: bytes, random: Random) -> int:
    reach = len(data) if random.integers(2) else min(len(data), 200)
    return int(random.integers(max(1, reach)))


def damage_strips(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Damage inside one strip or tile of a TIFF; its length, and all around it, stay."""
    tags = read_directories(data, 0)
    places, sizes = (STRIPS, STRIP_BYTES) if STRIPS in tags.values else (TILES, TILE_BYTES)
    block = int(random.integers(len(tags.values[places])))
    start, size = tags.values[places][block], tags.values[sizes][block]
    strip = data[start : start + size]
    changed = (flip_bit, zero, write_number)[random.integers(3)](strip, [strip], random)[:size]
    return data[:start] + changed + data[start + size :]


def edit_tiff(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """A field of the first directory: its tag, type, count or value; or where the next directory is."""
    try:
        return _edit_directory(data, random)
    except struct.error:  # the seed itself is cut there
        return damage(data, fellows, random)


def _edit_directory(data: bytes, random: Random) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    field, number_code = (20, "Q") if big else (12, "I")
    first = at + (8 if big else 2)
    changed = bytearray(data)
    number = int(random.choice([*NUMBERS, at, len(data), len(data) - 1, int(random.integers(2**16))]))
    entry = int(random.integers(entries + 1))
    if entry == entries:
        struct.pack_into(order + number_code, changed, first + field * entries, number & 0xFFFFFFFF)
        return bytes(changed)
    offset, code = [(0, "H"), (2, "H"), (4, number_code), (field - 8 if big else 8, number_code), (8, "H")][
        random.integers(5)
    ]
    mask = 0xFFFF if code == "H" else 0xFFFFFFFF
    struct.pack_into(order + code, changed, first + field * entry + offset, number & mask)
    return bytes(changed)


def remake_png(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Another PNG whose checksums fit: a chunk changed, lost, repeated, moved, or other rows packed."""
    chunks = _chunks(data)
    if not chunks:
        return data
    at = int(random.integers(len(chunks)))
    kind, content = chunks[at]
    action = int(random.integers(6))
    if action == 0:
        chunks[at] = (kind, damage(content, [data], random))
    elif action == 1:
        del chunks[at]
    elif action == 2:
        chunks.insert(int(random.integers(len(chunks))), chunks[at])
    elif action == 3 and chunks[0][0] == b"IHDR":
        chunks[0] = (b"IHDR", write_number(chunks[0][1], [data], random)[:13])
    elif action == 4:
        chunks[at] = (bytes(byte ^ (32 * int(random.integers(2))) for byte in kind), content)
    else:
        chunks = _repack(chunks, random)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _repack(chunks: list[tuple[bytes, bytes]], random: Random) -> list[tuple[bytes, bytes]]:
    """Damage the rows below the packing, which hides it from every checksum."""
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    try:
        rows = zlib.decompress(packed)
    except zlib.error:
        return chunks
    data = (b"IDAT", zlib.compress(damage(rows, [rows], random), int(random.integers(10))))
    at = next(number for number, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return [*rest[:at], data, *rest[at:]]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


ODD: tuple[Any, ...] = (
    *(None, True, "", "\x1b[2Jname", -1, 0, 1, 2**63, 10**400, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], {"": None}, "../../etc/passwd", "é" * 300, [0] * 5),
)


def edit_json(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """A value replaced, removed or repeated somewhere in a JSON text; else damage of its bytes."""
    if random.integers(3) == 0:
        return damage(data, fellows, random)
    root: list[Any] = [json.loads(data)]
    holder, key = root, 0
    while random.integers(4) and isinstance(holder[key], (dict, list)) and holder[key]:
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = keys[random.integers(len(keys))]
    if random.integers(4) == 0 and holder is not root:
        del holder[key]
    elif random.integers(20) == 0:
        return b'{"boxes":' * 100_000  # deeper than a parser's stack
    else:
        holder[key] = ODD[random.integers(len(ODD))]
    return json.dumps(root[0]).encode() if root else b""


def edit_words(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """A word of a text replaced, a line lost or repeated; else damage of its bytes."""
    if random.integers(3) == 0:
        return damage(data, fellows, random)
    lines = data.split(b"\n")
    at = int(random.integers(len(lines)))
    action = int(random.integers(3))
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, lines[at])
    else:
        words = lines[at].split(b" ")
        words[random.integers(len(words))] = str(ODD[random.integers(len(ODD))]).encode()
        lines[at] = b" ".join(words)
    return b"\n".join(lines)
