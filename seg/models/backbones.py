"""Feature extractors cut out of torchvision's classification networks."""

from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

RESNETS = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}


class ResNetFeatures(nn.Module):
    """A residual network without its classifier (He et al. 2015, arXiv:1512.03385, table 1), random weights.

    Input: float [N, channels, H, W]. Output: five maps, at strides 2, 4, 8, 16 and 32 of the input (each side
    is halved and rounded up), `widths` channels each. With output_stride 8 the last two stay at stride 8:
    layer3 and layer4 are dilated by 2 and 4 in place of striding. Parameters keep torchvision's names, so
    that its weights fit.
    """

    def __init__(self, name: str, channels: int, *, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in (8, 32):
            raise ValueError(f"output_stride is {output_stride}, not 8 or 32")
        network = RESNETS[name](weights=None)
        self.conv1 = network.conv1 if channels == 3 else replace_input(network.conv1, channels)
        self.bn1, self.relu, self.maxpool = network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        if output_stride == 8:
            dilate(self.layer3, 2)
            dilate(self.layer4, 4)
        last = network.fc.in_features
        self.widths = (network.conv1.out_channels, last // 8, last // 4, last // 2, last)

    def stem(self, images: Tensor) -> Tensor:
        """The first map, at stride 2, before max pooling."""
        return self.relu(self.bn1(self.conv1(images)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Five maps, finest first."""
        stride2 = self.stem(images)
        stride4 = self.layer1(self.maxpool(stride2))
        stride8 = self.layer2(stride4)
        stride16 = self.layer3(stride8)
        return stride2, stride4, stride8, stride16, self.layer4(stride16)


def replace_input(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A residual network's first convolution for another number of channels, started as torchvision does."""
    replaced = nn.Conv2d(channels, conv.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(replaced.weight, mode="fan_out", nonlinearity="relu")
    return replaced


def dilate(layer: nn.Sequential, dilation: int) -> None:
    """Take the stride out of a residual layer, in place; dilation keeps what each filter sees.

    dilation: of everything behind the stride that is taken out; the strided convolution itself still samples
    the grid before it, at half of that. Every `dilation`-th output pixel then equals the strided network's,
    exactly. By hand because torchvision's replace_stride_with_dilation refuses the basic blocks of resnet18
    and resnet34; for resnet50 the result is the same as torchvision's.
    """
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d):
            rate = dilation // conv.stride[0]
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)
