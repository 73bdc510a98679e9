from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seg.predict.tiling import padded_length, place_grid, place_spans, reflected_places
from seg.recipe import Tiling

CROPS = st.integers(1, 40).map(lambda k: 32 * k)


@st.composite
def draw_tilings(draw: st.DrawFn) -> tuple[int, int, int]:
    crop = draw(CROPS)
    halo = 16 * draw(st.integers(0, (crop // 2 - 1) // 16))
    return draw(st.integers(1, 9000)), crop, halo


@given(draw_tilings())
def test_cores_partition_the_image_and_windows_lie_on_the_grid(tiling: tuple[int, int, int]) -> None:
    length, crop, halo = tiling
    spans = place_spans(length, crop, halo)
    padded = padded_length(length, crop)
    assert padded % 32 == 0
    assert max(crop, length) <= padded < max(crop, length) + 32
    assert spans[0].core_start == 0
    assert spans[-1].core_stop == length
    assert all(left.core_stop == right.core_start for left, right in pairwise(spans))
    for span in spans:
        assert span.start % 32 == 0
        assert 0 <= span.start <= padded - crop
        assert span.core_start < span.core_stop
        # the halo is whole, but where the padded image ends
        assert span.core_start - span.start >= halo or span.start == 0
        assert span.start + crop - span.core_stop >= halo or span.start + crop == padded


@given(draw_tilings())
def test_no_window_is_more_than_needed(tiling: tuple[int, int, int]) -> None:
    length, crop, halo = tiling
    padded = padded_length(length, crop)
    assert len(place_spans(length, crop, halo)) == 1 + -(-(padded - crop) // (crop - 2 * halo))


@given(st.integers(1, 40), st.integers(0, 90))
def test_padding_reflects_as_numpy_does(length: int, more: int) -> None:
    pixels = np.arange(length)
    expected = np.pad(pixels, (0, more), mode="reflect")
    np.testing.assert_array_equal(pixels[reflected_places(length, length + more).numpy()], expected)


def test_windows_come_row_by_row() -> None:
    grid = place_grid((100, 200), (300, 600), Tiling(crop_px=(96, 64), halo_px=16))
    starts = [(row.start, column.start) for row, column in grid.tiles]
    assert starts == [(down, across) for down in (0, 32) for across in (0, 32, 64, 96, 128, 160)]
