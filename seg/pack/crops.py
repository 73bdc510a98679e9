"""Random training crops, each follows from (seed, epoch, sample index) (docs/explanation/architecture.md)."""

import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.images import Pixels
from seg.data.labels import IGNORE
from seg.data.preprocess import Statistics, normalise
from seg.errors import RequestError
from seg.pack.pack import OBJECT_STRIDE_PX, Pack, PackedImage
from seg.recipe import Augmentation, Crops, Recipe
from seg.threads import map_ahead

THREADS = min(4, len(os.sched_getaffinity(0)))
"""Threads that prepare crops: they copy, without Python's lock, and decode nothing."""
STEPS_AHEAD = 4
AUGMENTER = 2
"""Version of how augmentation moves pixels; 1 moved those of the crop, with nothing around it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to all frames of one crop and to its mask."""

    degrees: float
    """Counter-clockwise, about the crop's centre."""
    scale: float
    brightness: float
    contrast: float

    @property
    def moves(self) -> bool:
        """Whether pixels come from elsewhere than where the crop lies."""
        return self.degrees != 0 or self.scale != 1


@dataclass(frozen=True, slots=True)
class Window:
    """Where in its image a crop lies, in working pixels, and how it is flipped."""

    top: int
    left: int
    size: tuple[int, int]
    flips: tuple[bool, bool] = (False, False)
    """Upside down; left to right."""

    def copy(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        """Copy the crop of an image [H, W] or [H, W, 3]: OpenCV's flip costs a plain copy."""
        source = values[self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
        source = source.astype(target.dtype, copy=False)
        rows, columns = self.flips
        if rows or columns:
            code = -1 if rows and columns else 0 if rows else 1
            cv2.flip(source, code, dst=target)
        else:
            np.copyto(target, source)

    def sources(self, change: Change) -> NDArray[Any]:
        """The float64 matrix [2, 3] from (x, y, 1) of a changed crop's pixel to (x, y) of the image's."""
        (height, width), (upside_down, mirrored) = self.size, self.flips
        centre = ((width - 1) / 2, (height - 1) / 2)
        matrix = cv2.invertAffineTransform(cv2.getRotationMatrix2D(centre, change.degrees, change.scale))
        matrix[0] *= -1 if mirrored else 1
        matrix[1] *= -1 if upside_down else 1
        matrix[:, 2] += self.left + mirrored * (width - 1), self.top + upside_down * (height - 1)
        return matrix


def draw_change(settings: Augmentation, random: np.random.Generator) -> Change:
    """What a recipe lets happen to one crop; it draws four numbers whatever it asks for."""
    return Change(
        random.uniform(-settings.rotate_degrees, settings.rotate_degrees),
        random.uniform(*settings.scale),
        random.uniform(1 - settings.brightness, 1 + settings.brightness),
        random.uniform(1 - settings.contrast, 1 + settings.contrast),
    )


def change_image(pixels: Pixels, window: Window, change: Change) -> NDArray[np.float32]:
    """A crop of an image [H, W] or [H, W, 3]: flipped, turned and enlarged, brightened, stretched.

    Pixels come bilinearly from the whole image, beyond whose edge is 0. Float32 [h, w] or [h, w, 3] in stored
    intensities, within the range of `pixels`; contrast is about the crop's own mean.
    """
    full = np.iinfo(pixels.dtype).max
    changed = _cut(pixels, window, change, np.float32, 0)
    if change.brightness != 1:
        changed *= np.float32(change.brightness)
        np.minimum(changed, full, out=changed)
    if change.contrast != 1:
        mean = np.mean(cv2.mean(changed)[: 1 if changed.ndim == 2 else 3])  # summed in float64
        changed *= np.float32(change.contrast)
        changed += np.float32(mean * (1 - change.contrast))
        np.clip(changed, 0, full, out=changed)
    return changed


def change_mask(mask: NDArray[np.uint8], window: Window, change: Change) -> NDArray[np.uint8]:
    """The truth [h, w] of a changed crop: the nearest pixel's of the whole mask; 255 beyond its edge."""
    return _cut(mask, window, change, np.uint8, IGNORE)


def _cut(values: NDArray[Any], window: Window, change: Change, dtype: Any, outside: int) -> NDArray[Any]:
    """A changed crop of a dtype: floats are interpolated, ids are the nearest's."""
    if not change.moves:
        cut = np.empty((*window.size, *values.shape[2:]), dtype)
        window.copy(values, cut)
        return cut
    height, width = window.size
    sources = window.sources(change)
    corners = sources @ [[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]]
    # of the image what the crop sees, and a pixel around it for the neighbours that are interpolated
    left, top = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    right, bottom = np.ceil(corners.max(1)).astype(int) + 2
    sources[:, 2] -= left, top
    return cv2.warpAffine(
        values[top:bottom, left:right].astype(dtype, copy=False),
        sources,
        (width, height),
        flags=(cv2.INTER_LINEAR if dtype is np.float32 else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside,) * 4,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one step and rank: images [N, channels, h, w], truth uint8 [N, h, w].

    images: as stored, uint8 or uint16, or float32 in stored intensities where a recipe augments; with
    K frames to a clip [N, K, channels, h, w]. mean, std: float64 [N, channels] or [N, K, channels], the
    normalisation of each image. names: the images of the whole step, all ranks together.
    """

    images: Tensor
    truth: Tensor
    mean: Tensor
    std: Tensor
    names: tuple[str, ...]

    def to_inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised crops, float32 (channels-last where single), and truth, both on the device."""
        images, mean, std, truth = (
            tensor.to(device, non_blocking=True) for tensor in (self.images, self.mean, self.std, self.truth)
        )
        images = normalise(images, mean, std)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, truth

    def split(self, parts: int) -> list["Batch"]:
        """Contiguous parts that differ by at most one crop, none empty: fewer where there are fewer crops."""
        tensors = (self.images, self.truth, self.mean, self.std)
        pieces = (tensor.tensor_split(min(parts, len(self.truth))) for tensor in tensors)
        return [
            Batch(images, truth, mean, std, self.names)
            for images, truth, mean, std in zip(*pieces, strict=True)
        ]

    def pinned(self) -> "Batch":
        """The same in memory that a GPU reads by itself."""
        moved = {name: getattr(self, name).pin_memory() for name in ("images", "truth", "mean", "std")}
        return replace(self, **moved)


class CropSampler:
    """Batches of random crops from a pack; the order does not depend on how many workers share it."""

    def __init__(
        self,
        pack: Pack,
        recipe: Recipe,
        *,
        seed: int,
        fitted: Statistics | None,
        threads: int = THREADS,
        ahead: int = STEPS_AHEAD,
    ) -> None:
        """`fitted`: statistics to use instead of each image's own. RequestError: an image is too small.

        threads, ahead: how many prepare batches, and how many steps in front of whoever takes them.
        """
        self.pack, self.crops, self.seed, self.fitted = pack, recipe.crops, seed, fitted
        self.frames, self.threads, self.ahead = recipe.frames, threads, ahead
        self.augmentation = None if recipe.augmentation == Augmentation() else recipe.augmentation
        self.samples_per_epoch = len(pack.labelled) * self.crops.per_image
        self.batch = min(recipe.batch, self.samples_per_epoch)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self.channels = recipe.preprocessing.channels
        kinds = {image.pixels.dtype for image in pack.images()}
        self.dtype = np.dtype(np.float32) if self.augmentation else np.result_type(*kinds)
        for image in pack.images():
            if any(side < crop for side, crop in zip(image.mask.shape, self.crops.size_px, strict=True)):
                raise RequestError(
                    f"recipe: crops.size_px is {self.crops.size_px} but {image.name} has {image.mask.shape} "
                    "pixels at working size; lower `crops.size_px`"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the samples waits for another epoch's order."""
        return self.samples_per_epoch // self.batch

    def batches(
        self, epoch: int, *, rank: int = 0, world_size: int = 1, pin: bool = False
    ) -> Generator[Batch, None, None]:
        """Every step's batch in order, as `batch_at` gives it, prepared ahead by threads of this iterator's.

        They end with it, also where it is dropped half-way. What goes wrong in one comes out at its step.
        pin: put batches into pinned memory, for a CUDA device.
        """
        self._epoch_order(epoch)  # drawn before the threads ask for it
        prepare = partial(self._prepare, epoch, rank=rank, world_size=world_size, pin=pin)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="crops")
        try:
            yield from map_ahead(pool, prepare, range(self.steps_per_epoch), self.ahead)
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, epoch: int, step: int, *, rank: int, world_size: int, pin: bool) -> Batch:
        batch = self.batch_at(epoch, step, rank=rank, world_size=world_size)
        return batch.pinned() if pin else batch

    def batch_at(self, epoch: int, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The crops of one step that fall to one rank: every `world_size`-th of the step's samples."""
        chosen = self._epoch_order(epoch)[step * self.batch : (step + 1) * self.batch].tolist()
        rows = [self.pack.labelled[index % len(self.pack.labelled)] for index in chosen]
        clips = [self.pack.clip(row, self.frames) for row in rows[rank::world_size]]
        size = self.crops.size_px
        pixels = np.empty((len(clips), self.frames, *size, self.channels), self.dtype)
        truth = np.empty((len(clips), *size), np.uint8)
        for place, index in enumerate(chosen[rank::world_size]):
            random = np.random.default_rng([self.seed, epoch, 1 + index])  # [seed, epoch, 0] draws the order
            self._fill(clips[place], random, pixels[place], truth[place])
        images = torch.from_numpy(pixels).movedim(-1, 2)  # channels-last in memory, as networks want it
        mean, std = self._normalisation(clips)
        if self.frames == 1:
            images, mean, std = images[:, 0], mean[:, 0], std[:, 0]
        names = tuple(self.pack[row].name for row in rows)
        return Batch(images, torch.from_numpy(truth), mean, std, names)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """All samples of an epoch in its order; the last one asked for is kept."""
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples_per_epoch)
            self._order = epoch, order
        return order

    def _fill(
        self,
        clip: list[PackedImage],
        random: np.random.Generator,
        pixels: NDArray[Any],
        truth: NDArray[np.uint8],
    ) -> None:
        """Write one crop: pixels [K, h, w, channels], truth [h, w]."""
        top, left = place_crop(clip[-1], self.crops, random)
        upside_down = self.crops.flip_rows and random.random() < 0.5
        mirrored = self.crops.flip_columns and random.random() < 0.5
        window = Window(top, left, self.crops.size_px, (upside_down, mirrored))
        change = self.augmentation and draw_change(self.augmentation, random)
        if change is None:
            window.copy(clip[-1].mask, truth)
        else:
            truth[:] = change_mask(clip[-1].mask, window, change)
        for image, place in zip(clip, pixels, strict=True):
            target = place[..., 0] if self.channels == 1 else place
            if change is None:
                window.copy(image.pixels, target)
            else:
                target[:] = change_image(image.pixels, window, change)

    def _normalisation(self, clips: list[list[PackedImage]]) -> tuple[Tensor, Tensor]:
        """Mean and std of each image, float64 [N, K, channels]."""
        statistics = [[image.frame(self.fitted)[1] for image in clip] for clip in clips]
        mean = [[image.mean for image in clip] for clip in statistics]
        std = [[image.std for image in clip] for clip in statistics]
        return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)


def place_crop(image: PackedImage, crops: Crops, random: np.random.Generator) -> tuple[int, int]:
    """Top and left of a crop: anywhere, or, for `on_object_share` of them, around a random object pixel."""
    limits = [side - crop for side, crop in zip(image.mask.shape, crops.size_px, strict=True)]
    if crops.on_object_share and random.random() < crops.on_object_share and len(image.objects):
        place = int(image.objects[random.integers(len(image.objects))])
        across = -(-image.mask.shape[1] // OBJECT_STRIDE_PX)
        centre = [part * OBJECT_STRIDE_PX for part in divmod(place, across)]
        lows = [max(0, at - crop + 1) for at, crop in zip(centre, crops.size_px, strict=True)]
        highs = [min(limit, at) for at, limit in zip(centre, limits, strict=True)]
        return int(random.integers(lows[0], highs[0] + 1)), int(random.integers(lows[1], highs[1] + 1))
    return int(random.integers(limits[0] + 1)), int(random.integers(limits[1] + 1))
