"""Image cascade network: full detail from a few layers, context from a small copy of the image."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seg.models.backbones import build_features, resize


class ICNet(nn.Module):
    """ICNet (Zhao et al. 2018, arXiv:1704.08545, section 3) on a dilated backbone.

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, a side of 33 pixels at least: batch norm needs two values a channel.
    Output in eval: logits, float [N, C, H, W]. In training: three of them, at 1/4, 1/8 and 1/16 of the input
    (rounded up), to be compared with the whole mask.
    As in the authors' released network, the branches of 1/2 and 1/4 share weights and computation up to the
    backbone's stride 8, and pyramid pooling adds its bins. Unlike them: the masks of the cascade's loss are
    not shrunk, OUTPUT_WEIGHTS are the reference system's, and a network of torchvision stands for PSPNet's.
    Pretrained weights fill `features`; the branch of full size has layers of its own.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")
    OUTPUT_WEIGHTS: ClassVar[tuple[float, ...]] = (1.0, 1.0, 0.4)

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.detail = nn.Sequential(
            Conv2dNormActivation(channels, 32, kernel_size=3, stride=2),
            Conv2dNormActivation(32, 32, kernel_size=3, stride=2),
            Conv2dNormActivation(32, 64, kernel_size=3, stride=2),
        )
        self.features = build_features(backbone or self.BACKBONES[0], channels, output_stride=8)
        _, _, medium, _, low = self.features.widths
        self.context = nn.Sequential(PyramidPooling(), Conv2dNormActivation(low, 256, kernel_size=1))
        self.fuse_medium = CascadeFusion(256, medium, 128)
        self.fuse_fine = CascadeFusion(128, 64, 128)
        self.score = nn.Conv2d(128, num_classes, kernel_size=1)
        self.guide_medium = nn.Conv2d(256, num_classes, kernel_size=1)
        self.guide_fine = nn.Conv2d(128, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Logits [N, C, H, W]; in training those at 1/4, 1/8 and 1/16."""
        medium = self.shrink_and_start(images)
        return self.fuse_branches(images, medium, self.finish_small(medium))

    def shrink_and_start(self, images: Tensor) -> Tensor:
        """The branch of half the resolution, to stride 8 of it: [N, medium, H/16, W/16]."""
        return self.features.start(resize(images, halve(images)))

    def finish_small(self, medium: Tensor) -> Tensor:
        """The branch of a quarter of the resolution: the rest of the backbone, then context."""
        return self.context(self.features.finish(resize(medium, halve(medium))))  # [N, 256, H/32, W/32]

    def fuse_branches(
        self, images: Tensor, medium: Tensor, low: Tensor
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """The branch of full resolution, joined with the two others; logits as forward's."""
        fine = self.detail(images)  # [N, 64, H/8, W/8]
        low = resize(low, medium.shape[-2:])
        fused = resize(self.fuse_medium(low, medium), fine.shape[-2:])
        quarter = [-(-side // 4) for side in images.shape[-2:]]
        logits = self.score(resize(self.fuse_fine(fused, fine), quarter))
        if self.training:
            return logits, self.guide_fine(fused), self.guide_medium(low)
        return resize(logits, images.shape[-2:])


class PyramidPooling(nn.Module):
    """Context by average pooling into few bins (Zhao et al. 2017, arXiv:1612.01105, section 3.2).

    Unlike the paper: bins are added to the map, with no convolution and batch norm of their own, as ICNet's
    released network does; so a single crop, whose first bin is one value a channel, trains as well.
    """

    BINS: ClassVar[tuple[int, ...]] = (1, 2, 3, 6)

    def forward(self, features: Tensor) -> Tensor:
        """The map with the mean of each bin, interpolated, added; of the same shape."""
        size = features.shape[-2:]
        return features + sum(resize(F.adaptive_avg_pool2d(features, bins), size) for bins in self.BINS)


class CascadeFusion(nn.Module):
    """Join a coarse map, already resized, with the finer one (section 3.3): ReLU(dilated 3x3 + 1x1)."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.coarse = Conv2dNormActivation(coarse, width, kernel_size=3, dilation=2, activation_layer=None)
        self.fine = Conv2dNormActivation(fine, width, kernel_size=1, activation_layer=None)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Maps [N, width, h, w] from two of one height and width."""
        return F.relu(self.coarse(coarse) + self.fine(fine))


def halve(maps: Tensor) -> list[int]:
    """Half of height and width, rounded up."""
    return [-(-side // 2) for side in maps.shape[-2:]]
