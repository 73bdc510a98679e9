"""The U-Net of reference system D, without a pretrained encoder."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class UNetClassic(nn.Module):
    """U-Net of 64-128-256-512-1024 channels (Ronneberger et al. 2015, arXiv:1505.04597, section 2).

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, one side of 17 pixels at least: batch norm needs two values a channel.
    Output: logits, float [N, C, H, W].
    Unlike the paper: padded convolutions with batch norm, and upsampling is bilinear. The paper's
    up-convolution also halves the channels; here a 1x1 convolution does, before the upsampling, which gives
    the same as after it at a quarter of the work. So the decoder's convolutions are the paper's, 1024 to 512,
    512 to 256, ..., and so is the deepest level; the reference system's code, which halves nowhere, leaves
    that one at 512. An odd side is rounded up on the way down and cropped on the way up.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("double-conv",)
    WIDTHS: ClassVar[tuple[int, ...]] = (64, 128, 256, 512, 1024)

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        inputs = (channels, *self.WIDTHS[:-1])
        self.features = nn.ModuleList(
            convolve_twice(above, width) for above, width in zip(inputs, self.WIDTHS, strict=True)
        )
        self.decoder = nn.ModuleList(HalveAndJoin(width) for width in reversed(self.WIDTHS[1:]))
        self.score = nn.Conv2d(self.WIDTHS[0], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        start, *levels = self.features
        skips = [start(images)]
        for level in levels:
            skips.append(level(F.max_pool2d(skips[-1], kernel_size=2, ceil_mode=True)))
        maps = skips.pop()
        for block in self.decoder:
            maps = block(maps, skips.pop())
        return self.score(maps)


class HalveAndJoin(nn.Module):
    """One level of the decoder: halve the channels, double the size, join the skip, convolve twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(width, width // 2, kernel_size=1, bias=False)
        self.convolve = convolve_twice(width, width // 2)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Maps [N, width / 2, h, w], as the skip's, from deep [N, width, h / 2, w / 2], rounded up."""
        height, width = skip.shape[-2:]
        doubled = F.interpolate(self.halve(deep), scale_factor=2, mode="bilinear", align_corners=False)
        return self.convolve(torch.cat([skip, doubled[..., :height, :width]], dim=1))


def convolve_twice(inputs: int, width: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        Conv2dNormActivation(inputs, width, kernel_size=3),
        Conv2dNormActivation(width, width, kernel_size=3),
    )
