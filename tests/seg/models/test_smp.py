import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as library
import torch
import torch.nn.functional as F

from seg.errors import RequestError
from seg.models.build import build, output_weights, takes_frames
from tests.seg.models.parameters import count_parameters

NAME = "smp/Unet/resnet18"


def refusal(name: str = NAME, **arguments: object) -> str:
    with pytest.raises(RequestError) as raised:
        build(name, num_classes=2, channels=1, **arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@torch.inference_mode()
def test_a_network_is_the_librarys_at_any_size() -> None:
    theirs = library.Unet("resnet18", encoder_weights=None, in_channels=1, classes=3).eval()
    model = build(NAME, num_classes=3, channels=1).eval()
    assert count_parameters(model) == count_parameters(theirs)
    theirs.load_state_dict(model.network.state_dict())
    for height, width in [(64, 96), (1, 1), (33, 64), (50, 31)]:
        images = torch.randn(2, 1, height, width)
        rounded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")
        assert torch.equal(model(images), theirs(rounded)[..., :height, :width])


@pytest.mark.parametrize(
    "name", ["smp/deeplabv3plus/resnet18", pytest.param("smp/unet/tu-resnet18", marks=pytest.mark.long)]
)
def test_a_network_trains_and_reloads(name: str) -> None:
    model = build(name, num_classes=2, channels=1)
    model(torch.randn(2, 1, 40, 64)).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    again = build(name, num_classes=2, channels=1).eval()
    again.load_state_dict(model.eval().state_dict())
    images = torch.randn(1, 1, 33, 70)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert output_weights(model) == (1.0,)
    assert not takes_frames(name)


@pytest.mark.parametrize("name", [NAME, "smp/segformer/mit_b0"])
def test_a_network_is_built_whole_where_recipes_are_checked(name: str) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=2, channels=1)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert refusal() == f"{NAME} needs the extra smp; install it: pip install segmentation-models-pytorch"


def test_unknown_names_are_refused_with_the_near_ones() -> None:
    assert refusal("smp/unett/resnet18").startswith(
        "unknown network of smp 'unett'; did you mean unet or upernet or manet? known: unet, unetplusplus, "
    )
    assert refusal("smp/unet/resnet81").startswith(
        "unknown encoder of smp 'resnet81'; did you mean resnet18 or resnet152 or resnet101? known: "
    )
    form = "is not smp/NAME/ENCODER; try smp/unet/resnet34"
    assert refusal("smp/unet") == f"architecture 'smp/unet' {form}"


def test_what_such_a_network_does_not_take_is_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "w.pth")
    assert refusal(backbone="resnet18") == f"{NAME} names its encoder; leave the backbone resnet18 out"
    assert refusal(options={"n": 1}) == f"{NAME} takes no options, but n is given; leave it out"
    assert refusal(weights=file) == f"{NAME} takes no weights from a file ({file}); use none or imagenet"


def test_what_the_library_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("smp/linknet/mit_b0").startswith(
        "smp/linknet/mit_b0 with weights none: segmentation-models-pytorch refuses (ValueError: "
    )
    assert refusal("smp/unet/tu-nothing").startswith(
        "smp/unet/tu-nothing with weights none: segmentation-models-pytorch refuses ("
    )

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(library.encoders, "hf_hub_download", fail)
    assert refusal(weights="imagenet") == (
        f"{NAME} with weights imagenet: segmentation-models-pytorch refuses "
        "(ConnectionError: no route to host); try another encoder or weights none"
    )
