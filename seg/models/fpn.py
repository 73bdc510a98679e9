"""Feature pyramid network for segmentation: every scale speaks, at the cost of a few convolutions."""

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seg.models.backbones import build_features, resize


class FPN(nn.Module):
    """Semantic FPN (Kirillov et al. 2019, arXiv:1901.02446, section 3.1) on a classification network.

    A pyramid of 256 channels at strides 4 to 32 (Lin et al. 2017, arXiv:1612.03144, section 3); a branch of
    convolutions takes each of its maps to stride 4, where they are added and scored.
    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, a side of 33 pixels at least: the backbone's batch norm needs two values a channel.
    Output: logits, float [N, C, H, W]. Group norm in the branches, as in the paper, has no such minimum.
    Unlike Lin et al., no 3x3 convolution smooths the merged maps: with nothing but the branches behind it,
    each would be one linear map before another. Pretrained weights fill the backbone, `features`.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("mobilenet_v2", "resnet18", "resnet34", "resnet50")
    PYRAMID_WIDTH: ClassVar[int] = 256
    BRANCH_WIDTH: ClassVar[int] = 128

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.features = build_features(backbone or self.BACKBONES[0], channels)
        widths = self.features.widths[1:]
        self.laterals = nn.ModuleList(nn.Conv2d(width, self.PYRAMID_WIDTH, kernel_size=1) for width in widths)
        self.branches = nn.ModuleList(
            Branch(self.PYRAMID_WIDTH, self.BRANCH_WIDTH, level) for level in range(len(widths))
        )
        self.score = nn.Conv2d(self.BRANCH_WIDTH, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        _, *maps = self.features(images)
        sizes = [part.shape[-2:] for part in maps]
        joined = sum(
            branch(part, sizes[:level][::-1])
            for level, (branch, part) in enumerate(zip(self.branches, self.merge(maps), strict=True))
        )
        return resize(self.score(joined), images.shape[-2:])

    def merge(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid, finest first: each map at 256 channels, with the next coarser one of it added."""
        *finer, coarsest = (lateral(part) for lateral, part in zip(self.laterals, maps, strict=True))
        pyramid = [coarsest]
        for part in reversed(finer):
            above = F.interpolate(pyramid[0], size=part.shape[-2:], mode="nearest")
            pyramid.insert(0, part + above)
        return pyramid


class Branch(nn.Module):
    """From one level of the pyramid to stride 4: a convolution, group norm and ReLU before each doubling.

    level: 0 at stride 4, where there is one convolution and no doubling, 1 at stride 8, ...
    """

    def __init__(self, inputs: int, width: int, level: int) -> None:
        super().__init__()
        norm = partial(nn.GroupNorm, 32)
        widths = [inputs] + [width] * (level - 1)
        self.convolve = nn.ModuleList(
            Conv2dNormActivation(above, width, kernel_size=3, norm_layer=norm) for above in widths
        )

    def forward(self, maps: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        """Maps [N, width, h, w] of the last of `sizes`, which are those of the finer levels, in turn."""
        for block, size in zip_longest(self.convolve, sizes):
            maps = block(maps)
            if size is not None:
                maps = resize(maps, size)
        return maps
