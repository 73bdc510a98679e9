"""How an image is cut into crops: tiles whose cores partition it, edges that are padded; without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seg.data.frames import Frame
from seg.data.images import Pixels
from seg.errors import RequestError
from seg.recipe import STRIDE_PX, Tiling

BLENDS = ("core", "gaussian")
"""What becomes of pixels that several tiles see: one tile's core decides, or all of them are averaged."""
Mixing = Literal["mixed", "image"]
"""Whose crops a forward pass takes: those of whatever images are there, or one image's."""


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


def reflected_places(length: int, padded: int) -> NDArray[np.int64]:
    """Where each of `padded` pixels along an axis is taken from: reflection without the edge pixel, int64.

    Unlike numpy's and torch's own padding it needs no more than one pixel, so that any image fits any tile.
    """
    period = max(1, 2 * (length - 1))
    places = np.arange(padded) % period
    return np.minimum(places, period - places) if length > 1 else np.zeros(padded, np.int64)


class ImageCrops(Protocol):
    """The crops of an image, or of some of its tiles, and what normalises them."""

    @property
    def grid(self) -> Grid:
        """The whole image's."""
        ...

    @property
    def tiles(self) -> list[Tile]:
        """Those that there is a crop of, row by row."""
        ...

    @property
    def means(self) -> NDArray[np.float64]:
        """Of each frame's channels, float64 [K, channels], in stored intensities."""
        ...

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviations, of the same shape."""
        ...

    def cut(self, place: slice) -> NDArray[np.generic]:
        """Some of the crops, as stored, [N, K, channels, crop height, crop width]."""
        ...


class FrameCrops:
    """The crops of an image that are cut from its frames when they are asked for."""

    def __init__(self, frames: Sequence[Frame], size: tuple[int, int], tiling: Tiling) -> None:
        """`frames`: what the model sees, the image itself last, all of one shape; size: its own (H, W)."""
        height, width = frames[-1][0].shape[:2]
        self.grid = place_grid((height, width), size, tiling)
        self.tiles = self.grid.tiles
        self.means, self.deviations = (
            np.array(values, np.float64)
            for values in ([part.mean for _, part in frames], [part.std for _, part in frames])
        )
        self._frames = [working if working.ndim == 3 else working[..., None] for working, _ in frames]
        self._down, self._across = (
            reflected_places(side, spans[-1].start + crop)
            for side, spans, crop in zip(
                self.grid.small, (self.grid.rows, self.grid.columns), self.grid.crop, strict=True
            )
        )

    @property
    def nbytes(self) -> int:
        """Of the frames; a clip may repeat one."""
        return sum(frame.nbytes for frame in {id(frame): frame for frame in self._frames}.values())

    def cut(self, place: slice) -> NDArray[np.generic]:
        """As of ImageCrops; in memory channels come last, as in an image and as a CPU computes them."""
        tiles, (height, width) = self.tiles[place], self.grid.crop
        channels, dtype = self._frames[-1].shape[2], self._frames[-1].dtype
        crops = np.empty((len(tiles), len(self._frames), height, width, channels), dtype)
        for number, tile in enumerate(tiles):
            for frame, pixels in enumerate(self._frames):
                self._copy_window(pixels, tile, crops[number, frame])
        if channels > 1:
            return np.moveaxis(crops, -1, 2)
        # not moved: by the strides of a lone channel torch chooses how to convolve, and so the last bits
        return crops.reshape(*crops.shape[:2], channels, height, width)

    def gather(self) -> "CutCrops":
        """The same, cut."""
        return CutCrops(
            grid=self.grid,
            tiles=self.tiles,
            means=self.means,
            deviations=self.deviations,
            pixels=self.cut(slice(None)),
        )

    def _copy_window(self, pixels: Pixels, tile: Tile, window: Pixels) -> None:
        """Write a tile's pixels, [crop height, crop width, channels]; those beyond the image are reflected.

        What is inside is copied as it lies: picking each pixel by its place, and moving its channels, takes
        2.6 ms a crop of 480 x 384 px in colour, and so 0.03.
        """
        (row, column), (height, width) = tile, self.grid.crop
        rows, columns = (
            min(crop, side - span.start)
            for crop, side, span in zip((height, width), self.grid.small, tile, strict=True)
        )
        down = self._down[row.start : row.start + height]
        across = self._across[column.start : column.start + width]
        inside = slice(column.start, column.start + columns)
        window[:rows, :columns] = pixels[row.start : row.start + rows, inside]
        window[rows:, :columns] = pixels[down[rows:], inside]
        window[:, columns:] = pixels[np.ix_(down, across[columns:])]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CutCrops:
    """Crops that were cut before, elsewhere."""

    grid: Grid
    tiles: list[Tile]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    pixels: NDArray[np.generic]
    """[N, K, channels, crop height, crop width]"""

    @property
    def nbytes(self) -> int:
        """Of the crops."""
        return self.pixels.nbytes

    def shares(self, most: int, batch: int) -> list["CutCrops"]:
        """The same in up to so many shares, each a run of tiles that fill passes of so many crops."""
        passes = -(-len(self.tiles) // batch)
        count = min(most, passes)
        edges = [batch * (passes * share // count) for share in range(count + 1)]
        return [
            replace(self, tiles=self.tiles[first:stop], pixels=self.pixels[first:stop])
            for first, stop in pairwise(edges)
        ]

    def own_rows(self) -> slice:
        """Rows of the image at its own size in which its tiles' cores lie, and a few around them."""
        cores = [row for row, _ in self.tiles]
        scale = self.grid.size[0] / self.grid.small[0]
        first = floor(min(core.core_start for core in cores) * scale) - 1
        stop = ceil(max(core.core_stop for core in cores) * scale) + 1
        return slice(max(0, first), min(self.grid.size[0], stop))

    def cut(self, place: slice) -> NDArray[np.generic]:
        """As of ImageCrops."""
        return self.pixels[place]


def check_blend(blend: str, tiling: Tiling) -> None:
    """RequestError: an unknown blend, or an average of tiles that do not overlap."""
    if blend not in BLENDS:
        raise RequestError(f"`blend` is {blend}; choose one of {', '.join(BLENDS)}")
    if blend == "gaussian" and tiling.halo_px == 0:
        raise RequestError(
            "`blend=gaussian` averages windows where they overlap, but with a halo of 0 they do not; "
            "try `halo_px=64`, or `blend=core`"
        )
