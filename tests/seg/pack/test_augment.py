from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from seg.pack.crops import Change, Window, change_image, change_mask, draw_change
from seg.recipe import Augmentation

HEIGHT, WIDTH = 64, 96
MOVES = [(17.0, 1.0), (-90.0, 1.0), (0.0, 1.6), (0.0, 0.6), (-140.0, 0.8)]
WHOLE = Window(0, 0, (HEIGHT, WIDTH))


def draw(dtype: type[np.generic], *channels: int) -> NDArray[Any]:
    """An image whose values lie well within its type's range, smooth enough to be interpolated."""
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 0.8, (1, 3, 9, 13)))
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 1)
    values = (smooth.movedim(0, -1).numpy() * float(np.iinfo(dtype).max)).astype(dtype)
    return values if channels else np.ascontiguousarray(values[..., 0])


def as_torchvision(change: Change) -> dict[str, Any]:
    """Its angles are clockwise."""
    return {"angle": -change.degrees, "translate": [0, 0], "scale": change.scale, "shear": [0.0, 0.0]}


def is_inside(change: Change, margin_px: float) -> NDArray[np.bool_]:
    """Pixels whose source, mapped back by hand, lies at least so far inside the crop."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    across, down = columns - (WIDTH - 1) / 2, rows - (HEIGHT - 1) / 2
    angle = np.deg2rad(change.degrees)
    source_across = (np.cos(angle) * across - np.sin(angle) * down) / change.scale + (WIDTH - 1) / 2
    source_down = (np.sin(angle) * across + np.cos(angle) * down) / change.scale + (HEIGHT - 1) / 2
    return (
        (source_across >= margin_px)
        & (source_across <= WIDTH - 1 - margin_px)
        & (source_down >= margin_px)
        & (source_down <= HEIGHT - 1 - margin_px)
    )


@pytest.mark.parametrize(("degrees", "scale"), MOVES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_image_moves_as_torchvision_moves_it(
    dtype: type[np.generic], channels: tuple[int, ...], degrees: float, scale: float
) -> None:
    image, change = draw(dtype, *channels), Change(degrees, scale, 1.0, 1.0)
    changed = change_image(image, WHOLE, change)
    assert (changed.dtype, changed.shape) == (np.float32, image.shape)
    planes = torch.from_numpy(image.astype(np.float32)).reshape(HEIGHT, WIDTH, -1).movedim(-1, 0)
    expected = F.affine_image(planes, **as_torchvision(change), interpolation=InterpolationMode.BILINEAR)
    inside = is_inside(change, 1.0)
    difference = np.abs(changed.reshape(HEIGHT, WIDTH, -1) - expected.movedim(0, -1).numpy())[inside]
    # float32 coordinates here and there, and OpenCV's fractions of 1/32 pixel: times the steepest slope
    assert inside.sum() > 100
    assert difference.max() < 0.01 * np.iinfo(dtype).max


@pytest.mark.parametrize(("degrees", "scale"), MOVES)
def test_truth_is_the_nearest_pixels_and_255_from_outside(degrees: float, scale: float) -> None:
    mask = np.random.default_rng(1).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8).repeat(4, 0)[:HEIGHT]
    change = Change(degrees, scale, 1.0, 1.0)
    changed = change_mask(mask, WHOLE, change)
    expected = F.affine_image(
        torch.from_numpy(mask)[None].float(),
        **as_torchvision(change),
        interpolation=InterpolationMode.NEAREST,
        fill=[255.0],
    )[0]
    assert np.mean(changed == expected.numpy()) > 0.97  # sources half-way between two pixels go either way
    assert (changed[~is_inside(change, -1.0)] == 255).all()
    assert (changed[is_inside(change, 0.0)] != 255).all()
    assert set(np.unique(changed)) <= {0, 1, 2, 3, 4, 255}


def find_sources(window: Window, change: Change) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column of the image, float64 [h, w] each, that a changed crop's pixels come from, by hand."""
    (height, width), (upside_down, mirrored) = window.size, window.flips
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    down, across = rows - (height - 1) / 2, columns - (width - 1) / 2
    angle = np.deg2rad(change.degrees)
    source_down = (np.sin(angle) * across + np.cos(angle) * down) / change.scale + (height - 1) / 2
    source_across = (np.cos(angle) * across - np.sin(angle) * down) / change.scale + (width - 1) / 2
    source_down = height - 1 - source_down if upside_down else source_down
    source_across = width - 1 - source_across if mirrored else source_across
    return window.top + source_down, window.left + source_across


def interpolate(image: NDArray[Any], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[Any]:
    """Bilinear values of an image [H, W] at places, in float64; 0 beyond its edge."""
    framed = np.pad(image.astype(np.float64), 1)
    top, left = np.floor(rows).clip(-1, HEIGHT - 1), np.floor(columns).clip(-1, WIDTH - 1)
    down, across = (rows - top).clip(0, 1), (columns - left).clip(0, 1)
    row, column = top.astype(int) + 1, left.astype(int) + 1
    upper = framed[row, column] * (1 - across) + framed[row, column + 1] * across
    lower = framed[row + 1, column] * (1 - across) + framed[row + 1, column + 1] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize(("degrees", "scale"), [*MOVES, (0.0, 0.75)])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("place", [(0, 0), (16, 24), (32, 64)])
def test_a_changed_crop_is_the_whole_image_warped_in_float64(
    degrees: float, scale: float, flips: tuple[bool, bool], place: tuple[int, int]
) -> None:
    image, change = draw(np.uint16), Change(degrees, scale, 1.0, 1.0)
    mask = np.random.default_rng(1).integers(0, 5, (HEIGHT, WIDTH), dtype=np.uint8)
    window = Window(*place, (32, 32), flips)
    rows, columns = find_sources(window, change)
    changed = change_image(image, window, change)
    assert changed.shape == (32, 32)
    inside = (rows >= 0) & (rows <= HEIGHT - 1) & (columns >= 0) & (columns <= WIDTH - 1)
    # OpenCV's coordinates are multiples of 1/32 pixel: half of that along both axes times the steepest slope
    steepest = max(np.abs(np.diff(image.astype(float), axis=axis)).max() for axis in (0, 1))
    assert np.abs(changed - interpolate(image, rows, columns))[inside].max() <= 2 * steepest / 64 + 1
    truth = change_mask(mask, window, change)
    outside = (rows < -1) | (rows > HEIGHT) | (columns < -1) | (columns > WIDTH)
    assert (changed[outside] == 0).all()
    assert (truth[outside] == 255).all()
    half_way = np.any([np.abs(np.abs(at % 1) - 0.5) < 1 / 32 for at in (rows, columns)], axis=0)
    sure = inside & ~half_way
    nearest = mask[rows[sure].round().astype(int), columns[sure].round().astype(int)]
    np.testing.assert_array_equal(truth[sure], nearest)
    assert (truth[inside] != 255).all()


def test_nothing_is_missing_from_a_crop_that_the_image_surrounds() -> None:
    image, mask = np.full((HEIGHT, WIDTH), 9, np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    window = Window(16, 32, (32, 32))
    for degrees in range(0, 360, 15):
        change = Change(float(degrees), 0.75, 1.0, 1.0)
        assert (change_image(image, window, change) == 9).all()
        assert (change_mask(mask, window, change) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("brightness", [0.7, 1.0, 1.9])
@pytest.mark.parametrize("contrast", [0.2, 1.0, 1.8])
def test_brightness_multiplies_then_contrast_stretches_about_the_mean_within_the_range(
    dtype: type[np.generic], channels: tuple[int, ...], brightness: float, contrast: float
) -> None:
    image = draw(dtype, *channels)
    full = float(np.iinfo(dtype).max)
    bright = np.minimum(image.astype(np.float64) * brightness, full)
    expected = np.clip((bright - bright.mean()) * contrast + bright.mean(), 0, full)
    changed = change_image(image, WHOLE, Change(0.0, 1.0, brightness, contrast))
    np.testing.assert_allclose(changed, expected, rtol=1e-5, atol=1e-6 * full)  # float32


def test_what_chance_draws_follows_from_the_generator_and_stays_within_the_recipe() -> None:
    settings = Augmentation(rotate_degrees=20, scale=(0.7, 1.4), brightness=0.3, contrast=0.1)
    changes = [draw_change(settings, np.random.default_rng(seed)) for seed in range(500)]
    assert changes == [draw_change(settings, np.random.default_rng(seed)) for seed in range(500)]
    for values, low, high in (
        ([change.degrees for change in changes], -20, 20),
        ([change.scale for change in changes], 0.7, 1.4),
        ([change.brightness for change in changes], 0.7, 1.3),
        ([change.contrast for change in changes], 0.9, 1.1),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)  # 500 draws come that near the ends
        assert high - 0.05 * (high - low) < max(values) <= high


def test_what_a_recipe_does_not_ask_for_changes_nothing() -> None:
    random = np.random.default_rng(0)
    assert draw_change(Augmentation(), random) == Change(0.0, 1.0, 1.0, 1.0)
    moved = draw_change(Augmentation(rotate_degrees=9), random)
    assert (moved.scale, moved.brightness, moved.contrast) == (1.0, 1.0, 1.0)
    image = draw(np.uint8)
    np.testing.assert_array_equal(change_image(image, WHOLE, Change(0.0, 1.0, 1.0, 1.0)), image)
