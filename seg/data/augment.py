"""What chance does to a crop beyond flips: drawn from the crop's own generator, so that any thread may do it.

OpenCV in place of torchvision's transforms: those draw from torch's global generator, which a training's
dropout uses in another thread, and turn a crop of 1024 x 1024 in 10 ms for 2 ms here.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.images import Pixels
from seg.data.labels import IGNORE
from seg.recipe import Augmentation


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to all frames of one crop and to its mask."""

    degrees: float
    """Counter-clockwise, about the crop's centre."""
    scale: float
    brightness: float
    contrast: float


def draw_change(settings: Augmentation, random: np.random.Generator) -> Change:
    """What a recipe lets happen to one crop; it draws four numbers whatever it asks for."""
    return Change(
        random.uniform(-settings.rotate_degrees, settings.rotate_degrees),
        random.uniform(*settings.scale),
        random.uniform(1 - settings.brightness, 1 + settings.brightness),
        random.uniform(1 - settings.contrast, 1 + settings.contrast),
    )


def change_image(pixels: Pixels, change: Change) -> NDArray[np.float32]:
    """An image [h, w] or [h, w, 3]: turned and enlarged (bilinear, 0 from outside), brightened, stretched.

    Float32 in stored intensities, within the range of `pixels`; contrast is about the image's own mean.
    """
    full = np.iinfo(pixels.dtype).max
    changed = pixels.astype(np.float32)
    if _moves(change):
        changed = _warp(changed, change, cv2.INTER_LINEAR, 0)
    if change.brightness != 1:
        changed *= np.float32(change.brightness)
        np.minimum(changed, full, out=changed)
    if change.contrast != 1:
        mean = np.mean(cv2.mean(changed)[: 1 if changed.ndim == 2 else 3])  # summed in float64
        changed *= np.float32(change.contrast)
        changed += np.float32(mean * (1 - change.contrast))
        np.clip(changed, 0, full, out=changed)
    return changed


def change_mask(mask: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """The truth [h, w] of a changed image: the nearest pixel's; 255 where it comes from outside."""
    return _warp(mask, change, cv2.INTER_NEAREST, IGNORE) if _moves(change) else mask


def _moves(change: Change) -> bool:
    return change.degrees != 0 or change.scale != 1


def _warp(values: NDArray[Any], change: Change, method: int, outside: int) -> NDArray[Any]:
    height, width = values.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, change.degrees, change.scale)
    borders = (outside,) * 4
    return cv2.warpAffine(
        values, matrix, (width, height), flags=method, borderMode=cv2.BORDER_CONSTANT, borderValue=borders
    )
