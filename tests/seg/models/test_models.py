from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from seg.errors import RequestError
from seg.models import MODELS
from seg.models.backbones import RESNETS, ResNetFeatures
from seg.models.build import build
from seg.models.fcn import FCN
from seg.models.icnet import ICNet, PyramidPooling
from seg.models.unet import UNet

ENTRIES = [(name, backbone) for name, model in MODELS.items() for backbone in model.BACKBONES]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():  # weights come from the default generator; it is left as it was found
        torch.manual_seed(0)
        yield


def as_outputs(logits: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (logits,) if isinstance(logits, Tensor) else logits


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(inputs: int, outputs: int, side: int, *, norm: bool = True) -> int:
    """Parameters of a convolution with batch norm's two a channel, or with a bias."""
    return inputs * outputs * side**2 + outputs * (2 if norm else 1)


@pytest.mark.parametrize(("name", "backbone"), ENTRIES)
def test_every_model_keeps_size_trains_and_reloads(name: str, backbone: str) -> None:
    model = build(name, backbone=backbone, num_classes=3, channels=1)
    outputs = as_outputs(model(torch.randn(1, 1, 65, 49)))  # one crop: batch norm on one value would raise
    assert len(outputs) == len(MODELS[name].OUTPUT_WEIGHTS)
    assert all(output.shape[:2] == (1, 3) for output in outputs)
    assert [output.shape[-1] for output in outputs] == sorted((o.shape[-1] for o in outputs), reverse=True)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path

    model.eval()
    images = torch.randn(2, 1, 65, 50)
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (2, 3, 65, 50)
        assert logits.dtype == torch.float32
        again = build(name, backbone=backbone, num_classes=3, channels=1).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(images), logits)


@pytest.mark.parametrize("name", MODELS)
def test_crops_of_any_size_and_channels_are_predicted_at_their_size(name: str) -> None:
    model = build(name, backbone=None, num_classes=2, channels=3).eval()
    for height, width in [(1, 1), (7, 33), (32, 32), (64, 97)]:
        with torch.inference_mode():
            assert model(torch.randn(1, 3, height, width)).shape == (1, 2, height, width)


@pytest.mark.parametrize(("name", "side"), [("fcn", 9), ("icnet", 33), ("unet", 33)])
def test_the_stated_minimum_trains_on_one_crop(name: str, side: int) -> None:
    model = build(name, backbone=None, num_classes=2, channels=1)
    assert all(output.isfinite().all() for output in as_outputs(model(torch.randn(1, 1, side, side))))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 1, side - 1, side - 1))


@pytest.mark.parametrize("name", MODELS)
def test_the_input_is_left_as_it_was(name: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    kept = images.clone()
    build(name, backbone=None, num_classes=2, channels=3)(images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_autocast_and_channels_last_train(name: str) -> None:
    model = build(name, backbone=None, num_classes=2, channels=1).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = as_outputs(model(torch.randn(2, 1, 64, 64).to(memory_format=torch.channels_last)))
    torch.stack([output.float().mean() for output in outputs]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_fcn_has_the_parameters_of_resnet18_and_its_head() -> None:
    network = resnet18(weights=None)
    backbone = count_parameters(network) - count_parameters(network.fc) - 2 * 64 * 7 * 7  # 1 channel, not 3
    model = FCN(4, 1)
    assert count_parameters(model.features) == backbone == 11_170_240
    head = conv(512, 64, 3) + conv(64, 4, 1, norm=False) + 4 * 4 * 16 * 16
    assert count_parameters(model) == backbone + head


@pytest.mark.parametrize("name", RESNETS)
def test_three_channels_keep_torchvisions_parameters_by_name(name: str) -> None:
    theirs = {path: p.shape for path, p in RESNETS[name](weights=None).state_dict().items()}
    ours = {path: p.shape for path, p in ResNetFeatures(name, 3).state_dict().items()}
    assert ours == {path: shape for path, shape in theirs.items() if not path.startswith("fc.")}


def test_unet_has_the_parameters_that_its_widths_give() -> None:
    model = UNet(2, 1)
    levels = [(512 + 256, 128), (128 + 128, 64), (64 + 64, 32), (32 + 64, 32)]
    decoder = sum(conv(inputs, width, 3) + conv(width, width, 3) for inputs, width in levels)
    assert count_parameters(model.decoder) == decoder
    assert count_parameters(model) == 11_170_240 + decoder + conv(32, 2, 1, norm=False)


def test_icnet_has_the_parameters_of_its_three_branches() -> None:
    detail = conv(1, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3)
    fusion = conv(256, 128, 3) + conv(128, 128, 1) + conv(128, 128, 3) + conv(64, 128, 1)
    heads = 2 * conv(128, 2, 1, norm=False) + conv(256, 2, 1, norm=False)
    assert count_parameters(ICNet(2, 1)) == 11_170_240 + detail + conv(512, 256, 1) + fusion + heads


def test_features_have_their_strides_and_widths() -> None:
    images = torch.randn(1, 2, 96, 64)
    for name, wide in [("resnet18", 1), ("resnet50", 4)]:
        plain, dilated = ResNetFeatures(name, 2), ResNetFeatures(name, 2, output_stride=8)
        for features, strides in [(plain, (2, 4, 8, 16, 32)), (dilated, (2, 4, 8, 8, 8))]:
            maps = features(images)
            assert [(96 // m.shape[2], 64 // m.shape[3]) for m in maps] == [(s, s) for s in strides]
            assert tuple(m.shape[1] for m in maps) == features.widths
            assert features.widths == (64, 64 * wide, 128 * wide, 256 * wide, 512 * wide)


def test_dilated_resnet50_is_torchvisions() -> None:
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    ours = ResNetFeatures("resnet50", 3, output_stride=8).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 65, 50)
    with torch.inference_mode():
        maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            maps = layer(maps)
        assert torch.equal(ours(images)[-1], maps)


@pytest.mark.parametrize("name", RESNETS)
def test_every_fourth_pixel_of_dilated_features_is_the_strided_networks(name: str) -> None:
    strided, dilated = ResNetFeatures(name, 1).eval(), ResNetFeatures(name, 1, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 1, 129, 70)
    with torch.inference_mode():
        expected, found = strided(images)[3:], dilated(images)[3:]
    for coarse, fine, step in zip(expected, found, (2, 4), strict=True):
        # float32 sums in another order: some rounding of the largest value
        assert (fine[..., ::step, ::step] - coarse).abs().max() <= 1e-5 * coarse.abs().max()


def test_fcns_upsampling_starts_as_bilinear_interpolation() -> None:
    coarse = torch.randn(2, 3, 6, 5)
    expected = F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False)
    found = FCN(3, 1).upsample(coarse).detach()
    assert found.shape == expected.shape
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])  # half a kernel in


def test_icnet_trains_on_three_scales_finest_first_and_scores_with_the_finest() -> None:
    model = ICNet(2, 1)
    images = torch.randn(2, 1, 96, 130)
    assert [tuple(output.shape) for output in model(images)] == [
        (2, 2, 24, 33),
        (2, 2, 12, 17),
        (2, 2, 6, 9),
    ]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # the same statistics for both calls, while the model itself trains
    finest = model(images)[0]
    expected = F.interpolate(finest, size=(96, 130), mode="bilinear", align_corners=False)
    assert torch.equal(model.eval()(images), expected)


def test_pyramid_pooling_adds_the_means_of_its_bins() -> None:
    flat = torch.full((1, 4, 13, 7), 2.0)
    assert torch.equal(PyramidPooling()(flat), 5 * flat)  # the map and four bins of the same mean
    halves = torch.zeros(1, 1, 12, 12)
    halves[..., 6:] = 1.0
    corner = 0 + 0.5 + 0 + 0 + 0  # only the bin of the whole mixes the halves; smaller ones keep the left 0
    assert PyramidPooling()(halves)[0, 0, 0, 0].item() == corner


@pytest.mark.parametrize(
    ("name", "backbone", "message"),
    [
        ("icnt", None, "unknown architecture 'icnt'; did you mean icnet? known: fcn, icnet, unet"),
        ("deeplab", None, "unknown architecture 'deeplab'; known: fcn, icnet, unet"),
        (
            "unet",
            "resnet81",
            "unknown backbone of unet 'resnet81'; did you mean resnet18 or resnet34? "
            "known: resnet18, resnet34",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_near_ones(name: str, backbone: str | None, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build(name, backbone=backbone, num_classes=2, channels=1)
    assert str(raised.value) == message


def test_the_first_backbone_is_the_default() -> None:
    default, named = (build("unet", backbone=name, num_classes=2, channels=1) for name in (None, "resnet18"))
    assert count_parameters(default) == count_parameters(named)


def test_another_output_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride is 16, not 8 or 32"):
        ResNetFeatures("resnet18", 1, output_stride=16)
