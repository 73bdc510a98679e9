"""CamVid with colours for classes, which class_dict.csv names: 32 of them, as 960 x 720 RGB masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.camvid import drive_of
from seg.data.labels import IGNORE, LabelMap, decode_colours, map_ids
from seg.data.layout import MAX_CLASSES, DataSet, Sample, read_lines
from seg.data.listing import is_inside, list_images
from seg.errors import LabelMismatch, RequestError

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""


@dataclass(frozen=True, slots=True)
class ColourMask:
    """Reads a mask whose colours stand for classes."""

    colours: tuple[Colour, ...]
    """Of each class, in id order."""

    def __call__(
        self, data: bytes, path: Path, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The mask; see LabelDecoder. LabelMismatch names the first pixel whose colour is no class's."""
        rgb = decode_colours(data, path, size)
        ids = np.take(_ids_by_code(self.colours), _codes(rgb))
        if (unknown := ids == IGNORE).any():
            row, column = divmod(int(unknown.argmax()), size[1])
            raise LabelMismatch(
                f"label {path} has colour {tuple(rgb[row, column].tolist())} at column {column}, row {row} "
                f"({np.count_nonzero(unknown)} such pixels), which class_dict.csv does not name"
            )
        return map_ids(ids, len(classes), label_map, path)


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Red, green and blue as one number each pixel, uint32 [H, W], of 24 bits."""
    with_zero = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    with_zero[:, :, 3] = 0
    return with_zero.view("<u4")[:, :, 0]


@lru_cache(maxsize=2)
def _ids_by_code(colours: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """The class of each of the 2^24 codes, 255 where it is none's; 16 MB, made once a process."""
    table = np.full(2**24, IGNORE, np.uint8)
    for number, colour in enumerate(colours):
        table[_codes(np.array([[colour]], np.uint8))] = number
    return table


def open_camvid_rgb(root: Path, sequence: str = "") -> DataSet:
    """Folders train, val and, where it is there, test, each beside its masks: train_labels/STEM_L.png, ...

    Class ids follow the order of class_dict.csv; Void is a class like the others (a label_map ignores it).
    sequence: the recipe's regular expression; without one, a frame's sequence is its drive.
    RequestError: a folder, class_dict.csv or a mask is missing; class_dict.csv does not parse.
    """
    names, colours = read_class_dict(root / "class_dict.csv")
    decoder = ColourMask(colours)
    train, validation = (_read_part(root, part, decoder, sequence) for part in ("train", "val"))
    test = _read_part(root, "test", decoder, sequence) if (root / "test").is_dir() else []
    split = (tuple(sample.name for sample in train), tuple(sample.name for sample in validation))
    return DataSet(root, names, (*train, *validation), split, tuple(test))


def _read_part(root: Path, part: str, decoder: ColourMask, sequence: str) -> list[Sample]:
    if not (root / part).is_dir():
        raise RequestError(f"data {root} has no {part}/; CamVid with colours has train/ and val/")
    samples = []
    for name in list_images(root / part).images:
        label = root / f"{part}_labels" / f"{Path(name).stem}_L.png"
        if not label.is_file():
            raise RequestError(f"data {root}: {part}/{name} has no mask {label}; add it, or remove the image")
        if not is_inside(label, label.parent.resolve()):
            raise RequestError(
                f"data {root}: mask {label} is a link out of its folder; put the file itself there"
            )
        samples.append(
            Sample(f"{part}/{name}", root / part / name, label, drive_of(f"{part}/{name}", sequence), decoder)
        )
    return samples


def read_class_dict(file: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a class_dict.csv, in its order, which is that of the ids.

    RequestError, naming file and line: no header 'name,r,g,b', a line that is no class, a repeated name or
    colour, more classes than ids.
    """
    if not file.is_file():
        raise RequestError(f"{file} is not there; it names the classes and their colours")
    rows = [(where, [field.strip() for field in line.split(",")]) for where, line in read_lines(file)]
    header = [field.lower() for field in rows[0][1]] if rows else []
    if header != ["name", "r", "g", "b"]:
        raise RequestError(f"{file}, line 1: it is not 'name,r,g,b'")
    found: dict[str, Colour] = {}
    for where, fields in rows[1:]:
        name, colour = _parse_class(fields, where)
        _refuse_repeated(name, colour, found, where)
        found[name] = colour
    if not 0 < len(found) <= MAX_CLASSES:
        raise RequestError(f"{file} has {len(found)} classes; give 1 to {MAX_CLASSES}")
    return tuple(found), tuple(found.values())


def _parse_class(fields: list[str], where: str) -> tuple[str, Colour]:
    try:
        name, red, green, blue = fields
        colour = int(red), int(green), int(blue)
        if not name or not all(0 <= value <= 255 for value in colour):
            raise ValueError
    except ValueError:
        raise RequestError(f"{where}: it is not a name and three numbers from 0 to 255") from None
    return name, colour


def _refuse_repeated(name: str, colour: Colour, found: dict[str, Colour], where: str) -> None:
    if name in found:
        raise RequestError(f"{where}: its class is there twice; give each class one line")
    if colour in found.values():
        raise RequestError(f"{where}: its colour is another class's too; a colour is one class")
