from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import FCN_ResNet50_Weights, fcn_resnet50

from seg.errors import RequestError
from seg.model_card import ModelCard
from seg.model_file import save_model, weights_sha256
from seg.models.build import build
from seg.recipe import Preprocessing, Recipe
from seg.train.start import Start, build_start, find_card, locate, open_weights

TWO, THREE = ("background", "cell"), ("background", "cell", "dust")
NETWORKS = [
    ("unet", "mobilenet_v2"),
    ("fcn", "resnet18"),
    ("icnet", "mobilenet_v2"),
    ("smp/unet/resnet18", None),
]
HEADS = {
    "unet": ["score"],
    "fcn": ["head.1", "upsample"],
    "icnet": ["guide_fine", "guide_medium", "score"],
    "smp/unet/resnet18": ["network.segmentation_head"],
}
"""The parts of each that tell classes apart."""


def make_recipe(model: str, backbone: str | None = None, *, channels: Any = 1, **changes: Any) -> Recipe:
    shape = Preprocessing(channels=channels)
    return Recipe(name="x", model=model, backbone=backbone, preprocessing=shape, **changes)


def write_model(path: Path, recipe: Recipe, classes: tuple[str, ...] = TWO) -> nn.Module:
    """A model file of a recipe, with weights by chance; returns its network."""
    channels = recipe.preprocessing.channels
    model = build(recipe.model, backbone=recipe.backbone, num_classes=len(classes), channels=channels)
    card = ModelCard(
        architecture=recipe.model,
        backbone=recipe.backbone,
        classes=classes,
        label_map=(),
        preprocessing=recipe.preprocessing,
        statistics=None,
        tiling=recipe.tiling,
    )
    save_model(path, model, card)
    return model


def start(recipe: Recipe, classes: tuple[str, ...], weights: object) -> tuple[nn.Module, Start]:
    torch.manual_seed(1)
    model, how = build_start(recipe, classes, str(weights))
    assert how is not None
    return model, how


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_a_model_file_fills_all_of_its_network_but_the_head_of_other_classes(
    name: str, backbone: str | None, tmp_path: Path
) -> None:
    recipe, file = make_recipe(name, backbone), tmp_path / "m.safetensors"
    written = write_model(file, recipe).state_dict()
    model, how = start(recipe, TWO, file)
    assert all(torch.equal(tensor, written[path]) for path, tensor in model.state_dict().items())
    assert str(how) == (
        f"weights {file}: {len(written)} of {len(written)} tensors taken; nothing is left to chance"
    )
    assert how.sha256 == weights_sha256(written)
    for classes in (THREE, ("background", "bubble")):  # as many as in the file, but others
        torch.manual_seed(1)
        chance = build(name, backbone=backbone, num_classes=len(classes), channels=1).state_dict()
        model, how = start(recipe, classes, file)
        new = set()
        for path, tensor in model.state_dict().items():
            if tensor.shape != written[path].shape or not torch.equal(tensor, written[path]):
                assert torch.equal(tensor, chance[path])
                new.add(path)
        heads = tuple(f"{part}." for part in HEADS[name])
        assert new
        assert all(path.startswith(heads) for path in new), new
        fresh = {line.split()[1] for line in how.lines if line.startswith("new ")}
        assert new <= fresh
        assert all(path.startswith(heads) for path in fresh)
        assert {part.split(".")[0] for part in how.fresh} == {part.split(".")[0] for part in HEADS[name]}


def test_what_fits_of_another_network_on_the_same_encoder_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    written = write_model(file, make_recipe("unet", "resnet18")).state_dict()
    model, how = start(make_recipe("fpn", "resnet18"), TWO, file)
    for path, tensor in model.features.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, written[f"features.{path}"])
    assert how.fresh == ("laterals", "branches", "score.weight")  # as many biases, for as many classes


def test_another_encoder_is_refused_by_its_first_tensor(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    write_model(file, make_recipe("unet", "resnet18"))
    with torch.device("meta"), pytest.raises(RequestError) as raised:
        build_start(make_recipe("unet", "mobilenet_v2"), TWO, str(file))
    assert str(raised.value) == (
        f"weights {file}: of the encoder's tensor features.0.0.weight, (32, 1, 3, 3), it has none; "
        "give those of the same `model` and `backbone`"
    )
    with pytest.raises(RequestError, match=r"features.layer1.0.conv1.weight.*it has \(64, 64, 3, 3\)"):
        build_start(make_recipe("unet", "resnet50"), TWO, str(file))


@torch.inference_mode()
def test_gray_gives_what_it_gave_three_times_over(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    colour = write_model(file, make_recipe("unet", "mobilenet_v2", channels=3)).eval()
    model, _ = start(make_recipe("unet", "mobilenet_v2"), TWO, file)
    gray = torch.randn(1, 1, 64, 64)
    expected = colour(gray.expand(-1, 3, -1, -1))
    # float32 sums in another order: some rounding of the largest value
    assert (model.eval()(gray) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("how", ["file", "download"])
@torch.inference_mode()
def test_torchvisions_whole_network_is_filled(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    file = tmp_path / "coco.pth"
    torch.save(theirs.state_dict(), file)
    served: list[str] = []

    def answer(url: str, target: str, *_: object, **__: object) -> None:
        served.append(url)
        Path(target).write_bytes(file.read_bytes())

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", answer)
    weights = str(file) if how == "file" else "coco"
    recipe = make_recipe("fcn-resnet50", channels=3)
    model, found = start(recipe, tuple(map(str, range(21))), weights)
    images = torch.randn(1, 3, 33, 40)
    assert torch.allclose(model.eval()(images), theirs(images)["out"], atol=1e-5)
    assert found.fresh == ()
    assert start(recipe, TWO, weights)[1].fresh == ("classifier.4",)
    assert served == ([] if how == "file" else [FCN_ResNet50_Weights.DEFAULT.url])


def test_coco_is_refused_where_torchvision_has_none() -> None:
    with pytest.raises(RequestError) as raised:
        build_start(make_recipe("unet"), TWO, "coco")
    assert str(raised.value) == (
        "weights coco are of fcn-resnet50 and fcn-resnet101, not of unet; use `weights=imagenet`"
    )


def test_on_meta_all_is_checked_and_nothing_copied(tmp_path: Path) -> None:
    file, recipe = tmp_path / "m.safetensors", make_recipe("unet", "mobilenet_v2")
    write_model(file, recipe)
    with torch.device("meta"):
        model, how = build_start(recipe, THREE, str(file))
    assert all(value.is_meta for value in model.parameters())
    assert how is not None
    assert how.fresh == ("score",)


def test_weights_of_a_backbone_and_none_are_no_whole_network(shared_data: Path) -> None:
    recipe = make_recipe("unet", "mobilenet_v2")
    assert build_start(recipe, TWO, "none")[1] is None
    assert build_start(recipe, TWO, str(shared_data / "weights/mobilenet_v2_features.pth"))[1] is None


def test_a_file_is_named_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.safetensors").touch()
    recipe = make_recipe("unet", weights="m.safetensors")
    assert locate(recipe) == replace(recipe, weights=str(tmp_path / "m.safetensors"))
    for weights in ("none", "imagenet", "gone.safetensors"):
        assert locate(replace(recipe, weights=weights)).weights == weights


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"freeze": "encoder"}, "recipe: freeze is encoder with weights none, which would keep what chance"),
        (
            {"encoder_lr_factor": 0.0},
            "recipe: encoder_lr_factor is 0.0, not above 0; try `encoder_lr_factor=",
        ),
        (
            {"freeze": "encoder", "weights": "imagenet", "encoder_lr_factor": 0.1},
            "freeze is encoder with encoder_lr_factor 0.1, which then moves nothing; choose one of them",
        ),
    ],
)
def test_what_would_move_nothing_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        make_recipe("unet", **changes)


def test_weights_that_are_a_runs_folder_are_its_best_model_file(tmp_path: Path, monkeypatch: Any) -> None:
    recipe = make_recipe("unet", "mobilenet_v2")
    write_model(tmp_path / "run" / "best.safetensors", recipe)
    opened = open_weights(replace(recipe, weights=str(tmp_path / "run")))
    assert opened == replace(recipe, weights=str(tmp_path / "run" / "best.safetensors"))
    assert open_weights(opened) == opened
    assert find_card(str(tmp_path / "run")) == find_card(opened.weights)
    assert find_card(opened.weights) is not None
    (tmp_path / "imagenet").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in ("none", "imagenet"):  # which are no folders, whatever lies here
        assert open_weights(replace(recipe, weights=given)).weights == given
        assert find_card(given) is None
    spelled = "./run//best.safetensors"  # of a run that was begun so, part of what it is
    assert open_weights(replace(recipe, weights=spelled)).weights == spelled
    with pytest.raises(RequestError, match=r"model .*imagenet is a folder without best.safetensors"):
        open_weights(replace(recipe, weights=str(tmp_path / "imagenet")))
