"""torchvision's fully convolutional networks on ResNet50 and ResNet101, the latter reference system B."""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from seg.models.backbones import build_features, resize


class FCNResNet50(nn.Module):
    """torchvision's fcn_resnet50 without auxiliary head (after Long et al. 2015, arXiv:1411.4038).

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W. To train on one crop
    alone, one side of 9 pixels at least: batch norm needs two values a channel.
    Output: logits, float [N, C, H, W], upsampled by 8 bilinearly. Parameters have torchvision's names, but
    `features` for its `backbone`, which pretrained weights fill.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnet50",)
    TORCHVISION: ClassVar[str] = "fcn_resnet50"

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.features = build_features(backbone or self.BACKBONES[0], channels, output_stride=8)
        self.classifier = FCNHead(self.features.widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        logits = self.classifier(self.features.last(images))  # [N, C, ceil(H/8), ceil(W/8)]
        return resize(logits, images.shape[-2:])


class FCNResNet101(FCNResNet50):
    """torchvision's fcn_resnet101, otherwise the same."""

    BACKBONES: ClassVar[tuple[str, ...]] = ("resnet101",)
    TORCHVISION: ClassVar[str] = "fcn_resnet101"
