"""From a window's logits to class ids at the image's own size, in whole-image coordinates."""

import torch
from torch import Tensor

from seg.tiling import Span

BAND_ROWS = 64
"""Own rows interpolated at a time on a CPU: their logits then stay in its cache (bench/upsampling.py)."""


class Resampling:
    """Linear interpolation along one axis, from a window's working pixels to the own pixels of its core.

    The places are those of interpolating the whole image with align_corners=False; neighbours stay inside the
    image, and inside the window where it has no halo.
    """

    def __init__(self, span: Span, small: int, full: int, crop: int, device: torch.device) -> None:
        """`small`, `full`: the image's working and own pixels along the axis; `crop`: the window's."""
        # own pixel Y lies in the core when its centre does: core_start <= (Y + 1/2) small / full < core_stop
        first, last = (
            -((small - 2 * edge * full) // (2 * small)) for edge in (span.core_start, span.core_stop)
        )
        self.own = slice(first, last)
        own = torch.arange(first, last, dtype=torch.float64, device=device)
        place = ((own + 0.5) * (small / full) - 0.5).clamp(0, small - 1)
        lower = place.floor().to(torch.int64)
        self._share = (place - lower).float()
        self._low, self._high = (
            (neighbour.clamp(max=small - 1) - span.start).clamp(0, crop - 1)
            for neighbour in (lower, lower + 1)
        )

    def __len__(self) -> int:
        return self.own.stop - self.own.start

    def columns(self, logits: Tensor) -> Tensor:
        """Logits [C, h, w] with their last axis at own size."""
        return torch.lerp(logits[:, :, self._low], logits[:, :, self._high], self._share)

    def rows(self, logits: Tensor, band: slice) -> Tensor:
        """A band of the own rows of logits [C, h, w], counted from the core's first."""
        low, high = logits[:, self._low[band]], logits[:, self._high[band]]
        return torch.lerp(low, high, self._share[band, None])


def classes_at_own_size(logits: Tensor, down: Resampling, across: Resampling) -> Tensor:
    """Class ids of a window's core at own size, uint8 [len(down), len(across)], from logits [C, h, w]."""
    wide = across.columns(logits)
    step = BAND_ROWS if logits.device.type == "cpu" else len(down)
    bands = (slice(first, first + step) for first in range(0, len(down), step))
    return torch.cat([top_class(down.rows(wide, band)) for band in bands])


def top_class(logits: Tensor) -> Tensor:
    """The class of the highest logit, uint8 [h, w] from [C, h, w]; the lowest id among equals.

    What argmax(0) returns, but in passes over whole planes, which a CPU can vectorise.
    """
    ids = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    best = logits[0]
    for number, plane in enumerate(logits[1:], start=1):
        ids.masked_fill_(plane > best, number)
        best = torch.maximum(plane, best)
    return ids
