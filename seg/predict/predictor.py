"""A whole image through a model, tile by tile, at the image's own size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import fsum
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from seg.data.frames import Frame
from seg.data.images import Pixels
from seg.data.preprocess import Statistics
from seg.model_card import ModelCard
from seg.model_file import load_model
from seg.predict import upsampling
from seg.predict.tiling import Grid, Span, Tile, TilePixels, place_grid
from seg.recipe import Tiling

Rectangle = tuple[slice, slice]
"""Rows and columns of an image."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BAND_BYTES = 128 * 2**20
"""Device memory for an image's pixels and ids; of a larger image it holds a band of rows at a time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle of an image: a tile's core, or a strip of blended tiles; an image's partition it."""

    own: Rectangle
    """Its own pixels."""
    ids: Tensor
    """Their class ids, uint8."""
    working: Rectangle
    """Its working pixels."""
    probability: Tensor
    """Their top probability, float32."""

    def confidence_sum(self) -> Tensor:
        """The sum of its top probabilities, float64 []; along rows in float32, which is 10x faster (CPU)."""
        return self.probability.sum(1).sum(dtype=torch.float64)


class PieceMaker:
    """Makes the pieces of one image."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self._grid, self._device = grid, device
        self._enlarged = grid.small != grid.size
        if self._enlarged:
            self._down = {span: self._resampling(0, span, grid.crop[0]) for span in grid.rows}
            self._across = {span: self._resampling(1, span, grid.crop[1]) for span in grid.columns}

    def make_core(self, tile: Tile, logits: Tensor) -> Piece:
        """A tile's core, from its logits, float32 [C, crop height, crop width]."""
        row, column = tile
        working = (slice(row.core_start, row.core_stop), slice(column.core_start, column.core_stop))
        margins = upsampling.margins_over_first(logits)
        core = margins[:, _core(row), _core(column)]
        probability = upsampling.top_probability(core)
        if not self._enlarged:
            return Piece(working, upsampling.top_class(core), working, probability)
        down, across = self._down[row], self._across[column]
        ids = upsampling.classes_at_own_size(margins, down, across)
        return Piece((down.own, across.own), ids, working, probability)

    def make_strips(self, logits: Iterator[Tensor]) -> Iterator[Piece]:
        """Strips as wide as the image, from the logits of all its tiles, row by row."""
        grid = self._grid
        (height, width), full_width = grid.small, slice(0, grid.size[1])
        weights = (
            upsampling.blending_weights(spans, crop, self._device)
            for spans, crop in zip((grid.rows, grid.columns), grid.crop, strict=True)
        )
        above, edge = None, 0  # the last two rows of the strip before, and where its own pixels ended
        across = self._resampling(1, Span(0, 0, width), width)
        for first, padded in upsampling.blend_tiles(logits, *weights):
            strip = padded[:, : height - first, :width]
            stop = first + strip.shape[1]
            working = (slice(first, stop), slice(0, width))
            top, margins = strip.amax(0), upsampling.margins_over_first(strip)
            if not self._enlarged:
                yield Piece(working, upsampling.top_class(margins), working, top)
                continue
            joined = margins if above is None else torch.cat([above, margins], dim=1)
            span = Span(stop - joined.shape[1], edge, stop if stop == height else stop - 1)
            down = self._resampling(0, span, joined.shape[1])
            ids = upsampling.classes_at_own_size(joined, down, across)
            yield Piece((down.own, full_width), ids, working, top)
            above, edge = joined[:, -2:].clone(), span.core_stop  # else all of it would be held

    def _resampling(self, axis: int, span: Span, crop: int) -> upsampling.Resampling:
        return upsampling.Resampling(span, self._grid.small[axis], self._grid.size[axis], crop, self._device)


def _core(span: Span) -> slice:
    return slice(span.core_start - span.start, span.core_stop - span.start)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bf16 or fp16; with float32 a context that changes nothing.

    For the whole process float32 is float32: torch lets a GPU's convolutions compute it in TF32, of which
    the products have 10 bits in place of 23.
    """
    torch.backends.cudnn.allow_tf32 = False
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in DTYPES)


def has_fast_bf16() -> bool:
    """Whether this CPU computes bf16 faster than float32, by torch's own rule: AVX-512, or an ARM's.

    Where it does not, a step of interferogram-small takes 14 times as long as in float32 (measured).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image's class ids, and how sure the model is of them."""

    ids: Tensor
    """uint8 [H, W], at the image's own size; on the model's device, of an image in bands on the host."""
    confidence: float
    """Mean top probability of the working pixels."""
    probability: Tensor | None
    """Top probability of each working pixel, float32 [h, w], where the ids are; None: not asked for."""


class Predictor:
    """Predicts images with one model. Results depend on the image, the tiling, blend and batch size alone."""

    def __init__(
        self,
        model: nn.Module,
        tiling: Tiling,
        *,
        batch: int,
        device: torch.device,
        precision: str = "float32",
        blend: Literal["core", "gaussian"] = "core",
        band_bytes: int = BAND_BYTES,
    ) -> None:
        """`batch`: tiles a forward pass sees at most, all of one image; see `_tiles_per_pass`.

        blend: keep each tile's core, or average tiles where they overlap (seg/predict/upsampling.py).
        RequestError: they do not overlap.
        """
        upsampling.check_blend(blend, tiling)
        self.model = model.eval()
        self.takes_frames = getattr(model, "TAKES_FRAMES", False)
        self.tiling = tiling
        self.batch = batch
        self.device = device
        self.precision = precision
        self.blend = blend
        self.band_bytes = band_bytes

    def predict(self, working: Pixels, statistics: Statistics, size: tuple[int, int]) -> Prediction:
        """Class ids at the image's own size (H, W), from its preprocessed pixels [h, w] or [h, w, 3]."""
        return self.predict_frames([(working, statistics)], size)

    @torch.inference_mode()
    def predict_frames(
        self, frames: Sequence[Frame], size: tuple[int, int], *, probability: bool = False
    ) -> Prediction:
        """Class ids of the last frame at its own size (H, W); a sequence model sees all, others only that.

        Frames have one working size. Logits, or blended probabilities, are interpolated in whole-image
        coordinates (bilinear, align_corners=False) before the argmax, so that no tile's edge shows.
        """
        grid = self.place_grid(frames, size)
        pixels = self._pixels(frames, grid)
        logits = self._logits(pixels, grid.tiles, self._tiles_per_pass(grid))
        maker = PieceMaker(grid, self.device)
        if self.blend == "gaussian":
            pieces = maker.make_strips(logits)
        else:
            pieces = map(maker.make_core, grid.tiles, logits)
        home = torch.device("cpu") if pixels.in_bands else self.device
        ids = torch.empty(size, dtype=torch.uint8, device=home)
        top = torch.empty(grid.small, device=home) if probability else None
        sums = []
        for piece in pieces:
            ids[piece.own] = piece.ids
            if top is not None:
                top[piece.working] = piece.probability
            sums.append(piece.confidence_sum())
        return Prediction(ids, mean_confidence(torch.stack(sums).tolist(), grid.small), top)

    @torch.inference_mode()
    def predict_share(
        self, frames: Sequence[Frame], size: tuple[int, int], share: int, of: int
    ) -> Iterator[Piece]:
        """The cores of share 0, 1, ... of `of` shares of an image; of a small one some shares are empty.

        A share is a run of whole batches, so that each tile is predicted in the company that it has in
        `predict_frames`: all shares' ids, and `mean_confidence` of their sums, equal those bit for bit.
        ValueError: the predictor blends, and a blend needs neighbours' tiles.
        """
        if self.blend != "core":
            raise ValueError(f"shares are of cores, not of the blend {self.blend}")
        grid = self.place_grid(frames, size)
        per_pass = self._tiles_per_pass(grid)
        batches = -(-len(grid.tiles) // per_pass)
        first, stop = (per_pass * (batches * edge // of) for edge in (share, share + 1))
        tiles = grid.tiles[first:stop]
        logits = self._logits(self._pixels(frames, grid), tiles, per_pass)
        yield from map(PieceMaker(grid, self.device).make_core, tiles, logits)

    def place_grid(self, frames: Sequence[Frame], size: tuple[int, int]) -> Grid:
        """The tiles of an image, from its frames and its own size (H, W)."""
        height, width = frames[-1][0].shape[:2]
        return place_grid((height, width), size, self.tiling)

    def _tiles_per_pass(self, grid: Grid) -> int:
        """As few passes as `batch` allows, all of one size: 5 tiles by 4 are 3 and 3, one of them a fill.

        The image's own size decides it, not its neighbours. One tile by 4 is one, not four.
        """
        passes = -(-len(grid.tiles) // self.batch)
        return -(-len(grid.tiles) // passes)

    def _pixels(self, frames: Sequence[Frame], grid: Grid) -> TilePixels:
        seen = frames if self.takes_frames else frames[-1:]
        return TilePixels(seen, grid, self.device, self.band_bytes)

    def _logits(self, pixels: TilePixels, tiles: list[Tile], per_pass: int) -> Iterator[Tensor]:
        """Logits of each tile in turn, float32 [C, crop height, crop width]."""
        todo = iter(tiles)
        while chosen := list(islice(todo, per_pass)):
            crops = pixels.crops(chosen + chosen[-1:] * (per_pass - len(chosen)))
            if not self.takes_frames:
                crops = crops[:, 0].contiguous(memory_format=torch.channels_last)
            with autocast(self.device, self.precision):
                logits = self.model(crops)
            yield from logits.float()[: len(chosen)]


def open_predictor(
    model_file: Path,
    device: torch.device,
    *,
    tiling: Tiling | None = None,
    batch: int = 1,
    precision: str = "float32",
    blend: Literal["core", "gaussian"] = "core",
) -> tuple[Predictor, ModelCard]:
    """A predictor with the network of a model file, and the file's card; as of `Predictor`.

    tiling: in place of the card's. RequestError: the model file cannot be used.
    """
    model, card = load_model(model_file, device)
    predictor = Predictor(
        model, tiling or card.tiling, batch=batch, device=device, precision=precision, blend=blend
    )
    return predictor, card


def mean_confidence(sums: Iterable[float], small: tuple[int, int]) -> float:
    """Mean top probability of an image of [h, w] working pixels from the sums of its pieces, in any order."""
    return fsum(sums) / (small[0] * small[1])
