"""Ratios of a confusion matrix: it holds integers, merging is `+`, ratios come last, and without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union by class, float64 [C]: TP / (TP + FP + FN); NaN where a class is absent."""
    hits, union = _hits_and_union(confusion)
    return _ratio(hits, union)


def dice(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dice coefficient of each class, float64 [C]: 2 TP / (2 TP + FP + FN); NaN where a class is absent."""
    hits, union = _hits_and_union(confusion)
    return _ratio(2 * hits, union + hits)


def mean_present(ratios: NDArray[np.float64]) -> float:
    """Mean over the classes that occur; NaN where none does."""
    present = ratios[~np.isnan(ratios)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of counted pixels that are right: trace / sum; NaN where nothing was counted."""
    total = int(confusion.sum())
    return int(np.trace(confusion)) / total if total else float("nan")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a confusion matrix comes to, under the names that every summary.json has."""

    miou: float
    iou: dict[str, float]
    dice: dict[str, float]
    pixel_accuracy: float
    confusion: list[list[int]]


def score_classes(confusion: NDArray[np.int64], classes: Sequence[str]) -> Scores:
    """The scores of a matrix of these classes; NaN where nothing was counted."""
    return Scores(
        miou=mean_present(iou(confusion)),
        iou=dict(zip(classes, iou(confusion).tolist(), strict=True)),
        dice=dict(zip(classes, dice(confusion).tolist(), strict=True)),
        pixel_accuracy=pixel_accuracy(confusion),
        confusion=confusion.tolist(),
    )


def _hits_and_union(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    hits = np.diagonal(confusion)
    return hits, confusion.sum(0) + confusion.sum(1) - hits


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
