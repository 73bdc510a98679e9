"""CamVid: as published with colours, and in the layout of SegNet's authors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, LabelMap, decode_colours, map_ids
from seg.data.layout import MAX_CLASSES, DataSet, Sample, read_lines, require_file
from seg.data.listing import is_inside, list_images, sequence_of
from seg.errors import LabelMismatch, RequestError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "signsymbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""The eleven that count; id 11, void, is ignored by the recipe's label_map."""
VOID = ((11, 255),)
Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""


def open_camvid(root: Path, sequence: str = "") -> DataSet:
    """CamVid's train.txt and val.txt, which are the split; test.txt, where it is there, is the test part.

    sequence: the recipe's regular expression; without one, a frame's sequence is its drive (0001TP, 0006R0).
    RequestError: a list is missing, a line is no pair, a listed file is not there, or not in `root`.
    """
    for name in ("train.txt", "val.txt"):
        if not (root / name).is_file():
            raise RequestError(
                f"data {root} has no {name}; CamVid in the 12-id layout has train.txt and val.txt"
            )
    train, validation = (_read_list(root / name, sequence) for name in ("train.txt", "val.txt"))
    test = _read_list(root / "test.txt", sequence) if (root / "test.txt").is_file() else []
    split = (tuple(sample.name for sample in train), tuple(sample.name for sample in validation))
    return DataSet(root, CLASSES, (*train, *validation), split, tuple(test), label_map=VOID)


def _read_list(file: Path, sequence: str) -> list[Sample]:
    root, samples = file.parent, []
    for where, line in read_lines(file):
        fields = line.split()
        if len(fields) != 2:
            raise RequestError(f"{where}: its fields are {len(fields)}, not 'image annotation'")
        image, label = (
            require_file(root, name, f"{where}, field {kind}")
            for kind, name in zip(("image", "annotation"), fields, strict=True)
        )
        samples.append(Sample(fields[0], image, label, drive_of(fields[0], sequence)))
    return samples


def drive_of(image: str, pattern: str) -> str:
    """A frame's sequence: by the recipe's pattern, else its drive, the file's name up to the first _."""
    return sequence_of(image, pattern) if pattern else Path(image).name.partition("_")[0]


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
        try:
            name, *levels = fields
            red, green, blue = map(int, levels)
            if not name or not all(0 <= value <= 255 for value in (red, green, blue)):
                raise ValueError
        except ValueError:
            raise RequestError(f"{where}: it is not a name and three numbers from 0 to 255") from None
        if name in found:
            raise RequestError(f"{where}: its class is there twice; give each class one line")
        if (red, green, blue) in found.values():
            raise RequestError(f"{where}: its colour is another class's too; a colour is one class")
        found[name] = red, green, blue
    if not 0 < len(found) <= MAX_CLASSES:
        raise RequestError(f"{file} has {len(found)} classes; give 1 to {MAX_CLASSES}")
    return tuple(found), tuple(found.values())
