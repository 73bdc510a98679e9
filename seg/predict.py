"""A whole image through a model, window by window, at the image's own size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seg.data.images import Pixels
from seg.data.preprocess import Statistics, normalise
from seg.precision import autocast
from seg.recipe import Tiling
from seg.tiling import Span, padded_length, place_spans, reflect_pad
from seg.upsampling import Resampling, classes_at_own_size, top_class

Frame = tuple[Pixels, Statistics]
"""Preprocessed pixels [h, w] or [h, w, 3], and what normalises them."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Class ids of an image, uint8 [H, W] on the model's device, and its mean top probability."""

    ids: Tensor
    confidence: float


class Predictor:
    """Predicts images with one model. Results depend on the image, the tiling and the batch size alone."""

    def __init__(
        self,
        model: nn.Module,
        tiling: Tiling,
        *,
        batch: int,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        """`batch`: windows a forward pass sees, all of one image, the last batch filled up to that size."""
        self.model = model.eval()
        self.takes_frames = getattr(model, "TAKES_FRAMES", False)
        self.tiling = tiling
        self.batch = batch
        self.device = device
        self.precision = precision

    def predict(self, working: Pixels, statistics: Statistics, size: tuple[int, int]) -> Prediction:
        """Class ids at the image's own size (H, W), from its preprocessed pixels [h, w] or [h, w, 3]."""
        return self.predict_frames([(working, statistics)], size)

    @torch.inference_mode()
    def predict_frames(self, frames: Sequence[Frame], size: tuple[int, int]) -> Prediction:
        """Class ids of the last frame at its own size (H, W); a sequence model sees all, others only that.

        Frames have one working size. Logits are interpolated in whole-image coordinates (bilinear,
        align_corners=False) before the argmax, so that no window's edge shows; the confidence is a mean over
        working pixels.
        """
        frames = frames if self.takes_frames else frames[-1:]
        image = torch.stack([self._to_tensor(working) for working, _ in frames])  # [K, channels, h, w]
        small = (image.shape[-2], image.shape[-1])
        (crop_height, crop_width), halo = self.tiling.crop_px, self.tiling.halo_px
        image = reflect_pad(image, padded_length(small[0], crop_height), padded_length(small[1], crop_width))
        columns = place_spans(small[1], crop_width, halo)
        windows = [(row, column) for row in place_spans(small[0], crop_height, halo) for column in columns]
        ids = torch.empty(size, dtype=torch.uint8, device=self.device)
        top_probability = torch.zeros((), dtype=torch.float64, device=self.device)
        for (row, column), logits in zip(windows, self._logits(image, windows, frames), strict=True):
            core = logits[:, _core(row), _core(column)]
            top_probability += core.softmax(0).amax(0).sum(dtype=torch.float64)
            if small == size:
                ids[row.core_start : row.core_stop, column.core_start : column.core_stop] = top_class(core)
            else:
                down = Resampling(row, small[0], size[0], crop_height, self.device)
                across = Resampling(column, small[1], size[1], crop_width, self.device)
                ids[down.own, across.own] = classes_at_own_size(logits, down, across)
        return Prediction(ids, float(top_probability) / (small[0] * small[1]))

    def _to_tensor(self, working: Pixels) -> Tensor:
        """Pixels [channels, h, w] on the device; torch warns of read-only memory, as a pack's images are."""
        image = torch.from_numpy(working if working.flags.writeable else working.copy()).to(self.device)
        return image[None] if image.ndim == 2 else image.permute(2, 0, 1)

    def _logits(
        self, image: Tensor, windows: list[tuple[Span, Span]], frames: Sequence[Frame]
    ) -> Iterator[Tensor]:
        """Logits of each window in turn, float32 [C, crop height, crop width]."""
        crop_height, crop_width = self.tiling.crop_px
        mean, std = (
            torch.tensor([values], dtype=torch.float64, device=self.device)  # [1, K, channels]
            for values in ([part.mean for _, part in frames], [part.std for _, part in frames])
        )
        for first in range(0, len(windows), self.batch):
            chosen = windows[first : first + self.batch]
            filled = chosen + chosen[-1:] * (self.batch - len(chosen))
            crops = torch.stack(
                [
                    image[..., row.start : row.start + crop_height, column.start : column.start + crop_width]
                    for row, column in filled
                ]
            )
            crops = normalise(crops, mean, std)  # [N, K, channels, crop height, crop width]
            if not self.takes_frames:
                crops = crops[:, 0].contiguous(memory_format=torch.channels_last)
            with autocast(self.device, self.precision):
                logits = self.model(crops)
            yield from logits.float()[: len(chosen)]


def _core(span: Span) -> slice:
    return slice(span.core_start - span.start, span.core_stop - span.start)
