"""Masks whose colours stand for classes, and the tables that say which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, Content, LabelMap, decode_colours, map_ids
from seg.data.layout import MAX_CLASSES, read_lines
from seg.errors import LabelMismatch, RequestError

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
IGNORED = "ignore"
"""What a table of colours calls those that are not counted."""


@dataclass(frozen=True, slots=True)
class ColourMask:
    """Reads a mask whose colours stand for classes."""

    colours: tuple[Colour, ...]
    """Of each class, in id order; those after the classes' are ignored."""

    def __call__(
        self, data: Content, path: Path, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The mask; see LabelDecoder. LabelMismatch names the first pixel whose colour is no class's."""
        rgb = decode_colours(data, path, size)
        ids = np.take(_ids_by_code(self.colours), _codes(rgb))
        if (unknown := ids == IGNORE).any():
            row, column = divmod(int(unknown.argmax()), size[1])
            raise LabelMismatch(
                f"label {path} has colour {tuple(rgb[row, column].tolist())} at column {column}, row {row} "
                f"({np.count_nonzero(unknown)} such pixels), which the table of colours does not name"
            )
        ignored = ((number, IGNORE) for number in range(len(classes), len(self.colours)))
        return map_ids(ids, len(classes), (*ignored, *label_map), path)


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


def read_colours(file: Path) -> tuple[tuple[str, ...], ColourMask]:
    """Class names in id order, and what reads masks, of a table of colours: a line a class, `R G B NAME`.

    Pixels of colours that are named `ignore`, of which there may be several, are not counted. A file that
    ends in .csv is a class_dict.csv. RequestError: as of `read_class_dict`; no class in it.
    """
    if not file.is_file():
        raise RequestError(f"`label_colours={file}` is no file; give one with a line a class, R G B NAME")
    if file.suffix.lower() == ".csv":
        found = _read_rows(file, _csv_rows(file), IGNORED)
    else:
        fields = ((where, line.split(maxsplit=3)) for where, line in read_lines(file))
        found = _read_rows(file, ((where, [*row[3:], *row[:3]]) for where, row in fields), IGNORED)
    names = tuple(name for name in found.values() if name != IGNORED)
    if not names:
        raise RequestError(f"{file} names no class; give a line a class, R G B NAME")
    return names, ColourMask(tuple(sorted(found, key=lambda colour: found[colour] == IGNORED)))


def read_class_dict(file: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a class_dict.csv, in its order, which is that of the ids.

    RequestError, naming file and line: no header 'name,r,g,b', a line that is no class, a repeated name or
    colour, more classes than ids.
    """
    if not file.is_file():
        raise RequestError(f"{file} is not there; it names the classes and their colours")
    found = _read_rows(file, _csv_rows(file))
    return tuple(found.values()), tuple(found)


def _csv_rows(file: Path) -> list[tuple[str, list[str]]]:
    rows = [(where, [field.strip() for field in line.split(",")]) for where, line in read_lines(file)]
    header = [field.lower() for field in rows[0][1]] if rows else []
    if header != ["name", "r", "g", "b"]:
        raise RequestError(f"{file}, line 1: it is not 'name,r,g,b'")
    return rows[1:]


def _read_rows(
    file: Path, rows: Iterable[tuple[str, list[str]]], shared: str | None = None
) -> dict[Colour, str]:
    """The name of each colour. rows: where each stands; name, red, green and blue.

    shared: a name that several may have.
    """
    found: dict[Colour, str] = {}
    for where, fields in rows:
        try:
            name, *levels = fields
            red, green, blue = map(int, levels)
            if not name or not all(0 <= value <= 255 for value in (red, green, blue)):
                raise ValueError
        except ValueError:
            raise RequestError(f"{where}: it is not a name and three numbers from 0 to 255") from None
        if name in found.values() and name != shared:
            raise RequestError(f"{where}: its class is there twice; give each class one line")
        if (red, green, blue) in found:
            raise RequestError(f"{where}: its colour is another class's too; a colour is one class")
        found[red, green, blue] = name
    if not 0 < len(found) <= MAX_CLASSES:
        raise RequestError(f"{file} has {len(found)} classes; give 1 to {MAX_CLASSES}")
    return found
