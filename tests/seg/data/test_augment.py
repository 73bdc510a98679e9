import numpy as np
import pytest
import torch
from torch import Tensor

from seg.data.augment import build_augmentation
from seg.recipe import Augmentation


def draw(dtype: torch.dtype = torch.uint8, frames: int = 1, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Images [frames, channels, 64, 96] whose pixels above the middle are of class 1, and their mask."""
    top = torch.iinfo(dtype).max
    random = np.random.default_rng(0).uniform(0.1, 0.8, (frames, channels, 64, 96))
    images = torch.from_numpy((random * top).astype(np.uint16 if dtype == torch.uint16 else np.uint8))
    return images, (images[-1, 0].float() > top / 2).to(torch.uint8)


def test_a_recipe_that_asks_for_nothing_leaves_crops_as_stored() -> None:
    assert build_augmentation(Augmentation()) is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_the_seed_decides_and_the_global_generator_is_left_alone(dtype: torch.dtype) -> None:
    augment = build_augmentation(Augmentation(rotate_degrees=20, scale=(0.7, 1.4), brightness=0.3))
    assert augment is not None
    images, mask = draw(dtype)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (augment(images, mask, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].dtype == torch.float32
    assert first[1].dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_brightness_is_one_factor_for_all_pixels_in_stored_intensities(dtype: torch.dtype) -> None:
    augment = build_augmentation(Augmentation(brightness=0.2))
    assert augment is not None
    images, mask = draw(dtype, frames=3)
    for seed in range(5):
        changed, truth = augment(images, mask, seed)
        factors = changed / images.float()
        assert 0.8 <= float(factors.mean()) <= 1.2
        assert float(factors.std()) < 1e-5  # float32; below the range's end nothing saturates
        assert torch.equal(truth, mask)


def test_contrast_stretches_about_the_mean() -> None:
    augment = build_augmentation(Augmentation(contrast=0.2))
    assert augment is not None
    images, mask = draw(torch.uint16)
    changed, _ = augment(images, mask, 1)
    centred, stretched = (values - values.mean() for values in (images.double(), changed.double()))
    factor = float((stretched * centred).sum() / (centred * centred).sum())
    assert 0.8 <= factor <= 1.2
    torch.testing.assert_close(stretched, factor * centred, rtol=0, atol=1)  # of 65535


@pytest.mark.parametrize("settings", [Augmentation(rotate_degrees=30), Augmentation(scale=(0.5, 0.9))])
def test_what_comes_from_outside_is_ignored_and_truth_stays_on_its_pixels(settings: Augmentation) -> None:
    augment = build_augmentation(settings)
    assert augment is not None
    rows, columns = np.mgrid[:64, :96]
    mask = torch.from_numpy((np.hypot(rows - 32, columns - 48) < 25).astype(np.uint8))
    images = (50 + 150 * mask)[None, None]
    anything = False
    for seed in range(5):
        changed, truth = augment(images, mask, seed)
        outside = truth == 255
        anything |= bool(outside.any())
        assert set(truth.unique().tolist()) <= {0, 1, 255}
        # bilinear pixels, nearest truth: they part on the disc's edge alone
        apart = ((changed[0, 0] > 125) != (truth == 1)) & ~outside
        assert float(apart.float().mean()) < 0.03
    assert anything


def test_all_frames_of_a_window_move_alike() -> None:
    augment = build_augmentation(Augmentation(rotate_degrees=20, scale=(0.7, 1.4), contrast=0.2))
    assert augment is not None
    images, mask = draw()
    changed, _ = augment(images.expand(3, 1, 64, 96).contiguous(), mask, 4)
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2])
