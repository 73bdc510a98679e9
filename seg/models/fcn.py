"""Fully convolutional network on a dilated residual backbone: reference system A's FCN-ResNet18."""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from seg.models.backbones import build_features, fill_bilinear


class FCN(nn.Module):
    """FCN with one learned upsampling by 8 (Long et al. 2015, arXiv:1411.4038, section 3.3).

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, a side of 9 pixels at least: batch norm needs two values a channel.
    Output: logits, float [N, C, H, W].
    Unlike the paper: no skips. The backbone works at output stride 8, which the reference system leaves open
    and its upsampling by 8 needs. Unlike the reference: batch norm and ReLU between the head's two
    convolutions, which would otherwise be one linear map. Pretrained weights fill `features`.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnet18", "resnet34", "resnet50")

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.features = build_features(backbone or self.BACKBONES[0], channels, output_stride=8)
        self.head = nn.Sequential(
            Conv2dNormActivation(self.features.widths[-1], 64, kernel_size=3),
            nn.Conv2d(64, num_classes, kernel_size=1),
        )
        self.upsample = nn.ConvTranspose2d(
            num_classes, num_classes, kernel_size=16, stride=8, padding=4, bias=False
        )
        fill_bilinear(self.upsample)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        height, width = images.shape[-2:]
        coarse = self.head(self.features.last(images))  # [N, C, ceil(H/8), ceil(W/8)]
        return self.upsample(coarse)[..., :height, :width]
