"""From an image as read to the pixels a model sees: one function for training and scoring."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.background import Background
from seg.data.images import Pixels
from seg.errors import RequestError, UnsupportedImage
from seg.recipe import Preprocessing

if TYPE_CHECKING:  # who only reads needs no torch
    from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Shares of full range, red first, that torchvision's pretrained weights were trained with."""

EQUALISED_ROWS = 256
"""Rows of an image whose values are float64 at a time."""
LOW, HIGH = 0.01, 0.99
"""Shares of an image's values that lie at or below its darkest and brightest that count."""
MARGIN = 0.1
"""Of the range of values in training: so far beyond its means an image is no stranger yet."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each channel, in stored intensities of `bit_depth` bits."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bit_depth: int


def preprocess(image: Pixels, settings: Preprocessing, background: Background | None = None) -> Pixels:
    """Background, channels, blur, resize, CLAHE, on the whole image: [h, w] or [h, w, 3] at working size.

    image: as read, uint8 or uint16, [H, W] or RGB [H, W, 3]; background: of its sequence, None: none is
    subtracted. The depth stays; floats come on the device, in `normalise`.
    """
    if background is not None:
        image = background.subtract(image)
    if image.ndim == 3 and settings.channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]  # equal channels stay exact
    elif image.ndim == 2 and settings.channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    if settings.blur_px > 1:
        image = cv2.blur(image, (settings.blur_px, settings.blur_px))  # type: ignore[assignment]
    image = _resize(image, working_size(image.shape[0], image.shape[1], settings))
    if settings.clahe_clip:
        image = _equalise(image, settings)
    return image


def _equalise(image: Pixels, settings: Preprocessing) -> Pixels:
    """CLAHE (Zuiderveld 1994, Graphics Gems IV, p. 474) by OpenCV, in 256 levels at either depth.

    On 16 bits OpenCV counts 65536 levels, more than a tile has pixels, so that its clip limit means nothing.
    Ours are then 256 between the percentiles 0.1 and 99.9: a hot pixel must not take them all.
    """
    clahe = cv2.createCLAHE(settings.clahe_clip, (settings.clahe_grid, settings.clahe_grid))
    if image.dtype == np.uint8:
        return clahe.apply(image)  # type: ignore[return-value]
    low, high = np.percentile(image, (0.1, 99.9))
    levels = np.empty(image.shape, np.uint8)
    for first in range(0, image.shape[0], EQUALISED_ROWS):
        rows = slice(first, first + EQUALISED_ROWS)
        levels[rows] = np.clip((image[rows] - low) / max(high - low, 1) * 255, 0, 255).round()
    equalised = clahe.apply(levels).astype(np.uint16)
    equalised *= 257
    return equalised


def _resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """By area where both sides shrink, else bilinear: averaging an area smaller than a pixel repeats it."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=method)  # type: ignore[return-value]


def working_size(height: int, width: int, settings: Preprocessing) -> tuple[int, int]:
    """Height and width after the resize: those of `size_px`, else own size / shrink, rounded, at least 1."""
    if settings.size_px is not None:
        return settings.size_px
    return max(1, round(height / settings.shrink)), max(1, round(width / settings.shrink))


def shrink_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask at working size (h, w): the class at each working pixel's centre."""
    if mask.shape == size:
        return mask
    shrunk = cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(shrunk, np.uint8)


def image_statistics(working: Pixels) -> Statistics:
    """Statistics of one preprocessed image, in float64."""
    mean, std = cv2.meanStdDev(working)
    return Statistics(tuple(mean.ravel().tolist()), tuple(std.ravel().tolist()), bit_depth(working))


def bit_depth(image: Pixels) -> int:
    """Bits a channel: 8 or 16."""
    return image.dtype.itemsize * 8


def pool_statistics(parts: list[tuple[Statistics, int]]) -> Statistics:
    """Statistics of all pixels of several images, from each one's and its number of pixels.

    RequestError: the images differ in bit depth, so that no one scale fits them.
    """
    depths = {part.bit_depth for part, _ in parts}
    if len(depths) > 1:
        raise RequestError(
            f"data: images of {sorted(depths)} bits together; use `preprocessing.normalisation=per_image`"
        )
    weights = np.array([pixels for _, pixels in parts], np.float64)[:, None] / sum(
        pixels for _, pixels in parts
    )
    means = np.array([part.mean for part, _ in parts])
    squares = np.array([part.std for part, _ in parts]) ** 2 + means**2
    mean = (weights * means).sum(0)
    std = np.sqrt(np.maximum((weights * squares).sum(0) - mean**2, 0))
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), depths.pop())


def own_statistics(working: Pixels, settings: Preprocessing) -> Statistics:
    """What normalises this image, by its own pixels and depth: 0 and 1 afterwards are mean and mean + std.

    Of fitted normalisation: the image's share of the statistics, to be pooled.
    """
    channels = 1 if working.ndim == 2 else working.shape[2]
    full = float(np.iinfo(working.dtype).max)
    match settings.normalisation:
        case "per_image" | "fitted":
            return image_statistics(working)
        case "percentile":
            pixels = working.reshape(-1, channels)
            low, high = np.percentile(pixels, settings.percentiles, axis=0)
            return Statistics(tuple(low.tolist()), tuple((high - low).tolist()), bit_depth(working))
        case "full_range":
            return Statistics((0.0,) * channels, (full,) * channels, bit_depth(working))
        case "imagenet":
            mean, std = (tuple(full * share for share in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
            return Statistics(mean, std, bit_depth(working))


def choose_statistics(working: Pixels, settings: Preprocessing, fitted: Statistics | None) -> Statistics:
    """The statistics that normalise this image: its own, or the model's where there are such.

    UnsupportedImage: the model's were fitted on another bit depth.
    """
    if settings.normalisation != "fitted" or fitted is None:
        return own_statistics(working, settings)
    if bit_depth(working) != fitted.bit_depth:
        raise UnsupportedImage(
            f"the image has {bit_depth(working)} bits, the model was fitted on {fitted.bit_depth}"
        )
    return fitted


def normalise(crops: "Tensor", mean: "Tensor", std: "Tensor") -> "Tensor":
    """Float32 of the crops' shape and device, from uint8, uint16 or float32 [N, ..., channels, h, w].

    mean, std: float64 [N or 1, ..., channels] in stored intensities; a channel without variance becomes 0.
    """
    scale = (1 / std).where(std > 0, 1)
    shape = (*mean.shape, 1, 1)
    return (crops.float() - mean.float().view(shape)) * scale.float().view(shape)


@dataclass(frozen=True, slots=True)
class Intensity:
    """One image as stored, before preprocessing, over all channels: mean, 1st and 99th percentile."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntensityRange:
    """What a training's images of one bit depth span."""

    bit_depth: int
    lowest_mean: float
    highest_mean: float
    low: float
    """The lowest 1st percentile of an image."""
    high: float
    """The highest 99th percentile of an image."""

    def holds(self, means: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether images of these means are like the training's: at most MARGIN of its values' range away."""
        margin = MARGIN * (self.high - self.low)
        return (means >= self.lowest_mean - margin) & (means <= self.highest_mean + margin)


class Brightness(NamedTuple):
    """An image as the ledger tells it."""

    image: str
    bit_depth: int
    intensity_mean: float


@dataclass(slots=True)
class OutOfRange:
    """How many images are unlike those of a training, of how many, and which is the first."""

    images: int = 0
    of: int = 0
    first: str = ""

    def add(self, images: Sequence[Brightness], ranges: tuple[IntensityRange, ...]) -> None:
        """Count some images."""
        means = np.array([image.intensity_mean for image in images], np.float64)
        depths = np.array([image.bit_depth for image in images], np.int64)
        inside = np.zeros(len(images), np.bool_)
        for known in ranges:
            inside |= (depths == known.bit_depth) & known.holds(means)
        outside = np.flatnonzero(~inside)
        if len(outside) and not self.images:
            self.first = images[outside[0]].image
        self.images, self.of = self.images + len(outside), self.of + len(images)


def measure_intensity(pixels: Pixels) -> Intensity:
    """Of an image as read. A percentile is a value of the image: the least that so many do not exceed."""
    depth = 8 * pixels.dtype.itemsize
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    # 20 ms for 3072 x 3072 pixels of 16 bits, where sorting takes 600
    counts = cv2.calcHist([flat], [0], None, [2**depth], [0, 2**depth]).ravel().astype(np.int64)
    reached = counts.cumsum()
    low, high = np.searchsorted(reached, np.ceil(np.array([LOW, HIGH]) * reached[-1])).tolist()
    return Intensity(float(pixels.mean(dtype=np.float64)), float(low), float(high))


def find_ranges(images: Iterable[tuple[int, Intensity]]) -> tuple[IntensityRange, ...]:
    """What images, each with its bit depth, span: a range for each depth, the lower first."""
    by_depth: dict[int, list[Intensity]] = {}
    for depth, intensity in images:
        by_depth.setdefault(depth, []).append(intensity)
    return tuple(
        IntensityRange(
            depth,
            lowest_mean=min(image.mean for image in found),
            highest_mean=max(image.mean for image in found),
            low=min(image.low for image in found),
            high=max(image.high for image in found),
        )
        for depth, found in sorted(by_depth.items())
    )


def count_outside(
    parts: Iterable[Sequence[Brightness]], ranges: tuple[IntensityRange, ...]
) -> OutOfRange | None:
    """Images outside the training's range, a part at a time; None: the model file knows none."""
    if not ranges:
        return None
    counted = OutOfRange()
    for images in parts:
        counted.add(images, ranges)
    return counted
