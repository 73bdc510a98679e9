import pytest
import torch

from seg.errors import RequestError
from seg.models import MODELS
from seg.models.build import build, takes_frames
from tests.seg.models.parameters import count_parameters

KNOWN = ", ".join(MODELS)


@pytest.mark.parametrize(
    ("name", "backbone", "message"),
    [
        ("icnt", None, f"unknown architecture 'icnt'; did you mean icnet or icnet-gru? known: {KNOWN}"),
        ("deeplab", None, f"unknown architecture 'deeplab'; known: {KNOWN}"),
        (
            "fpn",
            "resnet81",
            "unknown backbone of fpn 'resnet81'; did you mean resnet18 or resnet50 or resnet34? "
            "known: mobilenet_v2, resnet18, resnet34, resnet50",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_near_ones(name: str, backbone: str | None, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build(name, backbone=backbone, num_classes=2, channels=1)
    assert str(raised.value) == message


def test_an_unknown_architecture_takes_no_frames_either() -> None:
    with pytest.raises(
        RequestError, match="unknown architecture 'icnet-gr'; did you mean icnet-gru or icnet"
    ):
        takes_frames("icnet-gr")


def test_options_reach_the_architecture() -> None:
    with torch.device("meta"):
        four, default, one = (
            count_parameters(build("pyramid-fcn", num_classes=2, channels=1, options=options))
            for options in ({"n_layers": 4}, None, {"n_layers": 1})
        )
    assert four == default > one


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "pyramid-fcn",
            {"n_layer": 4},
            "unknown option of pyramid-fcn 'n_layer'; did you mean n_layers? known: n_layers",
        ),
        ("unet", {"n_layers": 4}, "unet takes no options, but n_layers is given; leave it out"),
        ("unet", {"channels": 4}, "unet takes no options, but channels is given; leave it out"),
    ],
)
def test_unknown_options_are_refused(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build(name, num_classes=2, channels=1, options=options)
    assert str(raised.value) == message
