import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seg.models import MODELS
from seg.models.build import build, output_weights, takes_frames
from seg.models.fcn32 import FCN32
from seg.predict.passes import has_fast_bf16

QUICK = {("unet", "mobilenet_v2"), ("icnet", "mobilenet_v2"), ("fpn", "resnet18")}
LONG = {"fcn-resnet101"}  # beyond fcn-resnet50 it has only more of the same blocks


def mark(name: str, *backbone: str) -> object:
    """A case of the registry; beside the defaults and a few, marked as long."""
    first = not backbone or backbone[0] == MODELS[name].BACKBONES[0]
    quick = name not in LONG and (first or (name, *backbone) in QUICK)
    return pytest.param(name, *backbone, marks=[] if quick else [pytest.mark.long])


ENTRIES = [mark(name, backbone) for name, model in MODELS.items() for backbone in model.BACKBONES]
NAMES = [mark(name) for name in MODELS]
MINIMA = {"fcn": 9, "fcn-resnet50": 9, "icnet": 33, "icnet-gru": 33, "unet": 33, "fpn": 33}


@pytest.fixture(autouse=True)
def _narrow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """FCN-32s with 2 million parameters in its head instead of 120; test_fcn32 counts it whole."""
    monkeypatch.setattr(FCN32, "HEAD_WIDTH", 64)


def draw_images(name: str, *shape: int) -> Tensor:
    """Images [N, channels, H, W], or windows of two frames for a model that takes those."""
    n, *rest = shape
    return torch.randn(n, 2, *rest) if takes_frames(name) else torch.randn(shape)


def as_outputs(logits: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (logits,) if isinstance(logits, Tensor) else logits


def test_the_registry_has_every_architecture() -> None:
    names = "fcn32 fcn fcn-resnet50 fcn-resnet101 pyramid-fcn icnet icnet-gru unet unet-classic fpn"
    assert list(MODELS) == names.split()
    assert [name for name in MODELS if takes_frames(name)] == ["icnet-gru"]


@pytest.mark.parametrize(("name", "backbone"), ENTRIES)
def test_every_model_keeps_size_trains_and_reloads(name: str, backbone: str) -> None:
    model = build(name, backbone=backbone, num_classes=3, channels=1)
    images = draw_images(name, 1, 1, 65, 49)  # one crop: batch norm on a single value would raise
    kept = images.clone()
    outputs = as_outputs(model(images))
    assert torch.equal(images, kept)
    assert len(outputs) == len(output_weights(model))
    assert all(output.shape[:2] == (1, 3) for output in outputs)
    assert [output.shape[-1] for output in outputs] == sorted((o.shape[-1] for o in outputs), reverse=True)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path

    model.eval()
    images = draw_images(name, 1, 1, 65, 50)
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (1, 3, 65, 50)
        assert logits.dtype == torch.float32
        again = build(name, backbone=backbone, num_classes=3, channels=1).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(images), logits)


@pytest.mark.parametrize("name", NAMES)
def test_crops_of_any_size_and_channels_are_predicted_at_their_size(name: str) -> None:
    model = build(name, num_classes=2, channels=3).eval()
    for height, width in [(1, 1), (7, 33), (32, 32), (64, 97)]:
        with torch.inference_mode():
            assert model(draw_images(name, 1, 3, height, width)).shape == (1, 2, height, width)


@pytest.mark.parametrize(("name", "side"), MINIMA.items())
def test_the_stated_minimum_trains_on_one_crop(name: str, side: int) -> None:
    model = build(name, num_classes=2, channels=1)
    assert all(output.isfinite().all() for output in as_outputs(model(draw_images(name, 1, 1, side, side))))
    if not takes_frames(name):  # two frames are two values
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.randn(1, 1, side - 1, side - 1))


IN_BF16 = [
    # a minute where a CPU has no instructions for bf16, so large are its images after padding
    pytest.param(name, marks=[pytest.mark.long] if name == "fcn32" and not has_fast_bf16() else [])
    for name in MODELS
    if name not in ("fcn-resnet50", "fcn-resnet101")
]


@pytest.mark.parametrize("name", IN_BF16)
def test_bf16_autocast_and_channels_last_train(name: str) -> None:
    model = build(name, num_classes=2, channels=1).to(memory_format=torch.channels_last)
    images = draw_images(name, 2, 1, 33, 33)
    if not takes_frames(name):
        images = images.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = as_outputs(model(images))
    torch.stack([output.float().mean() for output in outputs]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_first_backbone_is_the_default(name: str) -> None:
    with torch.device("meta"):  # shapes alone
        default, named = (
            build(name, backbone=backbone, num_classes=2, channels=1).state_dict()
            for backbone in (None, MODELS[name].BACKBONES[0])
        )
    assert {path: p.shape for path, p in default.items()} == {path: p.shape for path, p in named.items()}


@pytest.mark.parametrize("name", ["fcn", "fcn32"])
def test_a_learned_upsampling_starts_as_bilinear_interpolation(name: str) -> None:
    conv, coarse = build(name, num_classes=3, channels=1).upsample, torch.randn(2, 3, 6, 5)
    stride = conv.stride[0]
    border = stride // 2 if name == "fcn" else stride  # fcn32's has no padding
    found = conv(coarse).detach()[..., border:-border, border:-border]
    expected = F.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)
    inside = slice(stride // 2, -(stride // 2))
    torch.testing.assert_close(found, expected[..., inside, inside])
