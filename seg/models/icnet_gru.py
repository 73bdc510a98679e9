"""Image cascade network over a sequence: context comes from earlier frames instead of pooling."""

from typing import ClassVar

from torch import Tensor, nn

from seg.models.conv_gru import ConvGRU
from seg.models.icnet import ICNet


class ICNetGRU(ICNet):
    """ICNet with a convolutional GRU over the frames in place of pyramid pooling.

    Input: float [N, K, channels, H, W], K frames of one sequence in order, K at least 1 and not fixed; else
    as ICNet. Output: ICNet's, for the last frame, from those K alone: no state is kept between calls.
    The branch of full resolution, the fusions and the logits see the last frame only; what runs K times is
    the backbone, at half and quarter resolution, and the GRU, at 1/32. A window of 4 has 4.0 times ICNet's
    multiplications but takes 2.2 times as long; a window of 1 takes 1.1 times (512 px, resnet18, bf16, one
    core of a Xeon).
    """

    TAKES_FRAMES: ClassVar[bool] = True

    def __init__(self, num_classes: int, channels: int, backbone: str | None = None) -> None:
        super().__init__(num_classes, channels, backbone)
        self.context[0] = nn.Identity()  # was PyramidPooling; what is left projects each frame to 256
        self.memory = ConvGRU(256, 256)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Logits of the last frame, [N, C, H, W]; in training those at 1/4, 1/8 and 1/16."""
        n_and_k = images.shape[:2]
        medium = self.shrink_and_start(images.flatten(0, 1))
        low = self.finish_small(medium).unflatten(0, n_and_k)
        return self.fuse_branches(images[:, -1], medium.unflatten(0, n_and_k)[:, -1], self.memory(low))
