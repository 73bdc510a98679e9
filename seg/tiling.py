"""How an image is cut into windows whose cores partition it, and how its edges are padded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seg.recipe import STRIDE_PX, Tiling


@dataclass(frozen=True, slots=True)
class Span:
    """One window along an axis: it covers [start, start + crop), its core [core_start, core_stop) is kept."""

    start: int
    core_start: int
    core_stop: int


Window = tuple[Span, Span]
"""Its spans down and across."""


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


@dataclass(frozen=True, slots=True)
class Grid:
    """One image's sizes and windows."""

    small: tuple[int, int]
    """Height and width in working pixels."""
    size: tuple[int, int]
    """The image's own."""
    crop: tuple[int, int]
    """A window's, in working pixels."""
    rows: list[Span]
    columns: list[Span]

    @property
    def windows(self) -> list[Window]:
        """Row by row; their cores partition the image."""
        return [(row, column) for row in self.rows for column in self.columns]


def place_grid(small: tuple[int, int], size: tuple[int, int], tiling: Tiling) -> Grid:
    """The windows of an image of working and own size (height, width)."""
    rows, columns = (place_spans(*sides, tiling.halo_px) for sides in zip(small, tiling.crop_px, strict=True))
    return Grid(small, size, tiling.crop_px, rows, columns)


def reflected_places(length: int, padded: int) -> Tensor:
    """Where each of `padded` pixels along an axis is taken from: reflection without the edge pixel, int64.

    Unlike torch's own padding it reflects as often as it takes, so that any image fits any window.
    """
    period = max(1, 2 * (length - 1))
    places = torch.arange(padded) % period
    return torch.minimum(places, period - places) if length > 1 else torch.zeros(padded, dtype=torch.int64)
