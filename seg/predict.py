"""A whole image through a model, window by window, at the image's own size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import fsum
from typing import Literal

import torch
from torch import Tensor, nn

from seg.blending import check_blend
from seg.data.images import Pixels
from seg.data.preprocess import Statistics
from seg.pieces import Piece, PieceMaker
from seg.precision import autocast
from seg.recipe import Tiling
from seg.tiling import Grid, Window, place_grid
from seg.windows import Frame, WindowPixels

BAND_BYTES = 128 * 2**20
"""Device memory for an image's pixels and ids; of a larger image it holds a band of rows at a time."""


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
        """`batch`: windows a forward pass sees at most, all of one image; see `_windows_per_pass`.

        blend: keep each window's core, or average windows where they overlap (seg/blending.py). RequestError:
        they do not overlap.
        """
        check_blend(blend, tiling)
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
        coordinates (bilinear, align_corners=False) before the argmax, so that no window's edge shows.
        """
        grid = self.place_grid(frames, size)
        pixels = self._pixels(frames, grid)
        logits = self._logits(pixels, grid.windows, self._windows_per_pass(grid))
        maker = PieceMaker(grid, self.device)
        if self.blend == "gaussian":
            pieces = maker.make_strips(logits)
        else:
            pieces = map(maker.make_core, grid.windows, logits)
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

        A share is a run of whole batches, so that each window is predicted in the company that it has in
        `predict_frames`: all shares' ids, and `mean_confidence` of their sums, equal those bit for bit.
        ValueError: the predictor blends, and a blend needs neighbours' windows.
        """
        if self.blend != "core":
            raise ValueError(f"shares are of cores, not of the blend {self.blend}")
        grid = self.place_grid(frames, size)
        per_pass = self._windows_per_pass(grid)
        batches = -(-len(grid.windows) // per_pass)
        first, stop = (per_pass * (batches * edge // of) for edge in (share, share + 1))
        windows = grid.windows[first:stop]
        logits = self._logits(self._pixels(frames, grid), windows, per_pass)
        yield from map(PieceMaker(grid, self.device).make_core, windows, logits)

    def place_grid(self, frames: Sequence[Frame], size: tuple[int, int]) -> Grid:
        """The windows of an image, from its frames and its own size (H, W)."""
        height, width = frames[-1][0].shape[:2]
        return place_grid((height, width), size, self.tiling)

    def _windows_per_pass(self, grid: Grid) -> int:
        """As few passes as `batch` allows, all of one size: 5 windows by 4 are 3 and 3, one of them a fill.

        The image's own size decides it, not its neighbours. One window by 4 is one, not four.
        """
        passes = -(-len(grid.windows) // self.batch)
        return -(-len(grid.windows) // passes)

    def _pixels(self, frames: Sequence[Frame], grid: Grid) -> WindowPixels:
        seen = frames if self.takes_frames else frames[-1:]
        return WindowPixels(seen, grid, self.device, self.band_bytes)

    def _logits(self, pixels: WindowPixels, windows: list[Window], per_pass: int) -> Iterator[Tensor]:
        """Logits of each window in turn, float32 [C, crop height, crop width]."""
        todo = iter(windows)
        while chosen := list(islice(todo, per_pass)):
            crops = pixels.crops(chosen + chosen[-1:] * (per_pass - len(chosen)))
            if not self.takes_frames:
                crops = crops[:, 0].contiguous(memory_format=torch.channels_last)
            with autocast(self.device, self.precision):
                logits = self.model(crops)
            yield from logits.float()[: len(chosen)]


def mean_confidence(sums: Iterable[float], small: tuple[int, int]) -> float:
    """Mean top probability of an image of [h, w] working pixels from the sums of its pieces, in any order."""
    return fsum(sums) / (small[0] * small[1])
