"""A small U-Net whose encoder is a classification network."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seg.models.backbones import build_features, resize


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597, section 2) with a light decoder, for few cores.

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, a side of 33 pixels at least: batch norm needs two values a channel.
    Output: logits, float [N, C, H, W].
    Unlike the paper: padded convolutions with batch norm, nearest upsampling in place of transposed
    convolutions, and a decoder that ends at stride 2, from where the logits are upsampled bilinearly. A
    training step on one core of a Xeon (bf16, channels-last, 4 crops of 256 px) takes 245 ms, the encoder 165
    of them; a decoder of 256-128-64-32 takes 325, a last level at full size 50 more, bilinear upsampling 30.
    Pretrained weights fill the encoder, `features`.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")
    DECODER_WIDTHS: ClassVar[tuple[int, ...]] = (128, 64, 32, 32)

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.features = build_features(backbone or self.BACKBONES[0], channels)
        *skips, deepest = self.features.widths
        inputs = (deepest, *self.DECODER_WIDTHS[:-1])
        self.decoder = nn.ModuleList(
            UpBlock(deep, skip, width)
            for deep, skip, width in zip(inputs, reversed(skips), self.DECODER_WIDTHS, strict=True)
        )
        self.score = nn.Conv2d(self.DECODER_WIDTHS[-1], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        *skips, maps = self.features(images)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = block(maps, skip)
        logits = self.score(maps)  # [N, C, ceil(H/2), ceil(W/2)]
        return resize(logits, images.shape[-2:])


class UpBlock(nn.Module):
    """One level of the decoder: upsample to the skip's size, join it, convolve twice."""

    def __init__(self, deep: int, skip: int, width: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            Conv2dNormActivation(deep + skip, width, kernel_size=3),
            Conv2dNormActivation(width, width, kernel_size=3),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Maps [N, width, h, w] of the skip's height and width."""
        upsampled = F.interpolate(deep, size=skip.shape[-2:], mode="nearest")
        return self.convolve(torch.cat([upsampled, skip], dim=1))
