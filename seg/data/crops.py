"""Random training crops, each decided by (seed, epoch, sample index) alone (docs/architecture.md)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.augment import build_augmentation
from seg.data.images import Pixels
from seg.data.pack import Pack, PackedImage
from seg.data.preprocess import Statistics, normalise
from seg.errors import RequestError
from seg.recipe import Crops, Recipe

SEARCH_STRIDE_PX = 8
"""Object pixels are looked for on this grid: a crop to show one costs 1/64 of reading the mask."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one step and rank: images [N, channels, h, w], truth uint8 [N, h, w].

    images: as stored, uint8 or uint16, or float32 in stored intensities where augmentation changed them; with
    K frames to a window [N, K, channels, h, w]. mean, std: float64 [N, channels] or [N, K, channels], the
    normalisation of each image.
    """

    images: Tensor
    truth: Tensor
    mean: Tensor
    std: Tensor

    def to_inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised crops, float32 (channels-last where single), and truth, both on the device."""
        images = normalise(self.images.to(device), self.mean.to(device), self.std.to(device))
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self.truth.to(device)


class CropSampler:
    """Batches of random crops from a pack; the order does not depend on how many workers share it."""

    def __init__(self, pack: Pack, recipe: Recipe, *, seed: int, fitted: Statistics | None) -> None:
        """`fitted`: statistics to use instead of each image's own. RequestError: an image is too small."""
        self.pack, self.crops, self.seed, self.fitted = pack, recipe.crops, seed, fitted
        self.frames = recipe.frames
        self.augment = build_augmentation(recipe.augmentation)
        self.samples_per_epoch = len(pack.labelled) * self.crops.per_image
        self.batch = min(recipe.batch, self.samples_per_epoch)
        for image in pack.images():
            if any(side < crop for side, crop in zip(image.mask.shape, self.crops.size_px, strict=True)):
                raise RequestError(
                    f"recipe: crops.size_px is {self.crops.size_px} but {image.name} has {image.mask.shape} "
                    "pixels at working size; lower --crops.size-px"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the samples waits for another epoch's order."""
        return self.samples_per_epoch // self.batch

    def batch_at(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The crops of one step that fall to one rank: every `world_size`-th of the step's samples."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples_per_epoch)
        chosen = order[step * self.batch : (step + 1) * self.batch][rank::world_size]
        crops = [self._crop(epoch, int(index)) for index in chosen]
        return Batch(*(torch.stack(parts) for parts in zip(*crops, strict=True)))

    def _crop(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One crop's share of each of a batch's fields."""
        images = self.pack.window(self.pack.labelled[index % len(self.pack.labelled)], self.frames)
        random = np.random.default_rng([self.seed, epoch, 1 + index])  # [seed, epoch, 0] draws the order
        top, left = place_crop(images[-1], self.crops, random)
        window = np.s_[top : top + self.crops.size_px[0], left : left + self.crops.size_px[1]]
        pixels = np.stack([_channels_first(image.pixels[window]) for image in images])
        truth = images[-1].mask[window]
        for axis, wanted in ((-2, self.crops.flip_rows), (-1, self.crops.flip_columns)):
            if wanted and random.random() < 0.5:
                pixels, truth = np.flip(pixels, axis), np.flip(truth, axis)
        # np.stack copies the pixels; a view of the map is read-only, and torch wants neither that nor flips
        crop, mask = torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(truth.copy())
        if self.augment is not None:
            crop, mask = self.augment(crop, mask, int(random.integers(2**63)))
        statistics = [self.fitted or image.statistics for image in images]
        mean, std = (
            torch.tensor(values, dtype=torch.float64)
            for values in ([part.mean for part in statistics], [part.std for part in statistics])
        )
        return (crop, mask, mean, std) if self.frames > 1 else (crop[0], mask, mean[0], std[0])


def place_crop(image: PackedImage, crops: Crops, random: np.random.Generator) -> tuple[int, int]:
    """Top and left of a crop: anywhere, or, for `on_object_share` of them, around a random object pixel."""
    limits = [side - crop for side, crop in zip(image.mask.shape, crops.size_px, strict=True)]
    if crops.on_object_share and random.random() < crops.on_object_share:
        coarse = image.mask[::SEARCH_STRIDE_PX, ::SEARCH_STRIDE_PX]
        places = np.argwhere((coarse > 0) & (coarse < 255)) * SEARCH_STRIDE_PX
        if len(places):
            centre = places[random.integers(len(places))]
            lows = [max(0, int(at) - crop + 1) for at, crop in zip(centre, crops.size_px, strict=True)]
            highs = [min(limit, int(at)) for at, limit in zip(centre, limits, strict=True)]
            return int(random.integers(lows[0], highs[0] + 1)), int(random.integers(lows[1], highs[1] + 1))
    return int(random.integers(limits[0] + 1)), int(random.integers(limits[1] + 1))


def _channels_first(pixels: Pixels) -> NDArray[np.generic]:
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
