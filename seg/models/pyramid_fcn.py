"""Reference system C: a pyramid of maps over a pre-activation residual network, joined at stride 4."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seg.errors import RequestError


class PyramidFCN(nn.Module):
    """Fully convolutional network on ResNetV2-56, its map pooled and strided n_layers times.

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop alone,
    the coarsest map, at stride 4 * 2**n_layers, must have two pixels: with 4 layers one side of 65 pixels.
    Output: logits, float [N, C, H, W].
    The finest map, at stride 4, is joined as it is, the others behind a 3x3 convolution to 256 channels.
    n_layers: maps beside the backbone's own, at strides 8, 16, ...; the reference system has 4.
    Weights start from the normal distribution of He et al. (2015, arXiv:1502.01852), as in the reference.
    Unlike the reference: no biases that batch norm would take out again; and a side that is no multiple of
    the coarsest stride is rounded up on the way down and cropped on the way up, so that each map stays over
    the pixels that it was made from. RequestError: n_layers below 1.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnetv2-56",)
    OLDER_TENSORS: ClassVar[Mapping[str, str]] = {
        "laterals.0.0.weight": "pyramid-fcn now joins its finest map as it is, without a convolution"
    }

    def __init__(
        self, num_classes: int, channels: int, backbone: str | None = None, *, n_layers: int = 4
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise RequestError(f"pyramid-fcn: n_layers is {n_layers}, not 1 or more; try 4")
        self.features = ResNetV2(channels)
        widths = [self.features.WIDTH, *[512] * (n_layers - 1)]  # pooled, strided
        self.pyramid = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            *(Conv2dNormActivation(above, 512, kernel_size=3, stride=2) for above in widths[:-1]),
        )
        self.laterals = nn.ModuleList(
            [nn.Identity(), *(Conv2dNormActivation(width, 256, kernel_size=3) for width in widths)]
        )
        joined = self.features.WIDTH + 256 * n_layers
        self.upsample = nn.Sequential(*double_size(joined, 256), *double_size(256, 256))
        self.score = nn.Conv2d(256, num_classes, kernel_size=1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        maps = [self.features(images)]
        for layer in self.pyramid:
            maps.append(layer(maps[-1]))
        finest, *coarser = (lateral(part) for lateral, part in zip(self.laterals, maps, strict=True))
        height, width = finest.shape[-2:]
        upsampled = [enlarge(part, 2**level)[..., :height, :width] for level, part in enumerate(coarser, 1)]
        logits = self.score(self.upsample(torch.cat([finest, *upsampled], dim=1)))
        return logits[..., : images.shape[-2], : images.shape[-1]]


class ResNetV2(nn.Module):
    """Pre-activation residual network of depth 56 for small images (He et al. 2016, arXiv:1603.05027).

    Input: float [N, channels, H, W]. Output: one map [N, 256, h, w] at stride 4, sides rounded up.
    As in the Keras example of that name: three stages of six bottlenecks at strides 1, 2 and 4, a bottleneck
    of the later stages half as wide as its output, the stride in its first 1x1 convolution, and a shortcut
    that is projected from the block's input before batch norm. Unlike it: no biases, which the batch norm at
    the start of every later block and at the end would take out again.
    """

    STAGES: ClassVar[tuple[tuple[int, int, int], ...]] = ((16, 64, 1), (64, 128, 2), (128, 256, 2))
    """Width of the bottlenecks, of their output, and stride of the first one, by stage."""
    BLOCKS: ClassVar[int] = 6
    WIDTH: ClassVar[int] = STAGES[-1][1]

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = self.STAGES[0][0]
        self.start = Conv2dNormActivation(channels, inputs, kernel_size=3)
        blocks = []
        for width, outputs, stride in self.STAGES:
            blocks.append(Bottleneck(inputs, width, outputs, stride=stride, activate=bool(blocks)))
            blocks += [Bottleneck(outputs, width, outputs) for _ in range(self.BLOCKS - 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.end = nn.Sequential(nn.BatchNorm2d(self.WIDTH), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        """One map, normalised and rectified."""
        return self.end(self.blocks(self.start(images)))


class Bottleneck(nn.Module):
    """Residual unit of three convolutions, batch norm and ReLU before each (figure 4e of the paper).

    activate: False for the network's first, whose input has just passed through batch norm and ReLU.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, *, stride: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(norm_relu(inputs) if activate else []),
            nn.Conv2d(inputs, width, kernel_size=1, stride=stride, bias=False),
            *norm_relu(width),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            *norm_relu(width),
            nn.Conv2d(width, outputs, kernel_size=1, bias=False),
        )
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, outputs, h, w], sides divided by the stride and rounded up."""
        return self.shortcut(maps) + self.residual(maps)


def norm_relu(width: int) -> list[nn.Module]:
    """Batch norm and ReLU."""
    return [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def double_size(inputs: int, outputs: int) -> list[nn.Module]:
    """A learned upsampling by exactly 2, batch norm and ReLU."""
    conv = nn.ConvTranspose2d(
        inputs, outputs, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False
    )
    return [conv, *norm_relu(outputs)]


def enlarge(maps: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation to exactly `factor` times the size."""
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
