"""How an image is cut into windows whose cores partition it, and how its edges are padded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seg.recipe import STRIDE_PX


@dataclass(frozen=True, slots=True)
class Span:
    """One window along an axis: it covers [start, start + crop), its core [core_start, core_stop) is kept."""

    start: int
    core_start: int
    core_stop: int


def padded_length(length: int, crop: int) -> int:
    """Length after padding: a multiple of the network's stride, and at least one window."""
    return max(crop, -(-length // STRIDE_PX) * STRIDE_PX)


def place_spans(length: int, crop: int, halo: int) -> list[Span]:
    """Windows along an axis of `length` pixels; their cores partition [0, length) in order.

    Every window starts on the stride's grid and ends inside the padded image, so that a network whose context
    is under the halo sees in each core what it would see in the whole image.
    crop: a multiple of 32; halo: a multiple of 16 below crop / 2 (recipes check both).
    """
    padded, step = padded_length(length, crop), crop - 2 * halo
    starts = [*range(0, padded - crop, step), padded - crop]
    edges = [0, *(start + halo for start in starts[1:]), length]
    return [
        Span(start, core_start, core_stop)
        for start, core_start, core_stop in zip(starts, edges[:-1], edges[1:], strict=True)
    ]


def reflect_pad(image: Tensor, height: int, width: int) -> Tensor:
    """Pad [..., h, w] at its bottom and right to [..., height, width] by reflection without the edge pixel.

    Unlike torch's own padding it reflects as often as it takes, so that any image fits any window.
    """
    if image.shape[-2:] == (height, width):
        return image
    rows = _reflected(image.shape[-2], height).to(image.device)
    columns = _reflected(image.shape[-1], width).to(image.device)
    return image[..., rows[:, None], columns]


def _reflected(length: int, padded: int) -> Tensor:
    period = max(1, 2 * (length - 1))
    places = torch.arange(padded) % period
    return torch.minimum(places, period - places) if length > 1 else torch.zeros(padded, dtype=torch.int64)
