import torch
import torch.nn.functional as F
from torch import nn

from seg.models.icnet import ICNet, PyramidPooling
from tests.seg.models.parameters import conv, count_parameters


def test_icnet_has_the_parameters_of_its_three_branches() -> None:
    detail = conv(1, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3)
    fusion = conv(256, 128, 3) + conv(128, 128, 1) + conv(128, 128, 3) + conv(64, 128, 1)
    heads = 2 * conv(128, 2, 1, norm=False) + conv(256, 2, 1, norm=False)
    assert count_parameters(ICNet(2, 1)) == 11_170_240 + detail + conv(512, 256, 1) + fusion + heads
    narrow = fusion + conv(32, 128, 1) - conv(128, 128, 1)
    features = 2_223_872 - 2 * 32 * 3 * 3  # MobileNetV2 without its classifier, for 1 channel
    mobile = features + detail + conv(1280, 256, 1) + narrow + heads
    assert count_parameters(ICNet(2, 1, "mobilenet_v2")) == mobile


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


@torch.inference_mode()
def test_each_branch_works_at_its_share_of_the_resolution() -> None:
    for backbone, medium, low in [
        ("resnet18", 128, 512),
        ("resnet50", 512, 2048),
        ("mobilenet_v2", 32, 1280),
    ]:
        model, shapes = ICNet(2, 1, backbone).eval(), {}
        for name in ("detail", "context", "fuse_medium", "fuse_fine"):
            getattr(model, name).register_forward_hook(
                lambda _, inputs, output, name=name, shapes=shapes: shapes.update(
                    {name: [tuple(part.shape[1:]) for part in inputs]}
                )
            )
        model(torch.randn(1, 1, 128, 192))
        assert shapes == {
            "context": [(low, 4, 6)],
            "detail": [(1, 128, 192)],
            "fuse_medium": [(256, 8, 12), (medium, 8, 12)],
            "fuse_fine": [(128, 16, 24), (64, 16, 24)],
        }


def test_pyramid_pooling_adds_the_means_of_its_bins() -> None:
    flat = torch.full((1, 4, 13, 7), 2.0)
    assert torch.equal(PyramidPooling()(flat), 5 * flat)  # the map and four bins of the same mean
    halves = torch.zeros(1, 1, 12, 12)
    halves[..., 6:] = 1.0
    corner = 0 + 0.5 + 0 + 0 + 0  # only the bin of the whole mixes the halves; smaller ones keep the left 0
    assert PyramidPooling()(halves)[0, 0, 0, 0].item() == corner
