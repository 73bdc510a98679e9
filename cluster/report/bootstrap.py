"""How sure a difference of mIoU between two scorings of the same images is: the paired bootstrap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.report.image_ious import class_ious, mean_ious

RESAMPLES = 2000
LEVEL = (2.5, 97.5)
"""Percentiles that hold 95 % of the resamples."""
CHUNK = 1 << 22
"""Numbers of a block of counts, 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a difference lies in 95 % of the resamples; NaN where no resample has it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedSums:
    """Two scorings of the same N images: pixels by class that truth and prediction share, or either has."""

    hits_a: NDArray[np.int64]
    """[N, C], as the others."""
    unions_a: NDArray[np.int64]
    hits_b: NDArray[np.int64]
    unions_b: NDArray[np.int64]

    def stack(self) -> NDArray[np.float64]:
        """All side by side, [N, 4 C]; exact, as are their sums below 2^53."""
        return np.hstack([self.hits_a, self.unions_a, self.hits_b, self.unions_b]).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Resamples:
    """Differences in every resample, second less first; NaN where a class does not occur."""

    miou: NDArray[np.float64]
    """[R]"""
    iou: NDArray[np.float64]
    """[R, C]"""

    def interval(self) -> Interval:
        """Of the data set's mIoU."""
        return _interval(self.miou)

    def class_intervals(self) -> list[Interval]:
        """Of each class's IoU."""
        return [_interval(differences) for differences in self.iou.T]

    def better_share(self) -> float:
        """Share of the resamples in which the second has the higher mIoU, a tie counting half."""
        return float(np.mean((self.miou > 0) + 0.5 * (self.miou == 0)))


def resample(sums: PairedSums, *, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """Draw as many images as there are, with replacement, again and again, and sum both scorings over them.

    The interval is of percentiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13),
    paired as by Koehn (Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004): both
    scorings are summed over the same images. The mIoU is the data set's, of the summed pixels. A resample is
    a row of counts, and all are one matrix product: 2000 of 10,000 images take some seconds.
    """
    values, random = sums.stack(), np.random.default_rng(seed)
    total, size = len(values), sums.hits_a.shape[1]
    block = max(1, CHUNK // total)
    parts = [
        _draw(random, min(block, resamples - first), total) @ values for first in range(0, resamples, block)
    ]
    ends = range(size, 4 * size, size)
    hits_a, unions_a, hits_b, unions_b = np.split(np.concatenate(parts), ends, axis=1)
    return Resamples(
        mean_ious(hits_b, unions_b) - mean_ious(hits_a, unions_a),
        class_ious(hits_b, unions_b) - class_ious(hits_a, unions_a),
    )


def _draw(random: np.random.Generator, rows: int, total: int) -> NDArray[np.float64]:
    """How often each image is drawn, in so many resamples."""
    counts = np.empty((rows, total))
    for row in counts:
        row[:] = np.bincount(random.integers(total, size=total), minlength=total)
    return counts


def _interval(differences: NDArray[np.float64]) -> Interval:
    known = differences[~np.isnan(differences)]
    return Interval(*np.percentile(known, LEVEL).tolist()) if len(known) else Interval(np.nan, np.nan)
