"""Panels of a figure: an image, its masks and its errors as RGB pixels, small enough to look at."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.images import Pixels
from seg.data.labels import IGNORE
from seg.data.preprocess import shrink_mask

BACKGROUND, IGNORED = "#3b4354", "#b8c0c8"
MISSED, INVENTED, CONFUSED = "#d55e00", "#8f63e8", "#0f8b8d"
COLOURS = (
    *("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#900000"),
    *("#b0f0c0", "#7000a0", "#a070f0", "#a05040", "#805080", "#e0c080", "#7020d0", "#90b080"),
    *("#9050e0", "#50f0f0", "#c030b0", "#e08020", "#8090d0", "#702030", "#c0a0c0", "#d02000"),
    *("#900070", "#a06080", "#70d0f0", "#d0f090", "#804040", "#90a050", "#a08050", "#b01010"),
)
"""Okabe and Ito's seven, then those farthest in OKLab from all before them, from background and from ignored,
both to normal sight and to three kinds of colour blindness (Machado et al. 2009); neither grays nor neons."""
STRETCH_PERCENTILES = (0.5, 99.5)
"""Intensities shown as black and as white; for display alone."""
HATCH, HATCH_PX = "#95a0ac", 8
"""The stripes on ignored pixels, and from one stripe to the next."""
DIM = 0.4
"""How bright right pixels are in an error panel."""
TINT = 0.35
"""How much of an object in an overlay is its colour, and not the image."""

Panel = NDArray[np.uint8]
"""RGB, [h, w, 3]."""


def class_colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class in id order; they repeat after 32, slate is background's."""
    rest = classes[1:] if has_background(classes) else classes
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(rest))]
    return [BACKGROUND, *colours] if has_background(classes) else colours


def class_palette(classes: Sequence[str]) -> bytes:
    """The same colours as a PNG's palette: red, green and blue of each class in id order."""
    return b"".join(map(bytes, map(to_rgb, class_colours(classes))))


def has_background(classes: Sequence[str]) -> bool:
    """Whether class 0 is what lies around the objects."""
    return classes[0].lower() == "background"


def error_legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """What an error panel distinguishes, with its colours."""
    if not has_background(classes):
        return [("another class than the truth", MISSED)]
    legend = [("missed: predicted as background", MISSED), ("invented: background in truth", INVENTED)]
    return legend if len(classes) == 2 else [*legend, ("another class than the truth", CONFUSED)]


def to_rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


class Kind(IntEnum):
    """What a pixel is to an error panel."""

    RIGHT = 0
    IGNORED = 1
    MISSED = 2
    """Of an object, but predicted as background; or any wrong class, where there is no background."""
    INVENTED = 3
    """Of background, but predicted as an object."""
    CONFUSED = 4
    """Of one object, but predicted as another."""


ERROR_COLOURS = (IGNORED, IGNORED, MISSED, INVENTED, CONFUSED)
"""By Kind; what is shown where a pixel is right is the panel's affair."""


def fit_size(height: int, width: int, side_px: int) -> tuple[int, int]:
    """The largest height and width of an image's proportions in a square; at least 1 pixel."""
    scale = side_px / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def show_pixels(pixels: Pixels, size: tuple[int, int]) -> Panel:
    """An image of any depth at another size, its contrast stretched over all channels alike."""
    return as_rgb(stretch(resize(pixels, size)))


def resize(pixels: Pixels, size: tuple[int, int]) -> NDArray[Any]:
    """An image at another size (H, W), of its own depth: reduced by area, or enlarged pixel by pixel."""
    by_area = size[0] <= pixels.shape[0] and size[1] <= pixels.shape[1]
    method = cv2.INTER_AREA if by_area else cv2.INTER_NEAREST_EXACT  # enlarged, a pixel is a square
    return cv2.resize(pixels, size[::-1], interpolation=method)


def as_rgb(pixels: NDArray[np.uint8]) -> Panel:
    """8 bits of gray or RGB as RGB."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def stretch(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Intensities as 8 bits for the eye: black and white are at STRETCH_PERCENTILES; all alike are black."""
    values = pixels.astype(np.float32)
    low, high = np.percentile(values, STRETCH_PERCENTILES)
    return np.clip((values - low) * (255 / max(high - low, 1)), 0, 255).round().astype(np.uint8)


def show_mask(mask: NDArray[np.uint8], size: tuple[int, int], classes: Sequence[str]) -> Panel:
    """A mask at another size, the class at each pixel's centre, in its classes' colours; 255 is hatched."""
    table = np.full((IGNORE + 1, 3), to_rgb(IGNORED), np.uint8)
    table[: len(classes)] = [to_rgb(colour) for colour in class_colours(classes)]
    shown = shrink_mask(mask, size)
    return hatch(table[shown], shown == IGNORE)


def show_overlay(image: Panel, mask: NDArray[np.uint8], classes: Sequence[str]) -> Panel:
    """An image tinted in its classes' colours, in full where one class meets another; background is clear.

    image: as `show_pixels` gives it; the mask is brought to its size.
    """
    size = (image.shape[0], image.shape[1])
    colours, ids = show_mask(mask, size, classes), shrink_mask(mask, size)
    block = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(ids, block) != cv2.erode(ids, block)
    tinted = cv2.addWeighted(image, 1 - TINT, colours, TINT, 0)
    panel = np.where(edges[:, :, None], colours, tinted).astype(np.uint8)
    clear = ids == 0 if has_background(classes) else np.zeros(size, np.bool_)
    return np.where(clear[:, :, None], image, panel)


def show_errors(
    image: Panel, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: Sequence[str]
) -> Panel:
    """Where truth and prediction differ, in the colours of `error_legend`, over the image, gray and dim.

    image: as `show_pixels` gives it; the masks are brought to its size.
    """
    size = (image.shape[0], image.shape[1])
    kinds = classify_errors(shrink_mask(truth, size), shrink_mask(prediction, size), classes)
    colours = np.array([to_rgb(colour) for colour in ERROR_COLOURS], np.uint8)
    dim = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * DIM).astype(np.uint8)
    panel = np.where((kinds == Kind.RIGHT)[:, :, None], dim[:, :, None], colours[kinds])
    return hatch(panel, kinds == Kind.IGNORED)


def classify_errors(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: Sequence[str]
) -> NDArray[np.uint8]:
    """The Kind of each pixel, uint8 of the masks' shape."""
    kinds = np.full(truth.shape, Kind.MISSED, np.uint8)
    if has_background(classes):
        kinds[prediction > 0] = Kind.CONFUSED
        kinds[truth == 0] = Kind.INVENTED
    kinds[truth == prediction] = Kind.RIGHT
    kinds[truth == IGNORE] = Kind.IGNORED
    return kinds


def hatch(panel: Panel, where: NDArray[np.bool_] | bool, colour: str = HATCH) -> Panel:
    """Draw diagonal stripes over some pixels of a panel, or all, in place."""
    rows, columns = np.ogrid[: panel.shape[0], : panel.shape[1]]
    panel[where & ((rows + columns) % HATCH_PX < HATCH_PX // 4)] = to_rgb(colour)
    return panel
