import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from seg.data import DATASETS
from seg.errors import RequestError
from seg.losses import build_loss
from seg.models import MODELS
from seg.recipes import (
    RECIPES,
    Crops,
    Optimizer,
    Preprocessing,
    Recipe,
    Tiling,
    find_recipe,
    recipe_from_dict,
    recipe_to_dict,
)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = find_recipe(name)
    again = recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe))))
    assert again == recipe
    assert hash(again) == hash(recipe)  # lists came back as tuples, at every depth


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_there_is(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert recipe.dataset in DATASETS
    assert recipe.backbone in (None, *MODELS[recipe.model].BACKBONES)
    build_loss(recipe.loss, recipe.class_weights or None)


def test_a_recipe_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        RECIPES["camvid-icnet"].batch = 2  # type: ignore[misc]


def test_an_unknown_recipe_is_refused_with_what_is_near() -> None:
    with pytest.raises(
        RequestError, match=r"'camvid-icnt'; did you mean camvid-icnet.*known: interferogram-small"
    ):
        find_recipe("camvid-icnt")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shrink": (lambda: Preprocessing(shrink=0.5), "preprocessing.shrink is 0.5, not 1 or more"),
    "shrink nan": (lambda: Preprocessing(shrink=float("nan")), "preprocessing.shrink is nan"),
    "crop grid": (lambda: Crops(size_px=(100, 64)), r"crops.size_px is \(100, 64\), not multiples of 32"),
    "crop zero": (lambda: Crops(size_px=(0, 64)), "--crops.size-px 512 512"),
    "per image": (lambda: Crops(per_image=0), "crops.per_image is 0, .* try --crops.per-image 1"),
    "share": (lambda: Crops(on_object_share=1.5), "on_object_share is 1.5, not a share"),
    "halo grid": (lambda: Tiling(halo_px=10), "halo_px is 10, not a multiple of 16"),
    "halo below": (lambda: Tiling(halo_px=-16), "halo_px is -16"),
    "no core": (lambda: Tiling(crop_px=(128, 512), halo_px=64), "leaves no core in a crop"),
    "rate": (lambda: Optimizer(lr=0), "optimizer.lr is 0, not above 0; try --optimizer.lr 1e-3"),
    "rate nan": (lambda: Optimizer(lr=float("nan")), "optimizer.lr is nan"),
    "decay": (lambda: Optimizer(weight_decay=-1), "weight_decay is -1, not 0 or more"),
    "batch": (lambda: Recipe(name="x", batch=0), "batch is 0, not a positive whole number; try --batch 1"),
    "epochs": (lambda: Recipe(name="x", epochs=-1), "epochs is -1"),
    "validation": (lambda: Recipe(name="x", validation_share=1), "validation_share is 1, not between"),
    "label map": (lambda: Recipe(name="x", label_map=((256, 1),)), "label_map is .*from 0 to 255"),
    "sequence": (lambda: Recipe(name="x", sequence="("), r"sequence '\(' is no regular expression"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_value_that_cannot_be_is_refused_with_its_field(kind: str) -> None:
    make, text = REFUSED[kind]
    with pytest.raises(RequestError, match=text):
        make()


def test_values_of_another_version_are_refused_by_field() -> None:
    values = recipe_to_dict(replace(RECIPES["camvid-icnet"]))
    values["optimizer"]["momentum"] = 0.9
    with pytest.raises(RequestError, match=r"recipe.optimizer: momentum is missing or unknown"):
        recipe_from_dict(values)
    del values["optimizer"], values["batch"]
    with pytest.raises(RequestError, match="recipe: batch, optimizer is missing or unknown"):
        recipe_from_dict(values)
