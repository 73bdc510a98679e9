"""What chance does to a crop beyond flips: torchvision's transforms, each decided by a seed."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from seg.data.labels import IGNORE
from seg.recipe import Augmentation

Augment = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(images [..., channels, h, w], mask [h, w], seed) -> images, float32 in stored intensities, and mask."""


def build_augmentation(settings: Augmentation) -> Augment | None:
    """The augmentation of a recipe; None where it asks for nothing, so that crops stay as stored.

    All frames of a window are changed alike. Truth that comes from outside the crop is 255.
    """
    steps: list[v2.Transform] = []
    if settings.rotate_degrees or settings.scale != (1.0, 1.0):
        steps.append(
            v2.RandomAffine(
                degrees=(-settings.rotate_degrees, settings.rotate_degrees),
                scale=settings.scale,
                interpolation=InterpolationMode.BILINEAR,
                fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE},  # type: ignore[arg-type]
            )
        )
    if settings.brightness or settings.contrast:
        steps.append(v2.ColorJitter(brightness=settings.brightness, contrast=settings.contrast))
    if not steps:
        return None
    transform = v2.Compose(steps)

    def augment(images: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        full = float(torch.iinfo(images.dtype).max)
        shares = tv_tensors.Image(images.float() / full)  # ColorJitter's range for floats is 0 to 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed, truth = transform(shares, tv_tensors.Mask(mask))
        return changed.as_subclass(Tensor) * full, truth.as_subclass(Tensor)

    return augment
