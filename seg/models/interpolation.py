"""Bilinear interpolation of maps and logits: fixed, and as the start of a learned one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of [N, C, h, w] to size (height, width), in whole-image coordinates."""
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


@torch.no_grad()
def fill_bilinear(conv: nn.ConvTranspose2d) -> None:
    """Start a square transposed convolution as bilinear interpolation of each channel by its stride.

    Kernel size must be twice an even stride. With padding of half the stride it then equals `resize`, away
    from the border; at the border it interpolates towards zero.
    """
    stride = conv.stride[0]
    distance = (torch.arange(2 * stride) + 0.5) / stride - 1  # from the kernel's centre, in input pixels
    tent = 1 - distance.abs()
    conv.weight.zero_()
    for channel in range(conv.out_channels):
        conv.weight[channel, channel] = tent[:, None] * tent
