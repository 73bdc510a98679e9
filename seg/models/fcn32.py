"""Fully convolutional network at stride 32 on VGG16: reference system A's first."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from seg.models.backbones import VGGFeatures, fill_bilinear


class FCN32(nn.Module):
    """FCN-32s (Long et al. 2015, arXiv:1411.4038, sections 4.1 and 4.2) on VGG16 with batch norm.

    Input: float [N, channels, H, W], normalised as the recipe says; any H and W, for the first convolution
    pads by 100 pixels. Output: logits, float [N, C, H, W].
    Unlike the paper: batch norm, as in the reference; the upsampling starts bilinear but learns, and the
    score starts as torch draws it, not at zero. Unlike the reference: a score of C maps, as in the paper; its
    21 are what PASCAL VOC left there. It crops at 16 and fails at some sizes; OFFSET is below, and pooling
    rounds up, so that the upsampled map always covers the image. Pretrained weights fill `features`; the
    head, which the paper takes from VGG's classifier, starts at random.
    """

    BACKBONES: ClassVar[tuple[str, ...]] = ("vgg16_bn",)
    HEAD_WIDTH: ClassVar[int] = 4096
    OFFSET: ClassVar[int] = 19
    """Where the image begins in the upsampled map.

    Score j is centred on pixel 32 j + 12.5 of the image: five poolings centre their pixel j on 32 j + 15.5
    of the first convolution's map, the 7x7 convolution goes on by 3 of them, and that map begins 99 pixels
    before the image. The 64 upsampled pixels of score j are centred on 32 j + 31.5, 19 more.
    """

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__()
        self.features = VGGFeatures(backbone or self.BACKBONES[0], channels, padding=100)
        self.head = nn.Sequential(
            nn.Conv2d(self.features.widths[-1], self.HEAD_WIDTH, kernel_size=7),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(self.HEAD_WIDTH, self.HEAD_WIDTH, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )
        self.score = nn.Conv2d(self.HEAD_WIDTH, num_classes, kernel_size=1)
        self.upsample = nn.ConvTranspose2d(num_classes, num_classes, kernel_size=64, stride=32, bias=False)
        fill_bilinear(self.upsample)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        rows, columns = (slice(self.OFFSET, self.OFFSET + side) for side in images.shape[-2:])
        deep = self.head(self.features.last(images))
        # float32: in bf16 on two CPU threads torch 2.15's backward of 4096 -> few channels corrupts the heap
        with torch.autocast("cpu", enabled=False):
            coarse = self.score(deep.float())
        return self.upsample(coarse)[..., rows, columns]
