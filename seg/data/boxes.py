"""Boxes of a label file, YOLO's or in JSON, and the mask that they make."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.errors import DataWarning, LabelMismatch

YOLO_FIELDS = ("class", "x", "y", "width", "height")
YOLO_SHAPE = "'class x y width height', a whole number and four shares of the image"
JSON_FIELDS = ("x", "y", "width", "height")
JSON_SHAPE = '{"boxes": [[x, y, width, height], ...]}'
LARGEST_SHARE = 2.0
"""A YOLO number beyond it was meant in pixels; up to it a box may reach out of its image."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a label file: its class id and, in pixels, its edges."""

    kind: int
    left: float
    top: float
    right: float
    bottom: float
    where: str
    """File and line, for messages."""


def parse_yolo(data: bytes, path: Path, size: tuple[int, int]) -> list[Box]:
    """Boxes of a YOLO file, in pixels of an image of that size. LabelMismatch: a line that does not parse."""
    height, width = size
    boxes: list[Box] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"label {path}, line {number}"
        kind, x, y, w, h = _parse_line(line.split(), where)
        left, top = (x - w / 2) * width, (y - h / 2) * height
        boxes.append(Box(int(kind) + 1, left, top, left + w * width, top + h * height, where))
    return boxes


def _parse_line(fields: list[str], where: str) -> list[float]:
    if len(fields) != len(YOLO_FIELDS):
        raise LabelMismatch(f"{where}: its fields are {len(fields)}, not {YOLO_SHAPE}")
    numbers = [_to_number(field) for field in fields]
    for name, number in zip(YOLO_FIELDS, numbers, strict=True):
        least = -LARGEST_SHARE if name in ("x", "y") else 0  # a box may reach out of its image
        fits = number.is_integer() if name == "class" else least <= number <= LARGEST_SHARE
        if not fits:
            raise LabelMismatch(f"{where}: field {name} is not as in {YOLO_SHAPE}")
    return numbers


def _to_number(field: str) -> float:
    """A field of a line as a number; NaN where it is none."""
    try:
        return float(field)
    except ValueError:
        return math.nan


def parse_json(data: bytes, path: Path, classes: Sequence[str]) -> list[Box]:
    """Boxes of a JSON file. LabelMismatch: it does not parse; it names a class that is none of `classes`."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise LabelMismatch(f"label {path} is no JSON{line}; wanted {JSON_SHAPE}") from None
    boxes = content.get("boxes") if isinstance(content, dict) else None
    if not isinstance(boxes, list):
        raise LabelMismatch(f"label {path} has no list of boxes; wanted {JSON_SHAPE}")
    kinds = [1] * len(boxes)
    if "classes" in content:
        kinds = _find_kinds(content["classes"], len(boxes), path, classes)
    found = []
    for number, (box, kind) in enumerate(zip(boxes, kinds, strict=True), start=1):
        where = f"label {path}, box {number}"
        x, y, w, h = _parse_box(box, where)
        found.append(Box(kind, x, y, x + w, y + h, where))
    return found


def _find_kinds(names: object, boxes: int, path: Path, classes: Sequence[str]) -> list[int]:
    """The class id of each box: of the name that its entry in "classes" is."""
    known = {name: kind for kind, name in enumerate(classes) if kind > 0}
    if not isinstance(names, list) or len(names) != boxes:
        found = f"{len(names)} entries" if isinstance(names, list) else "no list"
        raise LabelMismatch(
            f'label {path}: its "classes" are {found} for {boxes} boxes; give a name for each box'
        )
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or name not in known:
            raise LabelMismatch(
                f'label {path}, box {number}: its entry in "classes" is none of the classes that boxes have '
                f"here: {', '.join(known) or 'none'}"
            )
    return [known[name] for name in names]


def _parse_box(box: object, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != len(JSON_FIELDS):
        raise LabelMismatch(f"{where} is not four numbers; wanted {JSON_SHAPE}")
    numbers = [_to_pixel(value) for value in box]
    for name, number in zip(JSON_FIELDS, numbers, strict=True):
        if not math.isfinite(number):
            raise LabelMismatch(f"{where}: field {name} is not a finite number of pixels")
        if number < 0 and name in ("width", "height"):
            raise LabelMismatch(f"{where}: field {name} is a negative size")
    return numbers


def _to_pixel(value: object) -> float:
    """A value of a JSON file as a number; NaN where it is none, infinity where it has too many digits."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def to_pixels(boxes: list[Box], size: tuple[int, int], num_classes: int) -> NDArray[np.int64]:
    """Class id, x, y, width, height of the pixels in each box: edges go to the nearest pixel border."""
    height, width = size
    rows = []
    for box in boxes:
        if not 0 < box.kind < num_classes:
            raise LabelMismatch(f"{box.where}: {describe_kinds(num_classes)}")
        if box.right <= box.left or box.bottom <= box.top:
            continue  # cv2.selectROI gives such a box when it is cancelled
        check_inside((box.left, box.top, box.right, box.bottom), size, f"{box.where}: the box")
        left, right = (min(max(0, round(edge)), width) for edge in (box.left, box.right))
        top, bottom = (min(max(0, round(edge)), height) for edge in (box.top, box.bottom))
        if left < right and top < bottom:
            rows.append((box.kind, left, top, right - left, bottom - top))
    return np.array(rows, np.int64).reshape(-1, 5)


def draw_boxes(boxes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fill boxes of whole pixels in file order: later ones cover earlier ones."""
    mask = np.zeros(size, np.uint8)
    for kind, x, y, width, height in boxes.tolist():
        mask[y : y + height, x : x + width] = kind
    return mask


def check_inside(edges: tuple[float, float, float, float], size: tuple[int, int], what: str) -> None:
    """Compare a shape's edges (left, top, right, bottom, in pixels) with its image's.

    LabelMismatch: it lies wholly outside. DataWarning: it reaches out once rounded to pixel borders.
    """
    left, top, right, bottom = edges
    height, width = size
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise LabelMismatch(f"{what} lies outside its image of {describe_size(size)}; mend or remove it")
    if min(round(left), round(top)) < 0 or round(right) > width or round(bottom) > height:
        clipped = f"{what} reaches outside its image of {describe_size(size)} and is clipped"
        warnings.warn(clipped, DataWarning, stacklevel=2)


def describe_kinds(num_classes: int) -> str:
    """What is wrong with a box whose class is not known, in words."""
    boxed = num_classes - 1
    return (
        f"its class is none of the {boxed} that boxes have here, which count from 0"
        if boxed
        else "boxes have no class here"
    )


def describe_size(size: tuple[int, int]) -> str:
    """(H, W) in words, width first."""
    return f"{size[1]} x {size[0]} pixels"
