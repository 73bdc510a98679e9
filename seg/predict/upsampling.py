"""From logits at working size to classes at own size, and logits of overlapping tiles blended."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seg.predict.tiling import Span

BAND_ROWS = 64
"""Own rows interpolated at a time on a CPU: their logits then stay in its cache (bench/upsampling.py)."""
BAND_VALUES = 2**26
"""Own pixels times planes interpolated at a time elsewhere: 256 MiB."""
SIGMA_SHARE = 1 / 8
"""Standard deviation of the weight as a share of the tile's side."""


class Resampling:
    """Linear interpolation along one axis, from a tile's working pixels to the own pixels of its core.

    The places are those of interpolating the whole image with align_corners=False; neighbours stay inside the
    image, and inside the tile where it has no halo.
    """

    def __init__(self, span: Span, small: int, full: int, crop: int, device: torch.device) -> None:
        """`small`, `full`: the image's working and own pixels along the axis; `crop`: the tile's."""
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

    def columns(self, planes: Tensor) -> Tensor:
        """Planes [n, h, w] with their last axis at own size."""
        shape = (*planes.shape[:2], len(self))
        low, high = (planes.gather(2, places.expand(shape)) for places in (self._low, self._high))
        return torch.lerp(low, high, self._share)

    def rows(self, planes: Tensor, band: slice) -> Tensor:
        """A band of the own rows of planes [n, h, w], counted from the core's first."""
        low, high = (planes.index_select(1, places[band]) for places in (self._low, self._high))
        return torch.lerp(low, high, self._share[band, None])


def classes_at_own_size(margins: Tensor, down: Resampling, across: Resampling) -> Tensor:
    """Class ids at own size, uint8 [len(down), len(across)], from a tile's margins [C - 1, h, w]."""
    wide = across.columns(margins)
    step = BAND_ROWS
    if margins.device.type != "cpu":
        step = max(BAND_ROWS, BAND_VALUES // max(1, len(margins) * len(across)))
    bands = (slice(first, first + step) for first in range(0, len(down), step))
    return torch.cat([top_class(down.rows(wide, band)) for band in bands])


def margins_over_first(logits: Tensor) -> Tensor:
    """What each class but the first is ahead of it, [C - 1, h, w] from logits or probabilities [C, h, w].

    The top class and its probability follow from them, and one plane less is interpolated.
    """
    return (logits[1:] - logits[0]).contiguous()


def top_class(margins: Tensor) -> Tensor:
    """The class of the highest logit, uint8 [h, w], from margins [C - 1, h, w]; the lowest id among equals.

    What argmax(0) of the logits returns, but in passes over whole planes, which a CPU can vectorise.
    """
    if not len(margins):
        return torch.zeros(margins.shape[1:], dtype=torch.uint8, device=margins.device)
    best, *others = margins
    ids = (best > 0).view(torch.uint8)
    if others:
        best = best.clamp(min=0)
    for number, plane in enumerate(others, start=2):
        ids.masked_fill_(plane > best, number)
        best = torch.maximum(plane, best)
    return ids


def top_probability(margins: Tensor) -> Tensor:
    """The softmax's highest value at each pixel, float32 [h, w], from margins of logits [C - 1, h, w]."""
    if len(margins) == 1:  # the general formula's value in a quarter of its time
        return margins[0].abs().sigmoid_()
    logits = F.pad(margins, (0, 0, 0, 0, 1, 0))  # the first class's are 0
    return (logits - logits.amax(0)).exp_().sum(0).reciprocal_()


def blending_weights(spans: Sequence[Span], crop: int, device: torch.device) -> dict[Span, Tensor]:
    """Weight of each pixel of each tile along an axis, float32 [crop]: at every pixel they add up to 1.

    The Gaussian of nnU-Net (Isensee et al. 2021, arXiv:1904.08128): its centre the tile's, its standard
    deviation an eighth of the side. Unlike there, weights are shared out along each axis beforehand (they are
    a product over the axes), so nothing is divided in the end, and the smallest, exp(-8), need no floor.
    """
    offset = torch.arange(crop, dtype=torch.float64) - (crop - 1) / 2
    bell = torch.exp(-0.5 * (offset / (SIGMA_SHARE * crop)) ** 2)
    total = torch.zeros(spans[-1].start + crop, dtype=torch.float64)
    for span in spans:
        total[span.start : span.start + crop] += bell
    return {span: (bell / total[span.start : span.start + crop]).to(device, torch.float32) for span in spans}


def blend_tiles(
    logits: Iterator[Tensor], down: dict[Span, Tensor], across: dict[Span, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Averaged probabilities in strips from top to bottom: first row, float32 [C, rows, padded width].

    logits: [C, crop height, crop width] of each tile, row by row; down, across: the axes' tiles and their
    weights. Sums are made in the tiles' order; what is held is as high as one tile.
    """
    total = None
    for row, weights in down.items():
        for column, others in across.items():
            probability = next(logits).softmax(0)
            if total is None:
                width = list(across)[-1].start + len(others)
                total = probability.new_zeros(len(probability), len(weights), width)
            probability *= weights[:, None] * others
            total[:, :, column.start : column.start + len(others)] += probability
        assert total is not None, "an image has tiles"
        later = [other.start for other in down if other.start > row.start]
        final = min(later, default=row.start + len(weights)) - row.start
        yield row.start, total[:, :final]
        total = torch.cat([total[:, final:], torch.zeros_like(total[:, :final])], dim=1)
