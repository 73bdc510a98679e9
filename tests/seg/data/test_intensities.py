from dataclasses import replace

import numpy as np
import pytest

from seg.data.preprocess import (
    Brightness,
    Intensity,
    IntensityRange,
    count_outside,
    find_ranges,
    measure_intensity,
)

RANGE = IntensityRange(8, lowest_mean=100.0, highest_mean=120.0, low=10.0, high=210.0)
"""An image's mean may lie 20 beyond."""


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (61, 94), (300, 7, 3), (5, 40, 3)])
def test_an_images_intensity_is_its_mean_and_two_of_its_values(depth: type, shape: tuple[int, ...]) -> None:
    top = np.iinfo(depth).max
    pixels = np.random.default_rng(1).integers(0, top, shape, depth, endpoint=True)
    found = measure_intensity(pixels)
    low, high = np.percentile(pixels, [1, 99], method="inverted_cdf")
    assert (found.low, found.high) == (low, high)
    assert found.mean == pytest.approx(sum(pixels.ravel().tolist()) / pixels.size, rel=1e-12)


@pytest.mark.parametrize("value", [0, 255])
def test_an_image_of_one_value_is_that_value(value: int) -> None:
    flat = np.full((9, 8), value, np.uint8)[:, ::2]
    assert measure_intensity(flat) == Intensity(value, value, value)


def test_a_trainings_images_span_a_range_for_each_depth() -> None:
    dim, bright, deep = Intensity(10, 1, 90), Intensity(60, 5, 200), Intensity(9000, 8, 64000)
    assert find_ranges([(8, dim), (16, deep), (8, bright)]) == (
        IntensityRange(8, 10, 60, 1, 200),
        IntensityRange(16, 9000, 9000, 8, 64000),
    )
    assert find_ranges([]) == ()


def look(image: str, mean: float, depth: int = 8) -> Brightness:
    return Brightness(image, depth, mean)


def test_images_beyond_a_trainings_means_or_of_another_depth_are_counted_and_the_first_is_named() -> None:
    dim, bright = [look("a", 80.0), look("b", 140.0)], [look("c", 140.5), look("d", 79.0)]
    parts = [dim, [*bright, look("e", 110.0, 16)], []]
    found = count_outside(parts, (RANGE,))
    assert found is not None
    assert (found.images, found.of, found.first) == (3, 5, "c")
    deep = replace(RANGE, bit_depth=16)
    found = count_outside(parts, (RANGE, deep))
    assert found is not None
    assert (found.images, found.first) == (2, "c")


def test_without_a_range_nothing_is_said() -> None:
    assert count_outside([[look("a", 80.0)]], ()) is None
