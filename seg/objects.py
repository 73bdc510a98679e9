"""Objects of a mask, which labs count and crop: connected components of its classes (docs/formats.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.strips import Strips, cut_strips, join_strips

CHUNK_PX = 1 << 18
"""Pixels whose probabilities are looked up together."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The N objects of one mask, by class, then top, then left of their boxes, then first pixel in a row."""

    class_ids: NDArray[np.int64]
    """[N]; never 0, which is background."""
    boxes: NDArray[np.int64]
    """[N, 4]: x, y, width, height in own pixels."""
    areas: NDArray[np.int64]
    """[N]: own pixels."""
    centroids: NDArray[np.float64]
    """[N, 2]: mean x and y of their pixels; the image's first pixel is at 0, 0."""
    confidences: NDArray[np.float64]
    """[N]: mean top probability of their pixels; NaN where none is known."""
    touches_border: NDArray[np.bool_]
    """[N]: whether a pixel lies on the image's border, so that the object may go on beyond it."""
    strips: Strips
    """Their pixels in reading order; owners are places in the arrays above."""

    def __len__(self) -> int:
        return len(self.areas)


def find_objects(
    ids: NDArray[np.uint8],
    num_classes: int,
    min_object_px: int,
    probability: NDArray[np.float32] | None = None,
) -> Objects:
    """The 8-connected components of each class but background (0), of at least `min_object_px` own pixels.

    ids: uint8 [H, W]; an id that is no class, as 255, is in no object. probability: the top probability of
    each working pixel, float32 [h, w]; an own pixel takes that of the working pixel its centre lies in.
    """
    strips = cut_strips(ids)
    strips = strips.take((strips.owners > 0) & (strips.owners < num_classes))
    components = join_strips(strips)
    by_component = np.argsort(components, kind="stable")  # within one still in reading order
    parts = strips.take(by_component)
    first = np.flatnonzero(np.diff(components[by_component], prepend=-1))
    areas, boxes, class_ids = np.add.reduceat(parts.lengths, first), _boxes(parts, first), parts.owners[first]
    order = np.lexsort((by_component[first], boxes[:, 0], boxes[:, 1], class_ids))
    order = order[areas[order] >= min_object_px]
    objects = np.full(len(first), -1)
    objects[order] = np.arange(len(order))
    found = strips.owned(objects[components])
    size = (ids.shape[0], ids.shape[1])
    sums = _sum_probabilities(strips, size, probability)
    return Objects(
        class_ids[order],
        boxes[order],
        areas[order],
        _centroids(parts, first, areas)[order],
        (np.add.reduceat(sums[by_component], first) / areas)[order],
        _touches_border(boxes[order], size),
        found.take(found.owners >= 0),
    )


def object_rows(image: str, objects: Objects, ious: NDArray[np.float64] | None) -> list[dict[str, Any]]:
    """Objects of an image as rows of a scores folder's objects/, with None where a number is undefined.

    ious: of `match_objects`; None: the image has no label.
    """
    names = ("class_id", "x", "y", "width", "height", "area", "centroid_x", "centroid_y")
    columns: Sequence[Sequence[Any]] = (
        objects.class_ids.tolist(),
        *objects.boxes.T.tolist(),
        objects.areas.tolist(),
        *objects.centroids.T.tolist(),
        _without_nan(objects.confidences),
        objects.touches_border.tolist(),
        _without_nan(np.full(len(objects), np.nan) if ious is None else ious),
    )
    names = (*names, "confidence", "touches_border", "iou")
    return [{"image": image, **dict(zip(names, row, strict=True))} for row in zip(*columns, strict=True)]


def _boxes(parts: Strips, first: NDArray[np.int64]) -> NDArray[np.int64]:
    left, right = np.minimum.reduceat(parts.starts, first), np.maximum.reduceat(parts.stops, first)
    top, bottom = parts.rows[first], np.maximum.reduceat(parts.rows, first) + 1
    return np.stack([left, top, right - left, bottom - top], 1)


def _centroids(parts: Strips, first: NDArray[np.int64], areas: NDArray[np.int64]) -> NDArray[np.float64]:
    columns = (parts.starts + parts.stops - 1) * parts.lengths // 2  # their sum: the product is always even
    sums = [np.add.reduceat(part, first) for part in (columns, parts.rows * parts.lengths)]
    return np.stack(sums, 1) / areas[:, None]


def _sum_probabilities(
    strips: Strips, size: tuple[int, int], probability: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Sum over each strip's pixels of the nearest working pixel's probability; NaN where none is known.

    By parts of some CHUNK_PX pixels, so that neither the image's size nor its objects' decide the memory.
    """
    if probability is None:
        return np.full(len(strips.rows), np.nan)
    rows, columns = (_nearest(own, working) for own, working in zip(size, probability.shape, strict=True))
    sums, chunks = [], np.cumsum(strips.lengths) // CHUNK_PX
    for chosen in np.split(np.arange(len(chunks)), np.flatnonzero(np.diff(chunks)) + 1):
        part = strips.take(chosen)
        begins = np.cumsum(part.lengths) - part.lengths
        place = np.arange(part.lengths.sum()) + np.repeat(part.starts - begins, part.lengths)
        sampled = probability[np.repeat(rows[part.rows], part.lengths), columns[place]]
        sums.append(np.add.reduceat(sampled, begins, dtype=np.float64))
    return np.concatenate(sums)


def _nearest(own: int, working: int) -> NDArray[np.int64]:
    """The working pixel that each own pixel's centre lies in, along one side, in whole numbers."""
    return (2 * np.arange(own) + 1) * working // (2 * own)


def _touches_border(boxes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    left, top, width, height = boxes.T
    return (left == 0) | (top == 0) | (left + width == size[1]) | (top + height == size[0])


def _without_nan(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
