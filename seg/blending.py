"""Overlapping windows averaged with Gaussian weights, in strips of rows that no later window touches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seg.errors import RequestError
from seg.recipe import Tiling
from seg.tiling import Span

BLENDS = ("core", "gaussian")
"""What becomes of pixels that several windows see: one window's core decides, or all of them are averaged."""
SIGMA_SHARE = 1 / 8
"""Standard deviation of the weight as a share of the window's side."""


def check_blend(blend: str, tiling: Tiling) -> None:
    """RequestError: an unknown blend, or an average of windows that do not overlap."""
    if blend not in BLENDS:
        raise RequestError(f"--blend is {blend}; choose one of {', '.join(BLENDS)}")
    if blend == "gaussian" and tiling.halo_px == 0:
        raise RequestError(
            "--blend gaussian averages windows where they overlap, but with a halo of 0 they do not; "
            "try --halo 64, or --blend core"
        )


def blending_weights(spans: Sequence[Span], crop: int, device: torch.device) -> dict[Span, Tensor]:
    """Weight of each pixel of each window along an axis, float32 [crop]: at every pixel they add up to 1.

    The Gaussian of nnU-Net (Isensee et al. 2021, arXiv:1904.08128): its centre the window's, its standard
    deviation an eighth of the side. Unlike there, weights are shared out along each axis beforehand (they are
    a product over the axes), so nothing is divided in the end, and the smallest, exp(-8), need no floor.
    """
    offset = torch.arange(crop, dtype=torch.float64) - (crop - 1) / 2
    bell = torch.exp(-0.5 * (offset / (SIGMA_SHARE * crop)) ** 2)
    total = torch.zeros(spans[-1].start + crop, dtype=torch.float64)
    for span in spans:
        total[span.start : span.start + crop] += bell
    return {span: (bell / total[span.start : span.start + crop]).to(device, torch.float32) for span in spans}


def blend_windows(
    logits: Iterator[Tensor], down: dict[Span, Tensor], across: dict[Span, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Averaged probabilities in strips from top to bottom: first row, float32 [C, rows, padded width].

    logits: [C, crop height, crop width] of each window, row by row; down, across: the axes' windows and their
    weights. Sums are made in the windows' order; what is held is as high as one window.
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
        assert total is not None, "an image has windows"
        later = [other.start for other in down if other.start > row.start]
        final = min(later, default=row.start + len(weights)) - row.start
        yield row.start, total[:, :final]
        total = torch.cat([total[:, final:], torch.zeros_like(total[:, :final])], dim=1)
