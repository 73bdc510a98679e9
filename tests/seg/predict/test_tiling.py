from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.preprocess import image_statistics
from seg.predict.tiling import FrameCrops, padded_length, place_grid, place_spans, reflected_places
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
    np.testing.assert_array_equal(pixels[reflected_places(length, length + more)], expected)


def test_windows_come_row_by_row() -> None:
    grid = place_grid((100, 200), (300, 600), Tiling(crop_px=(96, 64), halo_px=16))
    starts = [(row.start, column.start) for row, column in grid.tiles]
    assert starts == [(down, across) for down in (0, 32) for across in (0, 32, 64, 96, 128, 160)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("size", [(100, 230), (5, 3), (64, 64), (65, 70), (1, 1)])
def test_a_crop_is_the_window_of_the_padded_image(size: tuple[int, int], frames: int, channels: int) -> None:
    random, shape = np.random.default_rng(0), size if channels == 1 else (*size, channels)
    images = [random.integers(0, 65536, shape).astype(np.uint16) for _ in range(frames)]
    statistics = [image_statistics(image) for image in images]
    crops = FrameCrops(list(zip(images, statistics, strict=True)), size, Tiling(crop_px=(64, 96), halo_px=16))
    found = crops.cut(slice(None))
    assert found.shape == (len(crops.tiles), frames, channels, 64, 96)
    assert crops.means.shape == crops.deviations.shape == (frames, channels)
    more = [
        (0, max(padded_length(side, crop), crop) - side) for side, crop in zip(size, (64, 96), strict=True)
    ]
    for number, image in enumerate(images):
        planes = image.reshape(*size, channels)
        padded = np.stack([np.pad(planes[..., c], more, mode="reflect") for c in range(channels)])
        for (row, column), crop in zip(crops.tiles, found[:, number], strict=True):
            window = padded[:, row.start : row.start + 64, column.start : column.start + 96]
            np.testing.assert_array_equal(crop, window)
