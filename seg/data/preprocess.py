"""From an image as read to the pixels a model sees: one function for training and scoring."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.images import Pixels
from seg.errors import RequestError, UnsupportedImage
from seg.recipes import Preprocessing


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each channel, in stored intensities of `bit_depth` bits."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bit_depth: int


def preprocess(image: Pixels, settings: Preprocessing) -> Pixels:
    """Channels, then resize, on the whole image: uint8 or uint16, [h, w] or [h, w, 3] at working size.

    image: as read, [H, W] or RGB [H, W, 3]. The depth stays; floats come on the device, in `normalise`.
    """
    if image.ndim == 3 and settings.channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]  # equal channels stay exact
    elif image.ndim == 2 and settings.channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    height, width = working_size(image.shape[0], image.shape[1], settings.shrink)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def working_size(height: int, width: int, shrink: float) -> tuple[int, int]:
    """Height and width after the resize: own size / shrink, rounded, at least 1."""
    return max(1, round(height / shrink)), max(1, round(width / shrink))


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
            f"data: images of {sorted(depths)} bits together; use --preprocessing.normalisation per_image"
        )
    weights = np.array([pixels for _, pixels in parts], np.float64)[:, None] / sum(
        pixels for _, pixels in parts
    )
    means = np.array([part.mean for part, _ in parts])
    squares = np.array([part.std for part, _ in parts]) ** 2 + means**2
    mean = (weights * means).sum(0)
    std = np.sqrt(np.maximum((weights * squares).sum(0) - mean**2, 0))
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), depths.pop())


def choose_statistics(working: Pixels, settings: Preprocessing, fitted: Statistics | None) -> Statistics:
    """The statistics that normalise this image: its own, or the model's.

    UnsupportedImage: the model's were fitted on another bit depth.
    """
    if settings.normalisation == "per_image":
        return image_statistics(working)
    assert fitted is not None, "a model with fitted normalisation carries its statistics"
    if bit_depth(working) != fitted.bit_depth:
        raise UnsupportedImage(
            f"the image has {bit_depth(working)} bits, the model was fitted on {fitted.bit_depth}"
        )
    return fitted


def normalise(crops: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Float32 [N, channels, h, w] on the crops' device, from uint8 or uint16 [N, channels, h, w].

    mean, std: float64 [N or 1, channels] in stored intensities; a channel without variance becomes 0.
    """
    scale = torch.where(std > 0, 1 / std, torch.ones_like(std))
    shape = (*mean.shape, 1, 1)
    return (crops.float() - mean.float().view(shape)) * scale.float().view(shape)
