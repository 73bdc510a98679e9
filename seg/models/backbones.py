"""Feature extractors cut out of torchvision's classification networks."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

Block = Callable[[Tensor], Tensor]


class Features(nn.Module):
    """A classification network without its classifier, in five stages; random weights.

    Input: float [N, channels, H, W]. Output: five maps, finest first, at strides 2, 4, 8, 16 and 32 of the
    input (each side is halved and rounded up), `widths` channels each. With output_stride 8 the last two stay
    at stride 8: dilation by 2 and 4 takes the place of striding. Parameters keep torchvision's names, less
    PREFIX, so that its weights fit (seg/models/pretrained.py); `name` is torchvision's name of the network.
    """

    PREFIX: ClassVar[str] = ""
    name: str
    widths: tuple[int, int, int, int, int]

    def stages(self) -> tuple[Iterable[Block], ...]:
        """The blocks of the five stages, in order; the first block of each is the one that halves the map."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Five maps, finest first."""
        maps = [images]
        for stage in self.stages():
            maps.append(run(stage, maps[-1]))
        return tuple(maps[1:])

    def last(self, images: Tensor) -> Tensor:
        """The last map alone; without gradients the others are freed on the way."""
        for stage in self.stages():
            images = run(stage, images)
        return images

    def start(self, images: Tensor) -> Tensor:
        """The map behind the first block of stride 8: widths[2] channels."""
        stride2, stride4, (first, *_), _, _ = self.stages()
        return first(run(stride4, run(stride2, images)))

    def finish(self, maps: Tensor) -> Tensor:
        """The last map from what `start` gave, perhaps resized."""
        _, _, (_, *rest), stride16, stride32 = self.stages()
        return run(stride32, run(stride16, run(rest, maps)))

    def replace_input(self, channels: int) -> None:
        """Make the first convolution one of so many channels, started as torchvision does."""
        path, conv = find_input(self)
        if conv.in_channels == channels:
            return
        replaced = nn.Conv2d(
            channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            bias=conv.bias is not None,
        )
        draw_weights(replaced)
        self.set_submodule(path, replaced)


class ResNetFeatures(Features):
    """A residual network (He et al. 2015, arXiv:1512.03385, table 1); the first map is before max pooling."""

    def __init__(self, name: str, channels: int, *, output_stride: int = 32) -> None:
        super().__init__()
        check_stride(output_stride, (8, 32))
        network = RESNETS[name](weights=None)
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.relu, self.maxpool = network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.replace_input(channels)
        if output_stride == 8:
            dilate(self.layer3, 2)
            dilate(self.layer4, 4)
        last = network.fc.in_features
        self.name = name
        self.widths = (network.conv1.out_channels, last // 8, last // 4, last // 2, last)

    def stages(self) -> tuple[Iterable[Block], ...]:
        """The stem; max pooling with layer1; layer2, layer3, layer4."""
        stem = (self.conv1, self.bn1, self.relu)
        return stem, (self.maxpool, *self.layer1), self.layer2, self.layer3, self.layer4


class MobileNetV2Features(Features):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381, table 2), with its last 1x1 convolution."""

    PREFIX: ClassVar[str] = "features."

    def __init__(self, name: str, channels: int, *, output_stride: int = 32) -> None:
        super().__init__()
        check_stride(output_stride, (8, 32))
        for index, block in enumerate(torchvision.models.mobilenet_v2(weights=None).features):
            self.add_module(str(index), block)
        self.replace_input(channels)
        if output_stride == 8:
            *_, stride16, stride32 = self.stages()
            dilate(stride16, 2)
            dilate(stride32, 4)
        self.name = name
        self.widths = (16, 24, 32, 96, 1280)

    def stages(self) -> tuple[Iterable[nn.Module], ...]:
        """The blocks, cut before each that strides."""
        blocks = tuple(self.children())
        return blocks[:2], blocks[2:4], blocks[4:7], blocks[7:14], blocks[14:]


class VGGFeatures(Features):
    """VGG16 with batch norm (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1, column D).

    Each stage ends with its max pooling, which rounds up, as the paper's Caffe does and torchvision does not:
    at sides that 32 divides they are the same. padding: of the first convolution (FCN-32s has 100).
    """

    PREFIX: ClassVar[str] = "features."

    def __init__(self, name: str, channels: int, *, output_stride: int = 32, padding: int = 1) -> None:
        super().__init__()
        check_stride(output_stride, (32,))
        layers = make_layers(cfgs["D"], batch_norm=True)  # vgg16_bn() would draw its classifier, too
        find_input(layers)[1].padding = (padding, padding)
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)
            if isinstance(layer, nn.Conv2d):
                draw_weights(layer)
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        self.replace_input(channels)
        self.name = name
        self.widths = (64, 128, 256, 512, 512)

    def stages(self) -> tuple[Iterable[Block], ...]:
        """One block each: the layers up to a max pooling."""
        stages, layers = [], []
        for layer in self.children():
            layers.append(layer)
            if isinstance(layer, nn.MaxPool2d):
                stages.append((partial(run, layers),))
                layers = []
        return tuple(stages)


RESNETS = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
}
BACKBONES = {
    **dict.fromkeys(RESNETS, ResNetFeatures),
    "mobilenet_v2": MobileNetV2Features,
    "vgg16_bn": VGGFeatures,
}
"""Class of each backbone by torchvision's name for it."""


def build_features(name: str, channels: int, *, output_stride: int = 32) -> Features:
    """The backbone of that name, key of BACKBONES; output_stride 8 or 32."""
    return BACKBONES[name](name, channels, output_stride=output_stride)


def run(blocks: Iterable[Block], maps: Tensor) -> Tensor:
    """One block after another."""
    for block in blocks:
        maps = block(maps)
    return maps


def find_input(network: nn.Module) -> tuple[str, Any]:
    """Name and module of the first convolution."""
    return next((path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d))


def draw_weights(conv: nn.Conv2d) -> None:
    """Random weights as torchvision draws them for all the networks here, biases zero."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def check_stride(output_stride: int, known: tuple[int, ...]) -> None:
    """ValueError: a stride that the backbone cannot have."""
    if output_stride not in known:
        raise ValueError(f"output_stride is {output_stride}, not {' or '.join(map(str, known))}")


def dilate(blocks: Iterable[nn.Module], dilation: int) -> None:
    """Take the stride out of one stage, in place; dilation keeps what each filter sees.

    dilation: of everything behind the stride that is taken out; the strided convolution itself still samples
    the grid before it, at half of that. Every `dilation`-th output pixel then equals the strided network's,
    exactly. By hand because torchvision's replace_stride_with_dilation refuses the basic blocks of resnet18
    and resnet34 and knows no MobileNet; for resnet50 the result is the same as torchvision's.
    """
    convs = [m for block in blocks for m in block.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        rate = dilation // conv.stride[0]
        conv.stride = (1, 1)
        if conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (rate, rate)


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
