"""A whole image through a model, tile by tile, at the image's own size."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.data.frames import Frame
from seg.data.images import Pixels
from seg.data.preprocess import Statistics
from seg.model_card import ModelCard
from seg.predict import upsampling
from seg.predict.averaging import load_averaged
from seg.predict.confusion import confusion_matrix, count_classes
from seg.predict.counts import PixelCounts, mean_confidence
from seg.predict.passes import Passes
from seg.predict.tiling import FrameCrops, Grid, ImageCrops, Mixing, Span, Tile, check_blend
from seg.recipe import Tiling, Tta

Rectangle = tuple[slice, slice]
"""Rows and columns of an image."""
CANVAS_PX = 128 * 2**20
"""Own pixels of an image that is put together on the device; a larger one is on the host."""


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
    logits: Tensor | None = None
    """Their logits, float32 [C, h, w]; None: not asked for."""

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

    def make_core(self, tile: Tile, logits: Tensor, *, keep_logits: bool = False) -> Piece:
        """A tile's core, from its logits, float32 [C, crop height, crop width]."""
        row, column = tile
        working = (slice(row.core_start, row.core_stop), slice(column.core_start, column.core_stop))
        kept = logits[:, _core(row), _core(column)] if keep_logits else None
        margins = upsampling.margins_over_first(logits)
        core = margins[:, _core(row), _core(column)]
        probability = upsampling.top_probability(core)
        if not self._enlarged:
            return Piece(working, upsampling.top_class(core), working, probability, kept)
        down, across = self._down[row], self._across[column]
        ids = upsampling.classes_at_own_size(margins, down, across)
        return Piece((down.own, across.own), ids, working, probability, kept)

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


class PixelCounter:
    """Counts pieces where they are: one small transfer an image."""

    def __init__(
        self, num_classes: int, device: torch.device, truth: NDArray[np.uint8] | None, first_row: int = 0
    ) -> None:
        """`truth`: rows of the image's class ids at its own size, [h, W], from `first_row` on, 255 ignored.

        None: it has none.
        """
        self.num_classes, self.truth, self._first_row = num_classes, truth, first_row
        self._pixels = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._seen = 0

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self._pixels += count_classes(piece.ids, self.num_classes)
        self._seen += piece.ids.numel()
        if self.truth is not None:
            rows, columns = piece.own
            place = slice(rows.start - self._first_row, rows.stop - self._first_row), columns
            self._confusion += confusion_matrix(self.truth[place], piece.ids, self.num_classes)

    def counts(self) -> PixelCounts:
        """Of the pieces so far."""
        pixels = tuple(self._pixels.tolist())
        if self.truth is None:
            return PixelCounts(pixels)
        confusion = tuple(self._confusion.flatten().tolist())
        return PixelCounts(pixels, confusion, self._seen - sum(confusion))  # counted, or ignored


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image's class ids, and how sure the model is of them."""

    ids: Tensor
    """uint8 [H, W], at the image's own size; on the model's device, of a large image on the host."""
    confidence: float
    """Mean top probability of the working pixels."""
    probability: Tensor | None
    """Top probability of each working pixel, float32 [h, w], where the ids are; None: not asked for."""


class Canvas:
    """What pieces of one image are put together on, in any order."""

    def __init__(self, grid: Grid, device: torch.device, *, probability: bool) -> None:
        home = device if grid.size[0] * grid.size[1] <= CANVAS_PX else torch.device("cpu")
        self.grid = grid
        self.ids = torch.empty(grid.size, dtype=torch.uint8, device=home)
        self.probability = torch.empty(grid.small, device=home) if probability else None
        self._sums: list[Tensor] = []

    def add(self, piece: Piece) -> None:
        """Put a piece in its place."""
        self.ids[piece.own] = piece.ids
        if self.probability is not None:
            self.probability[piece.working] = piece.probability
        self._sums.append(piece.confidence_sum())

    @property
    def sums(self) -> list[float]:
        """Of each piece's top probabilities, in the order in which they came."""
        return torch.stack(self._sums).tolist() if self._sums else []

    def finish(self) -> Prediction:
        """The whole."""
        return Prediction(self.ids, mean_confidence(self.sums, self.grid.small), self.probability)


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
        mixing: Mixing = "mixed",
    ) -> None:
        """`batch`, `mixing`: of forward passes (seg/predict/passes.py).

        blend: keep each tile's core, or average tiles where they overlap (seg/predict/upsampling.py).
        RequestError: they do not overlap.
        """
        check_blend(blend, tiling)
        self.passes = Passes(model, batch=batch, device=device, precision=precision, mixing=mixing)
        self.tiling, self.device, self.blend = tiling, device, blend

    def predict(self, working: Pixels, statistics: Statistics, size: tuple[int, int]) -> Prediction:
        """Class ids at the image's own size (H, W), from its preprocessed pixels [h, w] or [h, w, 3]."""
        return self.predict_frames([(working, statistics)], size)

    def predict_frames(
        self, frames: Sequence[Frame], size: tuple[int, int], *, probability: bool = False
    ) -> Prediction:
        """Class ids of the last frame at its own size (H, W); a sequence model sees all, others only that.

        Frames have one working size. Logits, or blended probabilities, are interpolated in whole-image
        coordinates (bilinear, align_corners=False) before the argmax, so that no tile's edge shows.
        """
        image = self.crop(frames, size)
        canvas = Canvas(image.grid, self.device, probability=probability)
        for _, pieces in self.predict_stream([image]):
            for piece in pieces:
                canvas.add(piece)
        return canvas.finish()

    def crop(self, frames: Sequence[Frame], size: tuple[int, int]) -> FrameCrops:
        """The crops that the model sees of an image of own size (H, W)."""
        return FrameCrops(frames if self.passes.takes_frames else frames[-1:], size, self.tiling)

    @torch.inference_mode()
    def predict_stream(
        self, images: Iterable[ImageCrops | None], *, keep_logits: bool = False
    ) -> Iterator[tuple[ImageCrops, Iterator[Piece]]]:
        """The pieces of each image in turn, whose crops share passes. None: none is there just now.

        An image's pieces are to be used before the next image is asked for. keep_logits: cores have theirs;
        strips of a blend have none. ValueError: it is not a whole image, and a blend needs all of its tiles.
        """
        shown: deque[ImageCrops] = deque()

        def note() -> Iterator[ImageCrops | None]:
            for image in images:
                if image is not None:
                    shown.append(image)
                yield image

        logits = self.passes.logits(note())
        for first in logits:
            image = shown.popleft()
            own = chain([first], islice(logits, len(image.tiles) - 1))
            yield image, self._pieces(image, own, keep_logits=keep_logits)

    @torch.inference_mode()
    def _pieces(self, image: ImageCrops, logits: Iterator[Tensor], *, keep_logits: bool) -> Iterator[Piece]:
        maker = PieceMaker(image.grid, self.device)
        if self.blend == "core":
            yield from map(partial(maker.make_core, keep_logits=keep_logits), image.tiles, logits)
        elif len(image.tiles) < len(image.grid.tiles):
            raise ValueError(f"some tiles are of cores, not of the blend {self.blend}")
        else:
            yield from maker.make_strips(logits)


def open_predictor(
    model_file: Path, device: torch.device, *, precision: str = "float32", tta: Tta = "none"
) -> tuple[Predictor, ModelCard]:
    """A predictor of one image at a time with the network of a model file, and the file's card.

    tta: the views of a crop that are averaged. RequestError: the model file cannot be used.
    """
    model, card = load_averaged([model_file], device, tta)
    return Predictor(model, card.tiling, batch=1, device=device, precision=precision), card
