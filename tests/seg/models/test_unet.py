from seg.models.unet import UNet
from tests.seg.models.parameters import conv, count_parameters

BACKBONES = {
    "resnet18": (11_170_240, (64, 64, 128, 256, 512)),
    "resnet50": (23_501_760, (64, 256, 512, 1024, 2048)),
    "mobilenet_v2": (2_223_296, (16, 24, 32, 96, 1280)),
}
"""Parameters of a backbone for 1 channel, and the widths of its maps."""


def test_unet_has_the_parameters_that_its_widths_give() -> None:
    for backbone, (parameters, (stride2, stride4, stride8, stride16, stride32)) in BACKBONES.items():
        model = UNet(2, 1, backbone)
        levels = [(stride32 + stride16, 128), (128 + stride8, 64), (64 + stride4, 32), (32 + stride2, 32)]
        decoder = sum(conv(inputs, width, 3) + conv(width, width, 3) for inputs, width in levels)
        assert count_parameters(model.decoder) == decoder
        assert count_parameters(model) == parameters + decoder + conv(32, 2, 1, norm=False)
