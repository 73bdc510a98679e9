from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from seg.data import DATASETS
from seg.errors import RequestError
from seg.files import first_difference
from seg.models import MODELS
from seg.plain_data import from_plain, to_plain
from seg.recipe import (
    LATER_FIELDS,
    Augmentation,
    Crops,
    Optimizer,
    Preprocessing,
    Recipe,
    Tiling,
    apply_params,
    recipe_identity,
)
from seg.recipes import RECIPES, find_recipe
from seg.train.learner import learning_rate
from seg.train.losses import build_loss


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = find_recipe(name)
    again = from_plain(Recipe, to_plain(recipe))
    assert again == recipe
    assert hash(again) == hash(recipe)  # lists came back as tuples, at every depth


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_there_is(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert recipe.dataset in DATASETS
    assert recipe.backbone in (None, *MODELS[recipe.model].BACKBONES)
    build_loss(recipe.loss)
    assert (recipe.frames > 1) == getattr(MODELS[recipe.model], "TAKES_FRAMES", False)


def test_recipes_are_what_the_reference_systems_describe() -> None:
    whole, twin, small = (RECIPES[f"interferogram-fcn32{kind}"] for kind in ("", "-asymmetric", "-small"))
    assert (whole.crops.size_px, whole.preprocessing) == ((3072, 512), Preprocessing())
    assert replace(twin, name=whole.name, loss=whole.loss) == whole
    assert twin.loss == "asymmetric"
    assert (small.crops.size_px, small.preprocessing) == ((768, 128), Preprocessing(blur_px=3, shrink=4))
    assert RECIPES["camvid-unet"].optimizer.momentum == 0.99
    pets, breeds = RECIPES["pets-fcn-resnet101"], RECIPES["pets-fcn-resnet101-37"]
    assert replace(breeds, name=pets.name, dataset=pets.dataset) == pets
    assert pets.weights == "imagenet"
    # the original's rate by the epoch's index from 0: half above 40, a tenth above 60, a twentieth above 80
    drinks = RECIPES["drinks-pyramid"].optimizer
    for index in range(300):
        factor = 0.05 if index > 80 else 0.1 if index > 60 else 0.5 if index > 40 else 1
        assert all(learning_rate(drinks, index * 7 + step, 300, 7) == 1e-3 * factor for step in (0, 6))


def test_a_later_field_is_part_of_an_identity_once_it_is_set() -> None:
    recipe = RECIPES["camvid-icnet"]
    plain = recipe_identity(recipe)
    assert {*LATER_FIELDS} & {*plain, *(f"optimizer.{name}" for name in plain["optimizer"])} == set()
    values = {"test_share": 0.1, "tta": "d4", "optimizer.momentum": 0.5, "optimizer.betas": (0.5, 0.9)}
    for name, value in values.items():
        set_so = recipe_identity(apply_params(recipe, {name: value}))
        assert first_difference(to_plain(plain), to_plain(set_so)).startswith(f"{name} None instead of ")


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
    "crop zero": (lambda: Crops(size_px=(0, 64)), "`crops.size_px=512 512`"),
    "per image": (lambda: Crops(per_image=0), "crops.per_image is 0, .* try `crops.per_image=1`"),
    "share": (lambda: Crops(on_object_share=1.5), "on_object_share is 1.5, not a share"),
    "halo grid": (lambda: Tiling(halo_px=10), "halo_px is 10, not a multiple of 16"),
    "halo below": (lambda: Tiling(halo_px=-16), "halo_px is -16"),
    "no core": (lambda: Tiling(crop_px=(128, 512), halo_px=64), "leaves no core in a crop"),
    "rate": (lambda: Optimizer(lr=0), "optimizer.lr is 0, not above 0; try `optimizer.lr=1e-3`"),
    "rate nan": (lambda: Optimizer(lr=float("nan")), "optimizer.lr is nan"),
    "decay": (lambda: Optimizer(weight_decay=-1), "weight_decay is -1, not 0 or more"),
    "momentum": (lambda: Optimizer(momentum=1), "optimizer.momentum is 1, not from 0 to below 1"),
    "betas": (lambda: Optimizer(betas=(0.9, 1.5)), r"optimizer.betas is \(0.9, 1.5\), not from 0 to below 1"),
    "eps": (lambda: Optimizer(eps=0), "optimizer.eps is 0, not above 0; try `optimizer.eps=1e-8`"),
    "nesterov": (lambda: Optimizer(nesterov=True), "nesterov is for sgd with momentum, not adamw"),
    "nesterov alone": (
        lambda: Optimizer(name="sgd", nesterov=True, momentum=0),
        "nesterov is for sgd with momentum, not sgd with momentum 0; leave it out",
    ),
    "test": (lambda: Recipe(name="x", test_share=1), "test_share is 1, not from 0 to below 1"),
    "batch": (lambda: Recipe(name="x", batch=0), "batch is 0, not a positive whole number; try `batch=1`"),
    "epochs": (lambda: Recipe(name="x", epochs=-1), "epochs is -1"),
    "validation": (lambda: Recipe(name="x", validation_share=1), "validation_share is 1, not between"),
    "label map": (lambda: Recipe(name="x", label_map=((256, 1),)), "label_map is .*from 0 to 255"),
    "two sizes": (
        lambda: Preprocessing(shrink=2, size_px=(8, 8)),
        r"both size_px \(8, 8\) and shrink 2; choose one",
    ),
    "size": (lambda: Preprocessing(size_px=(0, 8)), r"size_px is \(0, 8\); give height and width"),
    "blur": (lambda: Preprocessing(blur_px=4), "blur_px is 4, not odd; try `preprocessing.blur_px=3`"),
    "background": (lambda: Preprocessing(background_every=-1), "background_every is -1 .* below 0"),
    "factor": (lambda: Preprocessing(background_factor=-0.5), "background_factor -0.5; neither"),
    "clip": (lambda: Preprocessing(clahe_clip=-1), "clahe_clip is -1 on a grid of 20"),
    "colour": (lambda: Preprocessing(channels=3, clahe_clip=5), "clahe_clip is for 1 channel"),
    "imagenet": (lambda: Preprocessing(normalisation="imagenet"), "imagenet is for 3 channels"),
    "percentiles": (lambda: Preprocessing(percentiles=(99, 1)), "percentiles are 99 and 1, not two rising"),
    "rotation": (lambda: Augmentation(rotate_degrees=200), "rotate_degrees is 200, not from 0 to 180"),
    "scale": (lambda: Augmentation(scale=(2, 1)), r"augmentation.scale is \(2, 1\), not two rising"),
    "contrast": (lambda: Augmentation(contrast=2), "augmentation.contrast is 2, not a share"),
    "steps fall": (
        lambda: Optimizer(schedule="step", steps=((4, 0.5), (2, 0.1))),
        "optimizer.steps is .*rising epochs",
    ),
    "no steps": (lambda: Optimizer(schedule="step"), "schedule is step with steps .*wants steps"),
    "steps of another": (lambda: Optimizer(steps=((4, 0.5),)), "schedule is one_cycle with steps"),
    "patience": (lambda: Recipe(name="x", patience=-1), "patience is -1, below 0"),
    "frames": (lambda: Recipe(name="x", frames=0), "frames is 0, not a positive whole number"),
    "sequence": (lambda: Recipe(name="x", sequence="("), r"sequence '\(' is no regular expression"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_value_that_cannot_be_is_refused_with_its_field(kind: str) -> None:
    make, text = REFUSED[kind]
    with pytest.raises(RequestError, match=text):
        make()


def test_values_of_another_version_are_refused_by_field() -> None:
    values = to_plain(RECIPES["camvid-icnet"])
    values["optimizer"]["dampening"] = 0.9
    with pytest.raises(ValueError, match=r"^optimizer has the unknown field dampening$"):
        from_plain(Recipe, values)
    del values["optimizer"]["dampening"], values["name"]
    with pytest.raises(ValueError, match=r"^it has no field name$"):
        from_plain(Recipe, values)
