"""Recipes: everything that decides a training's result, as frozen data; a field's text is its --help."""

import re
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import inf
from typing import Annotated, Any, Literal

import tyro

from seg.errors import RequestError, describe_unknown

STRIDE_PX = 32
"""Every network here halves its input at most five times; windows fall on this grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What happens to a whole image before it is cut."""

    channels: Literal[1, 3] = 1
    """Channels the model sees; colour becomes gray by ITU-R BT.601 luma, gray is repeated."""
    shrink: float = 1.0
    """Work at the image's own size divided by this, by area averaging: 3 is a third."""
    normalisation: Literal["per_image", "fitted"] = "per_image"
    """Zero mean, unit variance: by each image's own statistics (any bit depth), or the training images'."""

    def __post_init__(self) -> None:
        if not 1 <= self.shrink < inf:
            raise RequestError(
                f"recipe: preprocessing.shrink is {self.shrink}, not 1 or more; try --preprocessing.shrink 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """Random crops that training reads."""

    size_px: tuple[int, int] = (512, 512)
    """Height and width of a training crop in working pixels, multiples of 32."""
    per_image: int = 1
    """Crops taken from each image in an epoch."""
    on_object_share: float = 0.0
    """Share of crops placed so that they show a pixel of another class than background."""
    flip_rows: bool = False
    """Turn half of the crops upside down."""
    flip_columns: bool = True
    """Mirror half of the crops left to right."""

    def __post_init__(self) -> None:
        _check_grid("crops.size_px", self.size_px)
        _check_positive("crops.per_image", self.per_image)
        if not 0 <= self.on_object_share <= 1:
            raise RequestError(
                f"recipe: crops.on_object_share is {self.on_object_share}, not a share from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Windows in which a whole image is predicted."""

    crop_px: tuple[int, int] = (512, 512)
    """Height and width of a window, core and halo, in working pixels: multiples of 32."""
    halo_px: int = 64
    """Context around the core that is predicted and thrown away, in working pixels: a multiple of 16."""

    def __post_init__(self) -> None:
        _check_grid("tiling.crop_px", self.crop_px)
        if self.halo_px < 0 or self.halo_px % 16:
            raise RequestError(
                f"recipe: tiling.halo_px is {self.halo_px}, not a multiple of 16; try --tiling.halo-px 64"
            )
        if min(self.crop_px) <= 2 * self.halo_px:
            raise RequestError(
                f"recipe: tiling.halo_px {self.halo_px} leaves no core in a crop of {self.crop_px}; lower it"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """Optimiser and schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Rule of the step; sgd has momentum 0.9."""
    lr: float = 1e-3
    """Learning rate; the highest one of the schedule."""
    weight_decay: float = 1e-2
    """Decoupled for adamw, L2 for the others."""
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    """How the rate moves over the run; one_cycle warms up over the first 30 % (arXiv:1708.07120)."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise RequestError(f"recipe: optimizer.lr is {self.lr}, not above 0; try --optimizer.lr 1e-3")
        if not 0 <= self.weight_decay < inf:
            raise RequestError(
                f"recipe: optimizer.weight_decay is {self.weight_decay}, not 0 or more; "
                "try --optimizer.weight-decay 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a training's result, but data and seed."""

    name: Annotated[str, tyro.conf.Suppress]
    """Key in RECIPES."""
    dataset: str = "plain"
    """How the data folder is read: a key in seg.data.DATASETS."""
    sequence: str = ""
    """Regular expression on an image's path whose first group names its sequence; empty: its folder."""
    label_map: tuple[tuple[int, int], ...] = ()
    """Pairs: id in the label file, class id (255: ignore)."""
    validation_share: float = 0.2
    """Share of the sequences held out, where the data set gives no split."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    crops: Crops = field(default_factory=Crops)
    model: str = "unet"
    """Architecture: a key in seg.models.MODELS."""
    backbone: str | None = None
    """Its encoder; None: the architecture's first."""
    loss: str = "cross_entropy"
    """A key in seg.losses.LOSSES, or a sum of them: cross_entropy+dice."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss, in id order; empty: all 1."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch: int = 8
    """Crops in a step, over all workers."""
    epochs: int = 20
    """Passes over the training images."""
    precision: Literal["float32", "bf16"] = "bf16"
    """What forward and backward compute in; weights and losses stay float32."""
    tiling: Tiling = field(default_factory=Tiling)

    def __post_init__(self) -> None:
        _check_positive("batch", self.batch)
        _check_positive("epochs", self.epochs)
        if not 0 < self.validation_share < 1:
            raise RequestError(
                f"recipe: validation_share is {self.validation_share}, not between 0 and 1; try 0.2"
            )
        if any(not 0 <= number <= 255 for pair in self.label_map for number in pair):
            raise RequestError(f"recipe: label_map is {self.label_map}, but ids go from 0 to 255")
        try:
            re.compile(self.sequence)
        except re.error as error:
            raise RequestError(
                f"recipe: sequence {self.sequence!r} is no regular expression: {error}"
            ) from None


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        option = name.replace("_", "-")
        raise RequestError(f"recipe: {name} is {value}, not a positive whole number; try --{option} 1")


def _check_grid(name: str, size: tuple[int, int]) -> None:
    if any(side < STRIDE_PX or side % STRIDE_PX for side in size):
        option = name.replace("_", "-")
        raise RequestError(f"recipe: {name} is {size}, not multiples of {STRIDE_PX}; try --{option} 512 512")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="interferogram-small",
            preprocessing=Preprocessing(shrink=3),
            crops=Crops(size_px=(256, 256), per_image=16, on_object_share=0.7, flip_rows=True),
            class_weights=(1.0, 4.0),
            optimizer=Optimizer(lr=3e-3),
            epochs=8,
            tiling=Tiling(crop_px=(576, 576), halo_px=64),
        ),
        Recipe(
            name="interferogram-resnet18",
            preprocessing=Preprocessing(),
            crops=Crops(size_px=(3072, 512), flip_rows=True),
            model="fcn",
            optimizer=Optimizer(name="adam", lr=1e-3, weight_decay=0.0, schedule="constant"),
            batch=4,
            epochs=50,
            tiling=Tiling(crop_px=(1024, 1024), halo_px=128),
        ),
        Recipe(
            name="interferogram-icnet",
            preprocessing=Preprocessing(shrink=3),
            crops=Crops(size_px=(1024, 1024), flip_rows=True),
            model="icnet",
            optimizer=Optimizer(name="adam", lr=1e-4, weight_decay=0.0, schedule="constant"),
            batch=3,
            epochs=50,
            tiling=Tiling(crop_px=(1024, 1024), halo_px=0),
        ),
        Recipe(
            name="camvid-icnet",
            dataset="camvid",
            label_map=((11, 255),),
            preprocessing=Preprocessing(channels=3, normalisation="fitted"),
            crops=Crops(size_px=(352, 480)),
            model="icnet",
            optimizer=Optimizer(lr=1e-3),
            epochs=60,
            tiling=Tiling(crop_px=(384, 480), halo_px=0),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. RequestError: unknown, naming near matches."""
    if name not in RECIPES:
        raise RequestError(describe_unknown("recipe", name, RECIPES))
    return RECIPES[name]


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from `asdict(recipe)` that went through JSON. RequestError: an unknown or missing field."""
    return _build(Recipe, values, "recipe")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data for JSON."""
    return asdict(recipe)


def _build(kind: Any, values: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}
    if set(values) != known:
        odd = ", ".join(sorted(set(values) ^ known))
        raise RequestError(
            f"{where}: {odd} is missing or unknown; it was written by another version of fringe"
        )
    return kind(**{name: _from_json(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _from_json(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple:  # JSON has lists alone
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value
