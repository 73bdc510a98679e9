"""The training that fits a data set: its rules, and the recipe's fields that they set."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from seg.predict.tiling import padded_length
from seg.recipe import STRIDE_PX, Params, Recipe, Value, apply_params
from seg.recipes import find_recipe

RECIPE = "interferogram-small"
"""A U-Net that a CPU trains in minutes; a search or --list has larger ones."""
OBJECT_PX = 24
"""How wide most objects stay at working size: a network that halves five times sees no less."""
WORKING_PX = 1024
"""The longer side at working size that is not gone below."""
CROP_PX, LARGE_CROP_PX = 256, 512
"""Sides of a crop: the larger one where objects would fill the other."""
TILE_PX, HALO_PX = 576, 64
"""Of a window in which images are predicted that do not fit into one."""
MOST_WEIGHT = 10.0
"""Rarer classes weigh no more, or noise in their labels would decide the loss."""
LEAST_STEPS, MOST_EPOCHS = 384, 100
"""Steps that the recipe takes on the archive it was made for, and passes at most to reach them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What of a data set decides how to train on it."""

    sizes: Sequence[tuple[int, int]]
    """Height and width of the labelled images that were read."""
    is_colour: bool
    """An image has channels that differ."""
    class_pixels: NDArray[np.int64]
    """Pixels of each class in their labels [C]."""
    widths: NDArray[np.float64]
    """How wide each object is, in pixels [N]."""
    areas: NDArray[np.int64]
    """Pixels of each object [N]."""
    train_images: int
    """That the split leaves to train on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A field of the recipe, the value that fits, and why."""

    field: str
    """Its dotted name."""
    value: Value
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe by name, and what is to be set in it."""

    recipe: Recipe
    choices: tuple[Choice, ...]

    @property
    def params(self) -> Params:
        """The fields whose values are not the recipe's own."""
        values: Params = {}
        for choice in self.choices:
            group, _, entry = choice.field.rpartition(".")
            if getattr(getattr(self.recipe, group) if group else self.recipe, entry) != choice.value:
                values[choice.field] = choice.value
        return values

    @property
    def fitted(self) -> Recipe:
        """The recipe with these values."""
        return apply_params(self.recipe, self.params)


def plan_training(data: Fingerprint, label_map: tuple[tuple[int, int], ...] = ()) -> Plan:
    """The recipe that fits a data set. ValueError: it has no labelled image.

    The idea, to measure a data set and derive a training by fixed rules, is that of nnU-Net (Isensee et al.
    2021, arXiv:1904.08128, section 2); the rules are ours, for one small network and few images:

    1. Channels: 3 where any image has channels that differ, else 1.
    2. Shrink: as far as the objects that most object pixels are in stay OBJECT_PX wide (the lower quartile
       of widths, weighted by area), and the longer side WORKING_PX; whole numbers.
    3. Crop: CROP_PX; LARGE_CROP_PX where the upper quartile of widths is over half of it. Never larger
       than the smallest image at working size, in multiples of 32.
    4. Window: one for the whole image where all fit into TILE_PX, else TILE_PX with a halo of HALO_PX.
    5. Class weights: the root of how much rarer a class is than the most frequent one, to one decimal and
       MOST_WEIGHT at most, so that small classes count and large ones stay right.
    6. Epochs: the recipe's, or as many as take LEAST_STEPS steps, MOST_EPOCHS at most.
    """
    if not data.sizes:
        raise ValueError("no image to fit a training to")
    recipe = find_recipe(RECIPE)
    sizes = np.array(data.sizes)
    narrow, wide = _weigh(data.widths, data.areas, (0.25, 0.75))
    shrink = max(1, min(int(narrow / OBJECT_PX), int(np.median(sizes.max(1)) / WORKING_PX)))
    working = np.maximum(1, np.round(sizes / shrink)).astype(int)
    crop = _fit_crop(working, wide / shrink)
    window, halo = _fit_window(working)
    weights = _weigh_classes(data.class_pixels)
    epochs = _count_epochs(recipe, data.train_images)
    objects = f"most objects are {narrow:.0f} to {wide:.0f} px wide" if wide else "no objects"
    channels = "colours differ" if data.is_colour else "gray, or channels that are equal"
    choices = [
        Choice("preprocessing.channels", 3 if data.is_colour else 1, channels),
        Choice("preprocessing.shrink", float(shrink), f"{objects}, the longer side {sizes.max()} px"),
        Choice("crops.size_px", crop, f"the smallest image is {working[:, 0].min()} x {working[:, 1].min()}"),
        Choice("tiling.crop_px", window, "an image at once" if not halo else "images in windows"),
        Choice(
            "tiling.halo_px", halo, "none is needed" if not halo else "what a window sees beyond its core"
        ),
        Choice("class_weights", weights, _describe_shares(data.class_pixels)),
        Choice("epochs", epochs, f"{data.train_images} images to train on"),
        Choice("label_map", label_map, "ids that the masks store"),
    ]
    return Plan(recipe, tuple(choice for choice in choices if choice.field != "label_map" or label_map))


def _weigh(
    widths: NDArray[np.float64], areas: NDArray[np.int64], shares: tuple[float, float]
) -> tuple[float, float]:
    """Widths of the objects that these shares of all object pixels are in, or in narrower ones; 0: none."""
    if not len(widths):
        return 0.0, 0.0
    order = np.argsort(widths, kind="stable")
    reached = np.cumsum(areas[order]) / areas.sum()
    low, high = (float(widths[order][np.searchsorted(reached, share)]) for share in shares)
    return low, high


def _fit_crop(working: NDArray[np.int64], wide: float) -> tuple[int, int]:
    side = LARGE_CROP_PX if 2 * wide > CROP_PX else CROP_PX
    height, width = (
        max(STRIDE_PX, min(side, int(least) // STRIDE_PX * STRIDE_PX)) for least in working.min(0)
    )
    return height, width


def _fit_window(working: NDArray[np.int64]) -> tuple[tuple[int, int], int]:
    height, width = (padded_length(int(most), STRIDE_PX) for most in working.max(0))
    if max(height, width) <= TILE_PX:
        return (height, width), 0
    return (TILE_PX, TILE_PX), HALO_PX


def _weigh_classes(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """A weight for each class; all 1 is none. A class that no label shows weighs 1."""
    most = int(pixels.max(initial=0))
    weights = [round(min(MOST_WEIGHT, sqrt(most / count)), 1) if count else 1.0 for count in pixels.tolist()]
    return tuple(weights) if set(weights) != {1.0} else ()


def _describe_shares(pixels: NDArray[np.int64]) -> str:
    counts = pixels[pixels > 0]
    return f"the rarest class has {counts.min() / counts.sum():.2%} of the pixels" if len(counts) else ""


def _count_epochs(recipe: Recipe, images: int) -> int:
    samples = max(1, images * recipe.crops.per_image)
    steps = max(1, samples // min(recipe.batch, samples))
    return max(recipe.epochs, min(MOST_EPOCHS, ceil(LEAST_STEPS / steps)))
