from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg.metrics import (
    dice,
    iou,
    mean_present,
    pixel_accuracy,
)


@given(arrays(np.int64, (4, 4), elements=st.sampled_from([0, 0, 1, 7, 10**12])))
def test_ratios_are_those_of_exact_fractions(confusion: np.ndarray) -> None:
    rows = confusion.tolist()
    overlaps, dices = [], []
    for c in range(4):
        hits = rows[c][c]
        missed = sum(rows[c]) - hits
        invented = sum(row[c] for row in rows) - hits
        whole = hits + missed + invented
        overlaps.append(float(Fraction(hits, whole)) if whole else float("nan"))
        dices.append(float(Fraction(2 * hits, 2 * hits + missed + invented)) if whole else float("nan"))
    np.testing.assert_array_equal(iou(confusion), overlaps)  # one correctly rounded division each
    np.testing.assert_array_equal(dice(confusion), dices)
    total = sum(map(sum, rows))
    trace = sum(rows[c][c] for c in range(4))
    np.testing.assert_equal(pixel_accuracy(confusion), float(Fraction(trace, total)) if total else np.nan)


def test_nothing_counted_gives_nan() -> None:
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(iou(empty)).all()
    assert np.isnan(mean_present(iou(empty)))
    assert np.isnan(pixel_accuracy(empty))


def test_an_absent_class_is_left_out_of_the_mean() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert iou(confusion)[:2].tolist() == [3 / 4, 4 / 5]
    assert mean_present(iou(confusion)) == pytest.approx((3 / 4 + 4 / 5) / 2)
