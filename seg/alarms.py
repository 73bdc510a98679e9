"""Signs that a model learned nothing: classes that it never predicts, shares unlike those of its training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TIMES = 5.0
"""A class this many times more, or less, of the pixels than in training is an alarm."""
FAINT = 1e-4
"""A class that is less of the pixels than this, in training and in predictions, is too rare to compare."""
NAMED = 5
"""Classes that a line names before it only counts."""


def find_alarms(
    classes: Sequence[str],
    confusion: NDArray[np.int64],
    predicted: NDArray[np.int64] | None = None,
    trained: Sequence[float] = (),
) -> list[str]:
    """What a model's user must know before any figure, a line each; none where nothing is wrong.

    confusion: int64 [C, C] of the labelled pixels, zeros without labels; predicted: pixels predicted as each
    class, int64 [C], labelled or not; None: the matrix has all of them. trained: share of each class in the
    training's labels; empty: not known. A share that the labels counted here bear out is no alarm: then it is
    the images that differ from the training's, and the model is right.
    """
    truth = confusion.sum(1)
    found = confusion.sum(0) if predicted is None else predicted
    missed = np.flatnonzero((truth > 0) & (confusion.sum(0) == 0)).tolist()
    lines: list[str] = []
    if missed:
        names = _join([f"{classes[k]} ({truth[k]:,} in the labels)" for k in missed], ", ")
        lines.append(f"the model predicts no pixel of: {names}")
    elif len(classes) > 1 and np.count_nonzero(found) == 1:
        lines.append(f"the model predicts nothing but {classes[int(found.argmax())]}")
    if shifts := _find_shifts(classes, _shares(truth), _shares(found), trained):
        lines.append(shifts)
    return lines


def _find_shifts(
    classes: Sequence[str],
    truth: NDArray[np.float64] | None,
    found: NDArray[np.float64] | None,
    trained: Sequence[float],
) -> str:
    """Classes whose share of the pixels is far from the training's, the most frequent first; empty: none."""
    if found is None or not len(trained):
        return ""
    before = np.array(trained, np.float64)
    shifted = _differ(found, before)
    if truth is not None:
        shifted &= _differ(found, truth)
    order = sorted(np.flatnonzero(shifted).tolist(), key=lambda k: -max(found[k], before[k]))
    shares = [(_percent(found[k]), classes[k], _percent(before[k])) for k in order]
    parts = [f"{now} are {name}, {once} in training" for now, name, once in shares]
    parts[:1] = [f"{now} of pixels are {name}, {once} in training" for now, name, once in shares[:1]]
    return _join(parts, "; ")


def _differ(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where shares are more than TIMES apart, bool [C]."""
    more, less = np.maximum(some, others), np.minimum(some, others)
    return (more > TIMES * less) & (more >= FAINT)


def _shares(pixels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Each class's share of the pixels, float64 [C]; None: there are none."""
    return pixels / pixels.sum() if pixels.any() else None


def _percent(share: float) -> str:
    if 0 < share < FAINT:
        return f"below {FAINT:.2%}".replace("%", " %")
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"


def _join(parts: list[str], between: str) -> str:
    more = [f"{len(parts) - NAMED} more"] if len(parts) > NAMED else []
    return between.join(parts[:NAMED] + more)
