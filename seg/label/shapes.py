"""Objects as pixels: what a model proposes, what a mask holds, what an ellipse in a drawn box means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg.data.boxes import Box
from seg.label.files import Mask, make_box
from seg.objects import find_objects


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An object of an image: its box, with whole edges inside the image, and which of its pixels it has."""

    box: Box
    pixels: NDArray[np.bool_]
    """[height, width] of the box."""

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of its box in the image."""
        top, left = int(self.box.top), int(self.box.left)
        height, width = self.pixels.shape
        return slice(top, top + height), slice(left, left + width)

    def covers(self, point: tuple[float, float]) -> bool:
        """Whether the pixel at a point (x, y) in own pixels is the object's."""
        x, y = point[0] - self.box.left, point[1] - self.box.top
        height, width = self.pixels.shape
        return 0 <= x < width and 0 <= y < height and bool(self.pixels[int(y), int(x)])


Shapes = tuple[Shape, ...]


def find_shapes(ids: Mask, num_classes: int, min_object_px: int = 1) -> Shapes:
    """The objects of a mask, in the order of `find_objects`; 255 is in none."""
    found = find_objects(ids, num_classes, min_object_px)
    corners = [(x, y, x + width, y + height) for x, y, width, height in found.boxes.tolist()]
    pixels = [np.zeros((height, width), np.bool_) for _, _, width, height in found.boxes.tolist()]
    chords = found.chords
    for row, start, stop, owner in zip(
        *(part.tolist() for part in (chords.rows, chords.starts, chords.stops, chords.owners)), strict=True
    ):
        left, top, *_ = corners[owner]
        pixels[owner][row - top, start - left : stop - left] = True
    boxes = (make_box(kind, *edges) for kind, edges in zip(found.class_ids.tolist(), corners, strict=True))
    return tuple(map(Shape, boxes, pixels))


def fill_ellipse(box: Box) -> Shape:
    """The pixels whose centres lie in the ellipse that touches a box's edges, which are whole."""
    height, width = int(box.bottom - box.top), int(box.right - box.left)
    y, x = ((np.arange(length) + 0.5) / length * 2 - 1 for length in (height, width))
    return Shape(box, y[:, None] ** 2 + x**2 <= 1)


def fill_box(box: Box) -> Shape:
    """All pixels of a box, whose edges are whole."""
    return Shape(box, np.ones((int(box.bottom - box.top), int(box.right - box.left)), np.bool_))


def paint(mask: Mask, shapes: Iterable[Shape]) -> Mask:
    """A mask with objects on it: later ones cover earlier ones."""
    painted = mask.copy()
    for shape in shapes:
        painted[shape.region][shape.pixels] = shape.box.kind
    return painted


def erase(mask: Mask, shape: Shape) -> Mask:
    """A mask with background where an object was."""
    erased = mask.copy()
    erased[shape.region][shape.pixels] = 0
    return erased


def find_shape(shapes: Sequence[Shape], point: tuple[float, float] | None) -> Shape | None:
    """The object that has the pixel at a point (x, y) in own pixels."""
    return next((shape for shape in shapes if point is not None and shape.covers(point)), None)
