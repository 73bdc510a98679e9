from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import WeightsEnum, resnet18
from torchvision.models.segmentation import (
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
    fcn_resnet50,
    fcn_resnet101,
)

from seg.models.fcn import FCN
from seg.models.fcn_resnet import FCNResNet50, FCNResNet101
from tests.seg.models.parameters import conv, count_parameters


def test_fcn_has_the_parameters_of_resnet18_and_its_head() -> None:
    network = resnet18(weights=None)
    backbone = count_parameters(network) - count_parameters(network.fc) - 2 * 64 * 7 * 7  # 1 channel, not 3
    model = FCN(4, 1)
    assert count_parameters(model.features) == backbone == 11_170_240
    head = conv(512, 64, 3) + conv(64, 4, 1, norm=False) + 4 * 4 * 16 * 16
    assert count_parameters(model) == backbone + head


@pytest.mark.parametrize(
    ("ours", "theirs", "published"),
    [
        (FCNResNet50, fcn_resnet50, FCN_ResNet50_Weights.DEFAULT),
        pytest.param(
            *(FCNResNet101, fcn_resnet101, FCN_ResNet101_Weights.DEFAULT),
            marks=pytest.mark.long,  # as the other, but for what test_backbones has
        ),
    ],
)
@torch.inference_mode()
def test_torchvisions_networks_are_torchvisions(
    ours: type[nn.Module], theirs: Callable[..., nn.Module], published: WeightsEnum
) -> None:
    expected = theirs(weights=None, weights_backbone=None, num_classes=21).eval()
    model = ours(21, 3).eval()
    auxiliary = conv(1024, 256, 3) + conv(256, 21, 1, norm=False)
    assert count_parameters(model) == published.meta["num_params"] - auxiliary
    state = expected.state_dict()
    model.load_state_dict({k.replace("backbone.", "features.", 1): v for k, v in state.items()})
    images = torch.randn(1, 3, 65, 50)
    assert torch.equal(model(images), expected(images)["out"])
