import pytest
import torch
import torchvision
from torch import nn

from seg.models.backbones import BACKBONES, RESNETS, Features, VGGFeatures, build_features


def mark(*names: str) -> list[object]:
    """Cases of these backbones; residual networks beyond the first are long."""
    more = {"resnet34", "resnet50", "resnet101"}
    return [pytest.param(name, marks=[pytest.mark.long] if name in more else []) for name in names]


NAMES = mark(*BACKBONES)
DILATED = mark("resnet18", "resnet34", "resnet50", "mobilenet_v2")
WIDTHS = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "resnet101": (64, 256, 512, 1024, 2048),
    "mobilenet_v2": (16, 24, 32, 96, 1280),
    "vgg16_bn": (64, 128, 256, 512, 512),
}


def copy_theirs(network: nn.Module, features: Features) -> None:
    state = {k.removeprefix("features."): v for k, v in network.state_dict().items()}
    features.load_state_dict({k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))})


@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_are_torchvisions_by_name_but_the_classifier(name: str) -> None:
    with torch.device("meta"):  # shapes alone
        network, features = torchvision.models.get_model(name, weights=None), build_features(name, 3)
    theirs = {k.removeprefix("features."): v.shape for k, v in network.state_dict().items()}
    ours = {k: v.shape for k, v in features.state_dict().items()}
    assert ours == {k: v for k, v in theirs.items() if not k.startswith(("fc.", "classifier."))}


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_last_map_is_torchvisions(name: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
    features = build_features(name, 3).eval()
    # but average pooling and classifier
    theirs = nn.Sequential(*list(network.children())[:-2]) if name in RESNETS else network.features
    theirs.to_empty(device="cpu").load_state_dict(
        dict(zip(theirs.state_dict(), features.state_dict().values(), strict=True))
    )
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(features(images)[-1], theirs(images))


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_maps_have_their_strides_rounded_up_and_their_widths(name: str) -> None:
    features = build_features(name, 2).eval()
    assert features.widths == WIDTHS[name]
    maps = features(torch.randn(1, 2, 97, 50))
    assert [tuple(part.shape) for part in maps] == [
        (1, width, -(-97 // stride), -(-50 // stride))
        for width, stride in zip(features.widths, (2, 4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", DILATED)
@torch.inference_mode()
def test_at_output_stride_8_the_last_two_maps_stay_there(name: str) -> None:
    maps = build_features(name, 2, output_stride=8).eval()(torch.randn(1, 2, 97, 50))
    assert [tuple(part.shape[2:]) for part in maps] == [(49, 25), (25, 13), (13, 7), (13, 7), (13, 7)]


@pytest.mark.parametrize("output_stride", [8, 32])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@torch.inference_mode()
def test_start_and_finish_are_the_whole(name: str, output_stride: int) -> None:
    features = build_features(name, 1, output_stride=output_stride).eval()
    images = torch.randn(1, 1, 65, 50)
    cut = features.start(images)
    assert cut.shape == (1, features.widths[2], 9, 7)
    expected = features(images)[-1]
    assert torch.equal(features.finish(cut), expected)
    assert torch.equal(features.last(images), expected)


@torch.inference_mode()
def test_dilated_resnet50_is_torchvisions() -> None:
    rates = [False, True, True]
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=rates).eval()
    ours = build_features("resnet50", 3, output_stride=8).eval()
    copy_theirs(theirs, ours)
    images = torch.randn(1, 3, 65, 50)
    assert torch.equal(ours(images)[-1], nn.Sequential(*list(theirs.children())[:-2])(images))


@pytest.mark.parametrize("name", DILATED)
@torch.inference_mode()
def test_every_fourth_pixel_of_dilated_features_is_the_strided_networks(name: str) -> None:
    strided, dilated = build_features(name, 1).eval(), build_features(name, 1, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 1, 129, 70)
    expected, found = strided(images)[3:], dilated(images)[3:]
    for coarse, fine, step in zip(expected, found, (2, 4), strict=True):
        # float32 sums in another order: some rounding of the largest value
        assert (fine[..., ::step, ::step] - coarse).abs().max() <= 1e-5 * coarse.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_channels_changes_the_first_convolution_alone(name: str) -> None:
    three, one = build_features(name, 3).state_dict(), build_features(name, 1).state_dict()
    first = next(iter(three))
    assert {path for path in three if one[path].shape != three[path].shape} == {first}
    assert three[first].shape[1:2] + one[first].shape[1:2] == (3, 1)
    outputs, _, *kernel = one[first].shape
    spread = (2 / (outputs * kernel[0] * kernel[1])) ** 0.5  # He et al. 2015, arXiv:1502.01852, by outputs
    for state in (three, one):
        assert state[first].std().item() == pytest.approx(spread, rel=0.1)  # 288 draws at least


def test_padding_of_vggs_first_convolution_widens_what_it_sees() -> None:
    maps = VGGFeatures("vgg16_bn", 1, padding=100).eval()(torch.randn(1, 1, 1, 27))
    assert [tuple(part.shape[2:]) for part in maps] == [(100, 113), (50, 57), (25, 29), (13, 15), (7, 8)]


@pytest.mark.parametrize(("name", "known"), [("resnet18", "8 or 32"), ("mobilenet_v2", "8 or 32")])
def test_another_output_stride_is_refused(name: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"output_stride is 16, not {known}"):
        build_features(name, 1, output_stride=16)
    with pytest.raises(ValueError, match="output_stride is 8, not 32"):
        build_features("vgg16_bn", 1, output_stride=8)
