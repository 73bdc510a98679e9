"""The picture in the window: words above, below them the image scaled to fit, with its objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.boxes import Box
from seg.data.images import Pixels
from seg.figures.panels import as_rgb, class_colours, resize, stretch, to_rgb
from seg.label.files import Boxes
from seg.label.shapes import Shape, Shapes

Picture = NDArray[np.uint8]
"""[H, W, 3] in OpenCV's order, blue first."""
Colour = tuple[int, int, int]
"""Blue, green, red."""
Words = tuple[str, Colour]
"""A piece of a line that is not broken, and its colour."""

INK, DIM, NOTICE = (240, 240, 240), (170, 170, 170), (80, 215, 255)
PAPER, GROUND, FRAME = (32, 32, 32), (12, 12, 12), (80, 80, 80)
MARGIN_PX = 8
"""Around the image, so that the mouse can go past its edges and a box reach them."""
FONT, FONT_SCALE, LINE_PX, GAP_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.55, 24, 18
DASH_PX = 5
DARKEST, BLUE_LEFT = 160, 0.7
"""What stands below a box that is being drawn: `show_below_box`."""
FONT_FITS_PX = 1200
"""Letters grow with windows wider than this, as on screens of many small pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image of `own` size (H, W) stands in the picture: left, top, and its size there (H, W)."""

    own: tuple[int, int]
    left: int
    top: int
    shown: tuple[int, int]

    @staticmethod
    def fit(own: tuple[int, int], picture: tuple[int, int], top: int) -> "Placement":
        """As large as it goes in the middle of a picture of size (H, W), below `top`, with a margin."""
        room = (max(1, picture[0] - top - 2 * MARGIN_PX), max(1, picture[1] - 2 * MARGIN_PX))
        scale = min(room[0] / own[0], room[1] / own[1])
        height, width = (max(1, round(side * scale)) for side in own)
        return Placement(own, max(0, (picture[1] - width) // 2), top + MARGIN_PX, (height, width))

    def to_own(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int] | None:
        """A rectangle of the picture as left, top, right, bottom in own pixels, clipped; None: empty."""
        left, right = (
            self._own_border(edge - self.left, self.own[1], self.shown[1]) for edge in (x, x + width)
        )
        top, bottom = (
            self._own_border(edge - self.top, self.own[0], self.shown[0]) for edge in (y, y + height)
        )
        return (left, top, right, bottom) if left < right and top < bottom else None

    def to_picture(self, box: Box) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a box in the picture, at the nearest pixel borders."""
        left, right = (
            self.left + round(edge * self.shown[1] / self.own[1]) for edge in (box.left, box.right)
        )
        top, bottom = (self.top + round(edge * self.shown[0] / self.own[0]) for edge in (box.top, box.bottom))
        return left, top, right, bottom

    def point_to_own(self, x: int, y: int) -> tuple[float, float]:
        """The middle of a pixel of the picture, (x, y) in own pixels; also outside the image."""
        return (
            (x - self.left + 0.5) * self.own[1] / self.shown[1],
            (y - self.top + 0.5) * self.own[0] / self.shown[0],
        )

    @staticmethod
    def _own_border(edge: int, own: int, shown: int) -> int:
        return round(min(max(edge, 0), shown) * own / shown)


def scale_image(pixels: Pixels, shown: tuple[int, int]) -> Picture:
    """An image as the eye wants it, at size (H, W): 16 bits stretched to 8, gray or RGB to blue first."""
    scaled = resize(pixels, shown)
    return as_rgb(stretch(scaled) if scaled.dtype == np.uint16 else scaled)[:, :, ::-1]


def show_below_box(pixels: Pixels, shown: tuple[int, int]) -> Picture:
    """An image for cv2.selectROI, which draws in pure blue: gray at size (H, W) in light shades of cream.

    Blue on them has the contrast of 3:1 that W3C asks for (WCAG 2.2, 1.4.11), be the image dark or bright.
    """
    gray = cv2.cvtColor(scale_image(pixels, shown), cv2.COLOR_BGR2GRAY)
    shades = DARKEST + stretch(gray) * ((255 - DARKEST) / 255)
    return np.stack([shades * BLUE_LEFT, shades, shades], axis=2).round().astype(np.uint8)


def draw_banner(lines: Sequence[Sequence[Words]], width: int, least_height: int = 0) -> Picture:
    """Lines of words, broken where they do not fit, on a strip [height, width, 3]."""
    scale = FONT_SCALE * max(1.0, width / FONT_FITS_PX)
    line_px, gap_px = (round(length * scale / FONT_SCALE) for length in (LINE_PX, GAP_PX))
    placed: list[tuple[str, Colour, int, int]] = []
    row = 0
    for words in lines:
        row, x = row + 1, MARGIN_PX
        for text, colour in words:
            text_px = cv2.getTextSize(text, FONT, scale, 1)[0][0]
            if x > MARGIN_PX and x + text_px > width - MARGIN_PX:
                row, x = row + 1, MARGIN_PX
            placed.append((text, colour, x, row * line_px - line_px // 4))
            x += text_px + gap_px
    banner = np.full((max(least_height, row * line_px + MARGIN_PX), width, 3), PAPER, np.uint8)
    for text, colour, x, y in placed:
        cv2.putText(banner, text, (x, y), FONT, scale, colour, 1, cv2.LINE_AA)
    return banner


def compose(size: tuple[int, int], banner: Picture, placement: Placement, scaled: Picture) -> Picture:
    """A picture of `size` (H, W): the banner at its top, the scaled image in its place, framed."""
    picture = np.full((*size, 3), GROUND, np.uint8)
    picture[: len(banner)] = banner
    top, left, (height, width) = placement.top, placement.left, placement.shown
    cv2.rectangle(picture, (left - 1, top - 1), (left + width, top + height), FRAME, 1)
    room = picture[top : top + height, left : left + width]  # less than the image in a tiny window
    room[:] = scaled[: room.shape[0], : room.shape[1]]
    return picture


def draw_boxes(
    picture: Picture,
    placement: Placement,
    boxes: Boxes,
    colours: Sequence[Colour],
    pointed: Box | Shape | None = None,
) -> None:
    """Outline boxes in their class's colour, the one pointed at thicker."""
    for box in boxes:
        left, top, right, bottom = placement.to_picture(box)
        corners = (left, top), (max(left, right - 1), max(top, bottom - 1))
        thickness = 4 if box is pointed else 2
        cv2.rectangle(picture, *corners, GROUND, thickness + 2)  # a dark edge: seen on any ground
        cv2.rectangle(picture, *corners, colours[box.kind], thickness)


def draw_shapes(
    picture: Picture,
    placement: Placement,
    shapes: Shapes,
    colours: Sequence[Colour],
    *,
    proposed: bool = False,
    pointed: Box | Shape | None = None,
) -> None:
    """Outline objects along their pixels in their class's colour, as boxes; those only proposed dashed."""
    for shape in shapes:
        thickness = (2 if proposed else 4) if shape is pointed else (1 if proposed else 2)
        outlines = _outline(shape, placement)
        cv2.polylines(picture, outlines, True, GROUND, thickness + 2)
        lines = [dash for outline in outlines for dash in _cut(outline)] if proposed else outlines
        cv2.polylines(picture, lines, not proposed, colours[shape.box.kind], thickness)


def _outline(shape: Shape, placement: Placement) -> list[NDArray[np.int32]]:
    """The outlines of an object and of its holes in the picture, each [N, 1, 2]: x and y."""
    found, _ = cv2.findContours(shape.pixels.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    scale = placement.shown[1] / placement.own[1], placement.shown[0] / placement.own[0]
    corner, place = (shape.box.left, shape.box.top), (placement.left, placement.top)
    return [np.int32(np.floor((points + corner + 0.5) * scale + place)) for points in found]  # type: ignore[misc]


def _cut(outline: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Steps of an outline that dashes cover, each [2, 1, 2]."""
    ends = np.roll(outline, -1, axis=0)
    along = np.hypot(*(ends - outline)[:, 0].T).cumsum()
    return list(np.stack([outline, ends], axis=1)[along // DASH_PX % 2 == 0])


def box_colours(classes: Sequence[str]) -> list[Colour]:
    """The colour of each class in id order, the same as in figures and reports."""
    return [(blue, green, red) for red, green, blue in map(to_rgb, class_colours(classes))]
