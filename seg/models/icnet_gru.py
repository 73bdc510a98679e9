"""Image cascade network over a sequence: context comes from earlier frames instead of pooling."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from seg.models.icnet import ICNet


class ConvGRU(nn.Module):
    """Gated recurrent unit with convolutions for its products (Ballas et al. 2016, arXiv:1511.06432, 3.1).

    Input: frames in order, float [N, K, inputs, h, w], K at least 1. Output: the state after the last one,
    [N, width, h, w], within (-1, 1); before the first it is zero. kernel_size is odd; borders see zeros.
    With r and z the gates of reset and update, and * a convolution, a frame x turns the state h into

        z h + (1 - z) tanh(W * x + b + r (U * h + c))

    Unlike Ballas et al., z keeps the old state, as in Cho et al. (2014, arXiv:1406.1078, eq. 7), and r acts
    behind U's convolution, as in cuDNN, so that the state is convolved once for all three. With one pixel and
    a 1x1 kernel this is torch.nn.GRU, and weights are ordered as there: reset, update, candidate.
    """

    def __init__(self, inputs: int, width: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.width = width
        self.from_frame = nn.Conv2d(inputs, 3 * width, kernel_size, padding=kernel_size // 2)
        self.from_state = nn.Conv2d(width, 3 * width, kernel_size, padding=kernel_size // 2)

    def forward(self, frames: Tensor) -> Tensor:
        """The last state."""
        n, k, _, height, width = frames.shape
        parts = self.from_frame(frames.flatten(0, 1)).unflatten(0, (n, k))  # of all frames at once
        state = frames.new_zeros(n, self.width, height, width)
        for part in parts.unbind(1):
            state = self.advance(part, state)
        return state

    def advance(self, part: Tensor, state: Tensor) -> Tensor:
        """The next state, from a frame's part in gates and candidate, [N, 3 * width, h, w]."""
        reset_x, update_x, candidate_x = part.chunk(3, dim=1)
        reset_h, update_h, candidate_h = self.from_state(state).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
        return update * state + (1 - update) * candidate


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
