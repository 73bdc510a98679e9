import re
from dataclasses import fields, replace

import pytest
import torch

from seg.catalogue import DATASETS, LOSSES, NETWORKS, SMP, backbone_of, check_names, count_parameters
from seg.data import DATASETS as OPENED
from seg.errors import RequestError
from seg.models import MODELS, smp
from seg.models.build import build
from seg.recipe import Preprocessing, Recipe
from seg.recipes import RECIPES
from seg.train.losses import LOSSES as COMPUTED
from seg.train.losses import build_loss

ANY = Recipe(name="any")


@pytest.mark.parametrize("name", MODELS)
def test_the_networks_and_their_parameters_are_those_that_are_built(name: str) -> None:
    assert tuple(NETWORKS[name].parameters) == MODELS[name].BACKBONES
    for backbone, counts in NETWORKS[name].parameters.items():
        for channels, count in zip((1, 3), counts, strict=True):
            with torch.device("meta"):
                model = build(name, backbone=backbone, num_classes=2, channels=channels)
            assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_nothing_else_is_named() -> None:
    assert list(NETWORKS) == list(MODELS)
    assert list(LOSSES) == list(COMPUTED)
    assert list(DATASETS) == list(OPENED)
    assert SMP == smp.PREFIX
    assert {(one.model_options, one.model.startswith(SMP)) for one in RECIPES.values()} == {((), False)}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_loss_is_shown_with_all_that_it_takes_at_its_defaults(name: str) -> None:
    spec = LOSSES[name][0]
    given = re.findall(r"(\w+)=", spec)
    assert given == [field.name for field in fields(COMPUTED[name])]
    assert build_loss(spec).parts == build_loss(name).parts


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "camvid-rgb", "loss": "focal( alpha=1e+3, gamma=2 ) + dice", "model": "icnet"},
        {"model": "smp/unetplusplus/resnet34", "loss": "lovasz"},
        {"model": "fpn", "backbone": "resnet50", "preprocessing": Preprocessing(channels=3)},
    ],
)
def test_what_is_known_passes(changes: dict[str, object]) -> None:
    check_names(replace(ANY, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "build_it"),
    [
        ({"model": "unett"}, lambda one: build(one.model, num_classes=2, channels=1)),
        ({"backbone": "resnet35"}, lambda one: build("unet", backbone="resnet35", num_classes=2, channels=1)),
        ({"loss": "dice+Focl(gamma=2)"}, lambda one: build_loss(one.loss)),
        ({"loss": "cross-entropy"}, lambda one: build_loss(one.loss)),
    ],
)
def test_an_unknown_name_is_refused_in_the_sentence_of_what_would_build_it(
    changes: dict[str, object], build_it: object
) -> None:
    recipe = replace(ANY, **changes)  # type: ignore[arg-type]
    with pytest.raises(RequestError) as early:
        check_names(recipe)
    with pytest.raises(RequestError) as late:
        build_it(recipe)  # type: ignore[operator]
    assert str(early.value) == str(late.value)


def test_a_recipe_has_the_parameters_of_its_own_backbone_and_channels() -> None:
    assert backbone_of(ANY) == "resnet18"
    assert count_parameters(ANY) == 12_470_786
    colour = replace(ANY, backbone="mobilenet_v2", preprocessing=Preprocessing(channels=3))
    assert count_parameters(colour) == 4_144_194
