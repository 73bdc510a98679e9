from itertools import pairwise
from math import ceil

import pytest
import torch
from torch import nn

from seg.models.fcn32 import FCN32
from tests.seg.models.parameters import conv, count_parameters


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FCN32:
    """In eval mode, with a head of 16 channels, which has the same geometry."""
    monkeypatch.setattr(FCN32, "HEAD_WIDTH", 16)
    return FCN32(2, 1).eval()


def test_fcn32_has_the_parameters_of_vgg16_and_the_papers_head() -> None:
    with torch.device("meta"):  # shapes alone
        model = FCN32(3, 3)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    vgg = sum(conv(a, b, 3) + b for a, b in pairwise(widths))  # batch norm and a bias
    assert count_parameters(model.features) == vgg == 14_714_688 + 2 * 4224
    head = conv(512, 4096, 7, norm=False) + conv(4096, 4096, 1, norm=False) + conv(4096, 3, 1, norm=False)
    assert count_parameters(model) == vgg + head + 3 * 3 * 64 * 64


@torch.inference_mode()
def test_at_every_size_the_upsampled_map_covers_the_image() -> None:
    with torch.device("meta"):
        model, images = FCN32(2, 1).eval(), [torch.empty(1, 1, 1, side) for side in range(1, 66)]
    upsampled = []
    model.upsample.register_forward_hook(lambda _, inputs, output: upsampled.append(output.shape[-1]))
    for side, image in enumerate(images, 1):
        assert model(image).shape == (1, 2, 1, side)
        assert upsampled[-1] == 32 * (ceil((side + 198) / 32) - 6) + 32  # as Caffe counts


@torch.inference_mode()
def test_a_mirrored_image_has_the_mirrored_logits(model: FCN32) -> None:
    """All weights mirrored too; at 58 px the strides meet both borders alike: 58 + 198 = 8 * 32.

    So where the logits lie against the image is right to half a pixel.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight + layer.weight.flip(-1)
            layer.weight.copy_((weight + weight.flip(-2)) / 4)
    images = torch.randn(1, 1, 58, 58)
    logits = model(images)
    assert logits.std() > 1e-3
    # float32 sums in another order: some rounding of the largest value
    assert (model(images.flip(-1, -2)).flip(-1, -2) - logits).abs().max() <= 1e-5 * logits.abs().max()


@torch.inference_mode()
def test_where_the_image_ends_moves_nothing_that_is_far_from_there(model: FCN32) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):  # the middle of each kernel alone: poolings and upsampling are left
            middle = layer.kernel_size[0] // 2
            layer.weight.zero_()
            layer.weight[:, :, middle, middle] = 1 / layer.in_channels
    images = torch.rand(1, 1, 1, 120)
    whole = model(images)
    assert whole.std() > 1e-3
    for side in (65, 105):
        far = side - 48  # a pixel sees scores up to 32 pixels away, each of a cell of 32
        torch.testing.assert_close(model(images[..., :side])[..., :far], whole[..., :far])
