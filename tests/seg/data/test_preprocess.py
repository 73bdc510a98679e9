import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seg.data.preprocess import (
    Statistics,
    choose_statistics,
    image_statistics,
    normalise,
    pool_statistics,
    preprocess,
    shrink_mask,
    working_size,
)
from seg.errors import RequestError, UnsupportedImage
from seg.recipes import Preprocessing


def draw(shape: tuple[int, ...], dtype: type, seed: int = 0) -> NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shrink", [2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_shrink_is_the_mean_of_each_block(dtype: type, shrink: int, channels: int) -> None:
    shape = (7 * shrink, 11 * shrink) if channels == 1 else (7 * shrink, 11 * shrink, 3)
    image = draw(shape, dtype)
    small = preprocess(image, Preprocessing(channels=channels, shrink=shrink))
    blocks = image.astype(np.float64).reshape(7, shrink, 11, shrink, -1).mean((1, 3))
    assert small.dtype == dtype
    # rounded to the nearest: half a step; float32 sums of 16-bit values are off by under 0.01
    assert np.abs(small.reshape(7, 11, -1) - blocks).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_equal_channels_become_gray_exactly_and_gray_is_repeated(dtype: type) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    repeated = np.dstack([levels] * 3)
    np.testing.assert_array_equal(preprocess(repeated, Preprocessing()), levels)
    np.testing.assert_array_equal(preprocess(levels, Preprocessing(channels=3)), repeated)


def test_colour_becomes_luma_with_red_first() -> None:
    red, green, blue = (np.full((2, 2, 3), 200, np.uint8) * np.eye(3, dtype=np.uint8)[k] for k in range(3))
    for image, share in ((red, 0.299), (green, 0.587), (blue, 0.114)):  # ITU-R BT.601
        assert preprocess(image, Preprocessing())[0, 0] == round(share * 200)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1, 8))
def test_an_image_of_any_size_has_its_working_size(height: int, width: int, shrink: float) -> None:
    small = preprocess(np.zeros((height, width), np.uint8), Preprocessing(shrink=shrink))
    assert small.shape == working_size(height, width, shrink)
    assert min(small.shape) >= 1


@given(st.integers(1, 250), st.integers(1, 250), st.floats(1, 5))
def test_a_shrunk_mask_has_the_class_at_each_centre(height: int, width: int, shrink: float) -> None:
    small = working_size(height, width, shrink)
    places = np.indices((height, width)).astype(np.uint8)  # each pixel says where it is
    for axis, (full, part) in enumerate(zip((height, width), small, strict=True)):
        chosen = np.moveaxis(shrink_mask(places[axis], small), axis, -1)
        centres = (np.arange(part) + 0.5) * full / part
        # a centre on the border of two pixels may go to either; OpenCV steps in 1/65536 of a pixel
        assert np.abs(chosen + 0.5 - centres).max() <= 0.5 + 250 / 65536


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_float64(dtype: type, channels: int) -> None:
    image = draw((65, 43) if channels == 1 else (65, 43, 3), dtype)
    found = image_statistics(image)
    pixels = image.reshape(-1, channels).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)  # E[x^2] - E[x]^2 cancels some digits
    assert found.bit_depth == image.dtype.itemsize * 8


def test_pooled_statistics_are_those_of_all_pixels_together() -> None:
    images = [draw((5, 7, 3), np.uint16, 1), draw((40, 3, 3), np.uint16, 2) // 9, draw((1, 1, 3), np.uint16)]
    pooled = pool_statistics([(image_statistics(image), image.shape[0] * image.shape[1]) for image in images])
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    np.testing.assert_allclose(pooled.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(pooled.std, pixels.std(0), rtol=1e-9)


def test_images_of_two_depths_have_no_common_statistics() -> None:
    parts = [(image_statistics(draw((2, 2), dtype)), 4) for dtype in (np.uint8, np.uint16)]
    with pytest.raises(RequestError, match=r"images of \[8, 16\] bits together"):
        pool_statistics(parts)


def test_fitted_statistics_refuse_another_depth() -> None:
    fitted = Statistics((100.0,), (10.0,), 8)
    settings = Preprocessing(normalisation="fitted")
    assert choose_statistics(draw((2, 2), np.uint8), settings, fitted) is fitted
    with pytest.raises(UnsupportedImage, match="16 bits, the model was fitted on 8"):
        choose_statistics(draw((2, 2), np.uint16), settings, fitted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_normalised_pixels_have_no_mean_and_unit_variance(dtype: type) -> None:
    image = draw((50, 40), dtype)
    own = choose_statistics(image, Preprocessing(), None)
    mean, std = (torch.tensor([values], dtype=torch.float64) for values in (own.mean, own.std))
    pixels = normalise(torch.from_numpy(image)[None, None], mean, std)
    assert pixels.dtype == torch.float32
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-5)  # float32 sums of 2000 pixels
    assert float(pixels.std(correction=0)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_an_image_without_contrast_becomes_zeros(level: int) -> None:
    own = image_statistics(np.full((9, 9), level, np.uint8))
    mean, std = (torch.tensor([values], dtype=torch.float64) for values in (own.mean, own.std))
    assert not normalise(torch.full((1, 1, 9, 9), level, dtype=torch.uint8), mean, std).any()
