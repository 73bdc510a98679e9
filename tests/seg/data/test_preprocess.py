import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torchvision.transforms._presets import ImageClassification

from seg.data.preprocess import (
    Statistics,
    choose_statistics,
    image_statistics,
    normalise,
    own_statistics,
    pool_statistics,
    preprocess,
    shrink_mask,
    working_size,
)
from seg.errors import RequestError, UnsupportedImage
from seg.recipe import Preprocessing


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
    assert small.shape == working_size(height, width, Preprocessing(shrink=shrink))
    assert min(small.shape) >= 1


@given(st.integers(1, 250), st.integers(1, 250), st.floats(1, 5))
def test_a_shrunk_mask_has_the_class_at_each_centre(height: int, width: int, shrink: float) -> None:
    small = working_size(height, width, Preprocessing(shrink=shrink))
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


def test_a_fixed_size_is_the_working_size_of_every_image() -> None:
    settings = Preprocessing(size_px=(48, 80))
    for shape in ((97, 130), (20, 300), (48, 80), (1, 1)):
        assert preprocess(np.zeros(shape, np.uint8), settings).shape == (48, 80)


def test_enlarging_interpolates_between_pixels() -> None:
    ramp = np.tile(np.arange(0, 200, 20, dtype=np.uint8), (10, 1))
    wide = preprocess(ramp, Preprocessing(size_px=(10, 40))).astype(int)
    # bilinear with half-pixel centres: 5 a step, flat over the half pixel at each end
    np.testing.assert_allclose(np.diff(wide[0])[2:-2], 5, atol=1)  # each pixel is rounded


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blur_is_the_mean_of_the_neighbours(dtype: type) -> None:
    image = draw((30, 41), dtype)
    blurred = preprocess(image, Preprocessing(blur_px=3))
    expected = uniform_filter(image.astype(np.float64), 3, mode="mirror")
    assert np.abs(blurred - expected).max() <= 0.51  # rounded to the nearest


def test_steps_come_in_their_order() -> None:
    image = draw((60, 90), np.uint8)
    settings = Preprocessing(blur_px=3, shrink=2, clahe_clip=5, clahe_grid=4)
    small = cv2.resize(cv2.blur(image, (3, 3)), (45, 30), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(preprocess(image, settings), cv2.createCLAHE(5, (4, 4)).apply(small))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_equalisation_brings_out_what_is_faint_at_either_depth(dtype: type) -> None:
    top = np.iinfo(dtype).max
    faint = (top * (0.5 + 0.02 * np.sin(np.arange(128) / 6))).astype(dtype)
    image = np.tile(faint, (128, 1))
    equalised = preprocess(image, Preprocessing(clahe_clip=5, clahe_grid=2))
    assert equalised.dtype == dtype
    assert np.ptp(equalised.astype(float)) > 3 * np.ptp(image.astype(float))
    if dtype == np.uint16:
        image[5, 5] = top  # a hot pixel changes nothing elsewhere but by the percentiles' rounding
        again = preprocess(image, Preprocessing(clahe_clip=5, clahe_grid=2))
        assert np.ptp(again.astype(float)) > 3 * np.ptp(faint.astype(float))


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (19, 19)])
def test_images_smaller_than_the_equalisation_grid_keep_their_size(shape: tuple[int, int]) -> None:
    assert preprocess(draw(shape, np.uint16), Preprocessing(clahe_clip=5)).shape == shape


def normalised(image: NDArray[np.generic], settings: Preprocessing) -> NDArray[np.float32]:
    own = own_statistics(image, settings)
    mean, std = (torch.tensor([values], dtype=torch.float64) for values in (own.mean, own.std))
    pixels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return normalise(torch.from_numpy(pixels.copy())[None], mean, std)[0].numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_percentiles_become_0_and_1(dtype: type) -> None:
    image = np.sqrt(draw((50, 40, 3), dtype)).astype(dtype)
    settings = Preprocessing(channels=3, normalisation="percentile", percentiles=(5, 90))
    shares = normalised(image, settings)
    for channel in range(3):
        low, high = np.percentile(image[..., channel].astype(np.float64), (5, 90))
        expected = (image[..., channel] - low) / (high - low)
        np.testing.assert_allclose(shares[channel], expected, atol=1e-5)  # float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_full_range_is_the_share_of_the_depth(dtype: type) -> None:
    image = draw((50, 40), dtype)
    shares = normalised(image, Preprocessing(normalisation="full_range"))[0]
    np.testing.assert_allclose(shares, image / np.iinfo(dtype).max, atol=1e-6)  # float32


def test_imagenet_is_what_torchvisions_weights_want() -> None:
    image = draw((64, 64, 3), np.uint8)
    theirs = ImageClassification(crop_size=64, resize_size=64)(torch.from_numpy(image).permute(2, 0, 1))
    ours = normalised(image, Preprocessing(channels=3, normalisation="imagenet"))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)  # float32
