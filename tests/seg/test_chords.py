from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from seg.objects import Chords, cut_chords, join_chords, overlaps

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


def paint(chords: Chords, size: tuple[int, int]) -> NDArray[np.int64]:
    """Who owns each pixel, -1 nobody, chord by chord; none is painted twice."""
    painted = np.full(size, -1)
    for row, start, stop, owner in zip(
        *(part.tolist() for part in (chords.rows, chords.starts, chords.stops, chords.owners)), strict=True
    ):
        assert (painted[row, start:stop] == -1).all()
        painted[row, start:stop] = owner
    return painted


@given(MASKS)
def test_chords_are_the_mask_in_as_few_pieces_as_there_can_be(ids: NDArray[np.uint8]) -> None:
    chords = cut_chords(ids)
    np.testing.assert_array_equal(paint(chords, ids.shape), ids)
    changes = int(np.count_nonzero(ids[:, 1:] != ids[:, :-1]))
    assert len(chords.rows) == len(ids) + changes
    assert chords.lengths.sum() == ids.size


@given(st.data())
def test_shared_pixels_are_counted_by_pair(data: st.DataObject) -> None:
    one = data.draw(MASKS)
    other = data.draw(arrays(np.uint8, one.shape, elements=st.integers(0, 3)))
    cut = (cut_chords(one), cut_chords(other))
    owned = [chords.take(chords.owners > 0) for chords in cut]
    pixels = Counter(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    mine, theirs, shared = (part.tolist() for part in overlaps(*owned))
    assert list(zip(mine, theirs, strict=True)) == sorted(set(zip(mine, theirs, strict=True)))
    assert dict(zip(zip(mine, theirs, strict=True), shared, strict=True)) == {
        pair: count for pair, count in pixels.items() if 0 not in pair
    }


def test_a_row_that_ends_does_not_touch_the_one_after_the_next() -> None:
    ids = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
    chords = cut_chords(ids)
    assert len(set(join_chords(chords.take(chords.owners == 1)).tolist())) == 2
    ids[1, 1] = 1
    chords = cut_chords(ids)
    assert len(set(join_chords(chords.take(chords.owners == 1)).tolist())) == 1
