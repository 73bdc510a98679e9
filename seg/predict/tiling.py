"""How an image is cut into tiles whose cores partition it, and how its edges are padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seg.data.frames import Frame
from seg.data.images import Pixels
from seg.data.preprocess import normalise
from seg.recipe import STRIDE_PX, Tiling


@dataclass(frozen=True, slots=True)
class Span:
    """One tile along an axis: it covers [start, start + crop), its core [core_start, core_stop) is kept."""

    start: int
    core_start: int
    core_stop: int


Tile = tuple[Span, Span]
"""Its spans down and across."""


def padded_length(length: int, crop: int) -> int:
    """Length after padding: a multiple of the network's stride, and at least one tile."""
    return max(crop, -(-length // STRIDE_PX) * STRIDE_PX)


def place_spans(length: int, crop: int, halo: int) -> list[Span]:
    """Tiles along an axis of `length` pixels; their cores partition [0, length) in order.

    Every tile starts on the stride's grid and ends inside the padded image, so that a network whose context
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
    """One image's sizes and tiles."""

    small: tuple[int, int]
    """Height and width in working pixels."""
    size: tuple[int, int]
    """The image's own."""
    crop: tuple[int, int]
    """A tile's, in working pixels."""
    rows: list[Span]
    columns: list[Span]

    @property
    def tiles(self) -> list[Tile]:
        """Row by row; their cores partition the image."""
        return [(row, column) for row in self.rows for column in self.columns]


def place_grid(small: tuple[int, int], size: tuple[int, int], tiling: Tiling) -> Grid:
    """The tiles of an image of working and own size (height, width)."""
    rows, columns = (place_spans(*sides, tiling.halo_px) for sides in zip(small, tiling.crop_px, strict=True))
    return Grid(small, size, tiling.crop_px, rows, columns)


def reflected_places(length: int, padded: int) -> Tensor:
    """Where each of `padded` pixels along an axis is taken from: reflection without the edge pixel, int64.

    Unlike torch's own padding it reflects as often as it takes, so that any image fits any tile.
    """
    period = max(1, 2 * (length - 1))
    places = torch.arange(padded) % period
    return torch.minimum(places, period - places) if length > 1 else torch.zeros(padded, dtype=torch.int64)


class TilePixels:
    """What a model sees of one image's frames. Tiles are asked for row by row."""

    def __init__(self, frames: Sequence[Frame], grid: Grid, device: torch.device, band_bytes: int) -> None:
        """`band_bytes`: an image whose pixels and ids take more comes to the device by bands of so many."""
        self._frames = [working for working, _ in frames]
        self._grid, self._device = grid, device
        self._down, self._across = (
            reflected_places(side, spans[-1].start + crop)
            for side, spans, crop in zip(grid.small, (grid.rows, grid.columns), grid.crop, strict=True)
        )
        self._mean, self._std = (
            torch.tensor([values], dtype=torch.float64, device=device)  # [1, K, channels]
            for values in ([part.mean for _, part in frames], [part.std for _, part in frames])
        )
        pixel_bytes = sum(frame.nbytes for frame in self._frames)
        self.in_bands = pixel_bytes + grid.size[0] * grid.size[1] > band_bytes
        rows = band_bytes * grid.small[0] // pixel_bytes
        self._band_rows = rows if self.in_bands else len(self._down)
        self._band = slice(0, 0)
        self._pixels = torch.zeros(0)

    def crops(self, tiles: Sequence[Tile]) -> Tensor:
        """Normalised pixels, float32 [N, K, channels, crop height, crop width]."""
        height, width = self._grid.crop
        first, stop = tiles[0][0].start, tiles[-1][0].start + height
        if stop > self._band.stop:
            self._load(slice(first, max(stop, min(first + self._band_rows, len(self._down)))))
        corners = [(row.start - self._band.start, column.start) for row, column in tiles]
        crops = [self._pixels[..., top : top + height, left : left + width] for top, left in corners]
        return normalise(torch.stack(crops), self._mean, self._std)

    def _load(self, band: slice) -> None:
        """Bring rows of the padded image to the device, [K, channels, rows, padded width]."""
        height, width = self._grid.small
        rows = self._down[band]
        low, high = int(rows.min()), int(rows.max()) + 1
        self._pixels = torch.zeros(0)  # gives up its memory before the next band takes some
        bands = [self._to_tensor(frame[low:high]) for frame in self._frames]
        pixels = torch.stack(bands) if len(bands) > 1 else bands[0][None]
        del bands
        if band.stop > height:
            pixels = pixels.index_select(-2, (rows - low).to(self._device))
        if len(self._across) > width:
            beyond = pixels.index_select(-1, self._across[width:].to(self._device))
            pixels = torch.cat([pixels, beyond], dim=-1)
        self._band, self._pixels = band, pixels

    def _to_tensor(self, rows: Pixels) -> Tensor:
        """Pixels [channels, rows, w] on the device; a copy where they are read-only, as a pack's are."""
        pixels = torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(self._device)
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
