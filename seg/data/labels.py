"""One label file as a mask: a PNG of class ids, YOLO boxes, or boxes in JSON."""

import io
import json
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from seg.data.images import PILLOW_ERRORS, decode_image
from seg.errors import ImageError, LabelMismatch

IGNORE = 255
"""Truth that is not counted."""

LabelMap = Sequence[tuple[int, int]]
"""Pairs (id in the file, class id or 255), applied before ids are checked."""


def decode_label(
    data: bytes, path: Path, size: tuple[int, int], num_classes: int, label_map: LabelMap = ()
) -> NDArray[np.uint8]:
    """A label as a mask, uint8 [H, W]: class ids below `num_classes`, 255 ignored.

    data: the bytes of the file at `path`, whose extension says what it holds; size: (H, W) of its image.
    LabelMismatch, naming the file: another size, an unknown id or class, a file that does not parse.
    """
    if path.suffix.lower() == ".txt":
        return _draw_boxes(_parse_yolo(data, path, size), size, num_classes, path)
    if path.suffix.lower() == ".json":
        return _draw_boxes(_parse_json(data, path), size, num_classes, path)
    mask = _decode_ids(data, path, size)
    return _map_ids(mask, num_classes, label_map, path)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def _decode_ids(data: bytes, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if (opened.height, opened.width) != size:  # before anything is allocated
                found = _size((opened.height, opened.width))
                raise LabelMismatch(f"label {path} is {found} but its image is {_size(size)}")
            if opened.mode == "P":  # OpenCV would turn a palette's ids into its colours
                return np.asarray(opened, np.uint8)
        mask = decode_image(data)
    except UnidentifiedImageError:
        raise LabelMismatch(f"label {path} is no image; a mask is a PNG of class ids") from None
    except LabelMismatch:
        raise
    except (ImageError, *PILLOW_ERRORS) as error:
        raise LabelMismatch(f"label {path} cannot be read: {error}") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise LabelMismatch(
            f"label {path} is {mask.dtype} {mask.shape}, wanted 8-bit class ids of one channel"
        )
    return mask.astype(np.uint8, copy=False)


def _map_ids(mask: NDArray[np.uint8], num_classes: int, label_map: LabelMap, path: Path) -> NDArray[np.uint8]:
    table = np.arange(256, dtype=np.int16)
    for stored, meant in label_map:
        table[stored] = meant
    table[(table >= num_classes) & (table != IGNORE)] = -1  # ids that nobody knows, mapped or not
    mapped = cv2.LUT(mask, table)
    if mapped.min(initial=0) < 0:
        unknown = ", ".join(str(number) for number in np.unique(mask[mapped < 0])[:5])
        raise LabelMismatch(
            f"label {path} holds class id {unknown}, not below {num_classes} and not in label_map; "
            "add it to the recipe's label_map, or mend the file"
        )
    return mapped.astype(np.uint8)


Box = tuple[int, float, float, float, float]
"""Class id, then left, top, right, bottom in pixels."""


def _parse_yolo(data: bytes, path: Path, size: tuple[int, int]) -> list[Box]:
    height, width = size
    boxes: list[Box] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            kind, x, y, w, h = (float(field) for field in line.split())
            if not (kind.is_integer() and 0 <= x <= 1 and 0 <= y <= 1 and 0 <= w < inf and 0 <= h < inf):
                raise ValueError
        except ValueError:
            raise LabelMismatch(
                f"label {path}, line {number}: {line!r} is not 'class x y width height', shares of the image"
            ) from None
        left, top = (x - w / 2) * width, (y - h / 2) * height
        boxes.append((int(kind) + 1, left, top, left + w * width, top + h * height))
    return boxes


def _parse_json(data: bytes, path: Path) -> list[Box]:
    try:
        rows = [[float(value) for value in box] for box in json.loads(data)["boxes"]]
        if not all(isfinite(value) for row in rows for value in row) or any(min(row[2:]) < 0 for row in rows):
            raise ValueError("a box is not finite, or has a negative size")
        return [(1, x, y, x + w, y + h) for x, y, w, h in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise LabelMismatch(f'label {path} is not {{"boxes": [[x, y, w, h], ...]}}: {error}') from None


def _draw_boxes(boxes: list[Box], size: tuple[int, int], num_classes: int, path: Path) -> NDArray[np.uint8]:
    """Fill boxes in file order: later ones cover earlier ones, edges go to the nearest pixel border."""
    mask = np.zeros(size, np.uint8)
    for kind, *edges in boxes:
        if not 0 < kind < num_classes:
            raise LabelMismatch(
                f"label {path} has a box of class {kind - 1}, the model knows {num_classes - 1}"
            )
        left, top, right, bottom = (max(0, round(edge)) for edge in edges)
        mask[top:bottom, left:right] = kind
    return mask
