"""Images that nobody can score, in twelve ways, with what their quarantine rows must say."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.conftest import draw_disc
from tests.small import write_image

SIZE = (40, 48)


class Bad(NamedTuple):
    """A way to be bad."""

    name: str
    """Of the image, with a number to come."""
    reason: str
    says: str
    """Part of its row's detail."""
    write: Callable[[Path, Path], None]
    """Spoils a sound image at the first path or its label at the second."""


def _cut(image: Path, label: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def _flip(image: Path, label: Path) -> None:
    data = bytearray(image.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 255 for byte in data[middle : middle + 8])
    image.write_bytes(data)


def _announce(image: Path, label: Path) -> None:
    """A PNG whose header, sound by its checksum, announces 100000 x 100000 pixels."""
    data = bytearray(image.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    image.write_bytes(data)


def _shrink_label(image: Path, label: Path) -> None:
    write_image(label, np.zeros((SIZE[0], SIZE[1] - 1), np.uint8))


def _invent_class(image: Path, label: Path) -> None:
    write_image(label, np.full(SIZE, 7, np.uint8))


def _empty(image: Path, label: Path) -> None:
    image.write_bytes(b"")


def _write_text(image: Path, label: Path) -> None:
    image.write_text("frame lost at 3 a.m.\n" * 9)


def _pipe(image: Path, label: Path) -> None:
    image.unlink()
    os.mkfifo(image)


def _add_alpha(image: Path, label: Path) -> None:
    write_image(image, np.zeros((*SIZE, 4), np.uint8))


def _make_float(image: Path, label: Path) -> None:
    write_image(image, np.zeros(SIZE, np.float32))


def _make_objects(image: Path, label: Path) -> None:
    with image.open("wb") as file:
        np.save(file, np.array([[image, label]], object), allow_pickle=True)


BAD = (
    Bad("empty.png", "empty", "no bytes", _empty),
    Bad("text.png", "unreadable", "no PNG, BMP, TIFF, JPEG or NPY", _write_text),
    Bad("cut.png", "truncated", "ends after", _cut),
    Bad("cut.jpg", "truncated", "ends after", _cut),
    Bad("flipped.png", "unreadable", "damaged", _flip),
    Bad("huge.png", "too_large", "announces 100000 x 100000", _announce),
    Bad("alpha.png", "unsupported", "alpha", _add_alpha),
    Bad("float.tif", "unsupported", "floating point of 32 bits", _make_float),
    Bad("label-size.png", "label_mismatch", "is 47 x 40 pixels but its image is 48 x 40", _shrink_label),
    Bad("label-id.png", "label_mismatch", "class id 7", _invent_class),
    Bad("pipe.tif", "unreadable", "no file", _pipe),
    Bad("objects.npy", "unsupported", "object", _make_objects),
)
GOOD = (".png", ".bmp", ".jpg", ".tif", ".npy")


def write_archive_with_bad_images(root: Path, *, good: int, of_each: int) -> dict[str, Bad | None]:
    """An archive in the plain layout; each image, by its name, and what is wrong with it.

    Bad ones are spread among the good, which are of several formats and depths; all have a label.
    """
    images: dict[str, Bad | None] = {}
    for number in range(good):
        images[f"s{number % 3}/{number}{GOOD[number % len(GOOD)]}"] = None
    for number in range(of_each):
        images |= {f"s{number % 3}/{number * 50}-{bad.name}": bad for bad in BAD}
    for number, (name, bad) in enumerate(images.items()):
        pixels, mask = draw_disc(SIZE, np.random.default_rng(number))
        image, label = root / "images" / name, root / "masks" / f"{name}.png"
        write_image(label, mask)
        if image.suffix == ".npy":
            image.parent.mkdir(parents=True, exist_ok=True)
            np.save(image, pixels.astype(np.uint16) * 257)
        else:
            write_image(image, pixels)
        if bad:
            bad.write(image, label)
    (root / "classes.txt").write_text("background\ndisc\n")
    return images
