from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from seg.errors import RequestError
from seg.model_card import ModelCard
from seg.model_file import load_model, save_model
from seg.models.pyramid_fcn import PyramidFCN, ResNetV2
from seg.recipe import Preprocessing, Tiling


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():  # weights come from the default generator; it is left as it was found
        torch.manual_seed(0)
        yield


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(inputs: int, outputs: int, side: int) -> int:
    """A convolution without bias, and batch norm's two a channel behind it."""
    return inputs * outputs * side**2 + 2 * outputs


def test_the_backbone_has_the_trainable_parameters_that_keras_prints_for_its_resnet56v2() -> None:
    features = ResNetV2(3)
    biases = sum(part.out_channels for part in features.modules() if isinstance(part, nn.Conv2d))  # Keras's
    classifier = 256 * 10 + 10
    assert count_parameters(features) + biases + classifier == 1_663_338


@pytest.mark.parametrize(("n_layers", "coarse"), [(1, [256]), (2, [256, 512]), (4, [256, 512, 512, 512])])
def test_parameters_are_those_of_the_description_layer_by_layer(n_layers: int, coarse: list[int]) -> None:
    first = 16 * 16 + 2 * 16 + 9 * 16 * 16 + 2 * 16 + 16 * 64 + 16 * 64  # nothing before it, and a shortcut
    stage1 = first + 5 * (2 * 64 + conv(64, 16, 1) + conv(16, 16, 3) + 16 * 64)
    stage2 = 2 * 64 + conv(64, 64, 1) + conv(64, 64, 3) + 64 * 128 + 64 * 128
    stage2 += 5 * (2 * 128 + conv(128, 64, 1) + conv(64, 64, 3) + 64 * 128)
    stage3 = 2 * 128 + conv(128, 128, 1) + conv(128, 128, 3) + 128 * 256 + 128 * 256
    stage3 += 5 * (2 * 256 + conv(256, 128, 1) + conv(128, 128, 3) + 128 * 256)
    backbone = conv(1, 16, 3) + stage1 + stage2 + stage3 + 2 * 256
    strided = sum(conv(above, 512, 3) for above in coarse[:-1])
    laterals = sum(conv(width, 256, 3) for width in coarse)
    upsampling = conv(256 * (n_layers + 1), 256, 3) + conv(256, 256, 3)
    model = PyramidFCN(4, 1, n_layers=n_layers)
    assert count_parameters(model.features) == backbone
    assert count_parameters(model) == backbone + strided + laterals + upsampling + 256 * 4 + 4


def test_maps_have_the_strides_and_widths_of_the_description() -> None:
    model, shapes = PyramidFCN(4, 3).eval(), []
    finest = []
    model.features.register_forward_hook(lambda _, __, output: finest.append(output))
    for lateral in model.laterals:
        lateral.register_forward_hook(
            lambda _, inputs, output: shapes.append((inputs[0].shape, output.shape))
        )
    joined = []
    model.upsample.register_forward_hook(lambda _, inputs, output: joined.extend([inputs[0], output]))
    with torch.inference_mode():
        model(torch.randn(1, 3, 64, 128))
    assert [tuple(taken[1:]) for taken, _ in shapes] == [
        (256, 16, 32),
        (256, 8, 16),
        (512, 4, 8),
        (512, 2, 4),
        (512, 1, 2),
    ]
    assert [given[1] for _, given in shapes] == [256] * 5
    assert [tuple(maps.shape[1:]) for maps in joined] == [(1280, 16, 32), (256, 64, 128)]
    assert torch.equal(joined[0][:, :256], finest[0])  # as it is: four convolutions for five maps


def test_convolutions_start_with_the_spread_that_he_et_al_derive() -> None:
    model = PyramidFCN(2, 1)
    weights = [p for path, p in model.named_parameters() if path.endswith("weight") and p.ndim == 4]
    assert len(weights) == (1 + 3 * 6 * 3 + 3) + 3 + 4 + 2 + 1
    for weight in weights:
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)  # 144 samples at the least


@pytest.mark.parametrize("n_layers", [1, 4])
def test_any_size_is_predicted_at_its_size(n_layers: int) -> None:
    model = PyramidFCN(3, 1, n_layers=n_layers).eval()
    for height, width in [(1, 1), (7, 33), (30, 40), (65, 50)]:
        with torch.inference_mode():
            logits = model(torch.randn(2, 1, height, width))
        assert logits.shape == (2, 3, height, width)
        assert logits.dtype == torch.float32


def test_pixels_far_from_the_border_do_not_notice_where_an_odd_image_ends() -> None:
    model = PyramidFCN(2, 1, n_layers=2).eval()
    images = torch.randn(1, 1, 16, 224)
    with torch.inference_mode():
        whole, cut = (
            model(images)[..., :64],
            model(images[..., :201])[..., :64],
        )  # 201: a multiple of no stride
    # the same sums in another order: some rounding of the largest value
    assert (whole - cut).abs().max() <= 1e-5 * whole.abs().max()


def test_one_crop_of_the_stated_minimum_trains_every_parameter() -> None:
    model = PyramidFCN(2, 1)
    images = torch.randn(1, 1, 65, 20)
    kept = images.clone()
    model(images).square().mean().backward()
    assert torch.equal(images, kept)
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 1, 64, 64))


def test_weights_reload_and_the_same_seed_gives_the_same_model() -> None:
    model = PyramidFCN(2, 1, n_layers=2).eval()
    torch.manual_seed(0)
    again = PyramidFCN(2, 1, n_layers=2).eval()
    other = PyramidFCN(2, 1, n_layers=2).eval()
    images = torch.randn(1, 1, 33, 18)
    with torch.inference_mode():
        logits = model(images)
        assert torch.equal(again(images), logits)
        assert not torch.equal(other(images), logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), logits)


def test_bf16_autocast_and_channels_last_train() -> None:
    model = PyramidFCN(2, 3, n_layers=2).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 32, 33).to(memory_format=torch.channels_last))
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_pyramid_without_layers_is_refused() -> None:
    with pytest.raises(RequestError) as raised:
        PyramidFCN(2, 1, n_layers=0)
    assert str(raised.value) == "pyramid-fcn: n_layers is 0, not 1 or more; try 4"


@pytest.mark.parametrize("n_layers", [1, 4])
def test_a_model_file_of_the_shape_with_a_convolution_on_the_finest_map_is_refused(
    n_layers: int, tmp_path: Path
) -> None:
    model, path = PyramidFCN(2, 1, n_layers=n_layers), tmp_path / "old.safetensors"
    card = ModelCard(
        architecture="pyramid-fcn",
        backbone=None,
        classes=("background", "cell"),
        label_map=(),
        model_options=(("n_layers", n_layers),),
        preprocessing=Preprocessing(),
        statistics=None,
        tiling=Tiling(),
    )
    save_model(path, model, card)
    load_model(path)
    model.laterals[0] = Conv2dNormActivation(256, 256, kernel_size=3)
    save_model(path, model, card)
    with pytest.raises(RequestError) as raised:
        load_model(path)
    assert str(raised.value) == (
        f"model {path} is of an older shape: pyramid-fcn now joins its finest map as it is, "
        "without a convolution; train it again"
    )
