from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from seg.pack.crops import Change, change_image, change_mask, draw_change
from seg.recipe import Augmentation

HEIGHT, WIDTH = 64, 96
MOVES = [(17.0, 1.0), (-90.0, 1.0), (0.0, 1.6), (0.0, 0.6), (-140.0, 0.8)]


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
    changed = change_image(image, change)
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
    changed = change_mask(mask, change)
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
    changed = change_image(image, Change(0.0, 1.0, brightness, contrast))
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
    np.testing.assert_array_equal(change_image(image, Change(0.0, 1.0, 1.0, 1.0)), image)
