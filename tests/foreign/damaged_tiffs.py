"""How many TIFFs with damage inside one strip or tile come back with other pixels, and no error?

python -m tests.foreign.damaged_tiffs [--each 800] [--seed 0]

Files by two writers (libtiff through Pillow, tifffile), of strips and of tiles; one bit flipped, 8 bytes
zeroed, or the second half of a strip zeroed. Of what is read with other pixels, those that Pillow or tifffile
refuse are counted. zstd has no checksum there: neither writer asks for one.
"""

import io
import json
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tifffile
import tyro
from numpy.typing import NDArray
from PIL import Image

from seg.data.images import decode_image
from seg.errors import ImageError
from tests.foreign.tiff_truth import STRIP_BYTES, STRIPS, TILE_BYTES, TILES, read_directories
from tests.watched import call_each

SIDE_PX, STRIP_ROWS, TILE_PX = 192, 32, 64
COMPRESSIONS = {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packbits": "packbits"}
COMPRESSIONS |= {"zstd": "zstd", "lzma": "lzma"}
"""As tifffile and Pillow call them."""
LAYOUTS = ("Pillow, strips", "tifffile, strips", "tifffile, tiles")
DAMAGES = ("bit", "zeros", "half")
BATCH = 40
"""Files a call: one crash is told, and costs no more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How files are written."""

    compression: str
    bits: int
    layout: str


def draw_fringes(bits: int) -> NDArray[np.generic]:
    """A picture that compresses as an interferogram does: fringes and noise, [SIDE_PX, SIDE_PX]."""
    random = np.random.default_rng(3)
    rows, columns = np.ogrid[:SIDE_PX, :SIDE_PX]
    waves = 0.5 + 0.4 * np.sin((rows + 2 * columns) / 9) + random.normal(0, 0.01, (SIDE_PX, SIDE_PX))
    levels = 64 if bits == 8 else 4096  # fewer than there are, so that PackBits finds runs
    return (np.round(waves * levels).clip(0, levels) * (255 // 64 if bits == 8 else 15)).astype(
        f"u{bits // 8}"
    )


def write(kind: Kind) -> bytes:
    """A sound file."""
    file, pixels = io.BytesIO(), draw_fringes(kind.bits)
    if kind.layout.startswith("Pillow"):
        image = Image.fromarray(pixels)
        strip_bytes = STRIP_ROWS * pixels[0].nbytes
        image.save(file, "TIFF", compression=COMPRESSIONS[kind.compression], strip_size=strip_bytes)
    else:
        shape = (
            {"tile": (TILE_PX, TILE_PX)} if kind.layout.endswith("tiles") else {"rowsperstrip": STRIP_ROWS}
        )
        options = shape | {"photometric": "minisblack", "metadata": None}
        tifffile.imwrite(file, pixels, compression=kind.compression, **options)
    return file.getvalue()


def damage(data: bytes, how: str, random: np.random.Generator) -> bytes:
    """The same file, with one strip or tile changed."""
    tags = read_directories(data, 0)
    offsets, sizes = next(
        (tags.values[places], tags.values[lengths])
        for places, lengths in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES))
        if places in tags.values
    )
    block = int(random.integers(len(offsets)))
    start, size = offsets[block], sizes[block]
    changed = bytearray(data)
    if how == "bit":
        changed[start + int(random.integers(size))] ^= 1 << int(random.integers(8))
    elif how == "zeros":
        at = start + int(random.integers(size - 8))
        changed[at : at + 8] = bytes(8)
    else:
        changed[start + size // 2 : start + size] = bytes(size - size // 2)
    return bytes(changed)


def count_batch(kind: Kind, seed: int, first: int) -> Counter[str]:
    """What becomes of BATCH damaged files; `unread`: the sound one is refused."""
    warnings.simplefilter("ignore")
    sound, pixels = write(kind), draw_fringes(kind.bits)
    try:
        assert np.array_equal(decode_image(sound), pixels), f"{kind} is not read right when it is sound"
    except ImageError:
        return Counter({"unread": BATCH})
    counts: Counter[str] = Counter()
    for number in range(first, first + BATCH):
        data = damage(sound, DAMAGES[number % 3], np.random.default_rng([seed, number]))
        if data != sound:
            counts.update(judge(data, pixels))
    return counts


def judge(data: bytes, pixels: NDArray[np.generic]) -> list[str]:
    """What becomes of one damaged file, and what others say of it."""
    try:
        found = decode_image(data)
    except ImageError:
        return ["files", "refused"]
    if np.array_equal(found, pixels):
        return ["files", "same pixels"]
    strict = [name for name, reads in OTHERS.items() if not reads(data)]
    return [
        "files",
        "other pixels",
        *(f"refused by {name}" for name in strict),
        *(["by one"] if strict else []),
    ]


def _pillow_reads(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, ValueError, SyntaxError, struct.error):
        return False
    return True


def _tifffile_reads(data: bytes) -> bool:
    try:
        tifffile.imread(io.BytesIO(data))
    except Exception:
        return False
    return True


OTHERS = {"Pillow": _pillow_reads, "tifffile": _tifffile_reads}
REFUSALS = tuple(f"refused by {name}" for name in OTHERS)
COLUMNS = ("unread", "files", "refused", "same pixels", "other pixels", *REFUSALS, "by one")


def list_batches(each: int, seed: int) -> Iterator[tuple[Kind, int, int]]:
    """Arguments of `count_batch` for so many files of each compression and depth, layouts in turn."""
    for compression in COMPRESSIONS:
        for bits in (8, 16):
            for number, first in enumerate(range(0, each, BATCH)):
                yield Kind(compression, bits, LAYOUTS[number % len(LAYOUTS)]), seed, first


def main(each: int = 800, seed: int = 0) -> None:
    """Print a line a compression, depth and layout, then one JSON line.

    each: files of a compression and depth.
    """
    rows: dict[tuple[str, int, str], Counter[str]] = {}
    for (kind, *_), answer in call_each(count_batch, list_batches(each, seed)):
        counts = answer.value if answer.kind == "returned" else Counter({answer.kind: BATCH})
        if answer.kind != "returned":
            print(kind, answer.detail)
        for layout in (kind.layout, "all"):
            row = rows.setdefault((kind.compression, kind.bits, layout), Counter())
            row.update(counts)
    print(f"{'compression':12}{'bits':>5}  {'layout':18}" + "".join(f"{name:>21}" for name in COLUMNS))
    for (compression, bits, layout), row in rows.items():
        print(f"{compression:12}{bits:5}  {layout:18}" + "".join(f"{row[name]:21}" for name in COLUMNS))
    print(json.dumps([[*row, counts] for row, counts in rows.items()]))


if __name__ == "__main__":
    tyro.cli(main)
