from types import SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.fpn import decoder as their_decoder
from torch import Tensor, nn

from seg.models.fpn import FPN
from tests.seg.models.parameters import conv, count_parameters


def build_theirs(backbone: str) -> nn.Module:
    return smp.FPN(backbone, encoder_weights=None, in_channels=3, classes=4)


@pytest.mark.parametrize("backbone", FPN.BACKBONES)
def test_parameters_are_those_of_another_library(backbone: str) -> None:
    with torch.device("meta"):  # shapes alone
        ours, theirs = FPN(4, 3, backbone), build_theirs(backbone)
    assert count_parameters(ours) == count_parameters(theirs)


def test_parameters_are_those_of_the_papers_widths() -> None:
    laterals = sum(conv(width, 256, 1, norm=False) for width in (24, 32, 96, 1280))
    branches = 4 * conv(256, 128, 3) + 3 * conv(128, 128, 3)  # 1, 1, 2 and 3 convolutions
    backbone = 2_223_872  # MobileNetV2 without its classifier
    expected = backbone + laterals + branches + conv(128, 2, 1, norm=False)
    assert count_parameters(FPN(2, 3)) == expected


def rename(path: str) -> str:
    """Our name of one of their parameters."""
    for number, level in enumerate((3, 2, 1, 0)):
        lateral = f"p{level + 2}." if level == 3 else f"p{level + 2}.skip_conv."
        path = path.replace(f"decoder.{lateral}", f"laterals.{level}.")
        path = path.replace(f"decoder.seg_blocks.{number}.block.", f"branches.{level}.convolve.")
    path = path.replace("block.", "") if path.startswith("branches") else path
    path = path.replace("segmentation_head.0.", "score.")
    return path.replace("encoder.features.", "features.").replace("encoder.", "features.")


def interpolate(maps: Tensor, *, align_corners: bool | None = None, **options: Any) -> Tensor:
    """Theirs, but bilinear in whole-image coordinates as everywhere here."""
    return F.interpolate(maps, align_corners=None if align_corners is None else False, **options)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
@torch.inference_mode()
def test_logits_are_those_of_another_library(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(their_decoder, "F", SimpleNamespace(interpolate=interpolate))
    theirs, ours = build_theirs(backbone).eval(), FPN(4, 3, backbone).eval()
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    state = {rename(path): tensor for path, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(ours(images), theirs(images))
