"""An image's pixels on the device, in bands of rows where it is large, cut into windows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg.data.images import Pixels
from seg.data.preprocess import Statistics, normalise
from seg.tiling import Grid, Window, reflected_places

Frame = tuple[Pixels, Statistics]
"""Preprocessed pixels [h, w] or [h, w, 3], and what normalises them."""


class WindowPixels:
    """What a model sees of one image's frames. Windows are asked for row by row."""

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

    def crops(self, windows: Sequence[Window]) -> Tensor:
        """Normalised pixels, float32 [N, K, channels, crop height, crop width]."""
        height, width = self._grid.crop
        first, stop = windows[0][0].start, windows[-1][0].start + height
        if stop > self._band.stop:
            self._load(slice(first, max(stop, min(first + self._band_rows, len(self._down)))))
        corners = [(row.start - self._band.start, column.start) for row, column in windows]
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
