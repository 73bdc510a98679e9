"""How long does a TIFF take to decode? seg.data.images against OpenCV, which read it until issue S.

python -m bench.tiff [--repeat 5] [--side-px 3072] [--compressions none lzw deflate zstd]

Contenders take turns; times are of CPU. Uncompressed, ours may take 10 % more than OpenCV; the rest is told,
not judged.
"""

import io
import platform
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any

import cv2
import numpy as np
import tifffile
import tyro
from numpy.typing import NDArray
from PIL import Image

from bench.setup import time_ms
from bench.table import Row, print_table
from bench.values import Value
from seg.data.images import decode_image

LAYOUTS: dict[str, dict[str, Any]] = {"strips": {"rowsperstrip": 64}, "tiles": {"tile": (256, 256)}}


def draw_fringes(side_px: int, bits: int) -> NDArray[np.generic]:
    """Fringes with noise in the lowest bits, as a camera gives them, [side_px, side_px]."""
    rows, columns = np.ogrid[:side_px, :side_px]
    waves = 0.5 + 0.4 * np.sin((rows + 2 * columns) / 11)
    noise = np.random.default_rng(0).normal(0, 0.005, (side_px, side_px))
    return ((waves + noise).clip(0, 1) * (2**bits - 1)).astype(f"u{bits // 8}")


def write(pixels: NDArray[np.generic], compression: str, layout: str) -> bytes:
    """A TIFF of one page."""
    file = io.BytesIO()
    codec = None if compression == "none" else compression
    tifffile.imwrite(
        file, pixels, compression=codec, metadata=None, photometric="minisblack", **LAYOUTS[layout]
    )
    return file.getvalue()


def by_opencv(data: bytes) -> NDArray[Any] | None:
    """As until issue S: Pillow's header, OpenCV's pixels. None: it does not read this compression."""
    with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "TIFF")) as opened:
        opened.seek(0)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


cpu_ms = partial(time_ms, clock=time.process_time)
"""CPU of a call, all threads together: a busy machine counts less."""


def measure(side_px: int, repeat: int, compressions: tuple[str, ...], bits: int) -> Iterator[Row | Value]:
    """A row a compression and layout. SystemExit: one of the two reads other pixels."""
    pixels = draw_fringes(side_px, bits)
    for compression, layout in product(compressions, LAYOUTS):
        what = f"{bits} bit, {compression}, {layout}"
        data = write(pixels, compression, layout)
        other = by_opencv(data)
        for name, found in (("decode_image", decode_image(data)), ("Pillow and OpenCV", other)):
            if found is not None and not np.array_equal(found, pixels):
                raise SystemExit(f"{what}: {name} reads other pixels: not timed")
        if other is None:
            times = [cpu_ms(partial(decode_image, data)) for _ in range(repeat)]
            yield Value(f"{what} (OpenCV does not read it)", times, "ms")
            continue
        ours, theirs = [], []
        for _ in range(repeat):
            ours.append(cpu_ms(partial(decode_image, data)))
            theirs.append(cpu_ms(partial(by_opencv, data)))
        limit = 10 if compression == "none" else None
        yield Row(what, ours, "Pillow and OpenCV", theirs, "above", limit)


def main(
    repeat: int = 5, side_px: int = 3072, compressions: tuple[str, ...] = ("none", "lzw", "deflate", "zstd")
) -> None:
    """Print a line a kind of file, then one JSON line."""
    cv2.setNumThreads(1)
    versions = ", ".join(f"{name} {version(name)}" for name in ("tifffile", "imagecodecs", "opencv-python"))
    measurements = ((f"{bits}", partial(measure, side_px, repeat, compressions, bits)) for bits in (8, 16))
    about = f"{platform.machine()}, {side_px} x {side_px} pixels, {versions}"
    print_table(about, measurements, lambda _: None)


if __name__ == "__main__":
    tyro.cli(main)
