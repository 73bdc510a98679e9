from dataclasses import replace
from math import ceil, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.check.plan import (
    HALO_PX,
    LEAST_STEPS,
    MOST_EPOCHS,
    OBJECT_PX,
    RECIPE,
    TILE_PX,
    WORKING_PX,
    Fingerprint,
    plan_training,
)
from seg.data.preprocess import working_size
from seg.predict.tiling import place_grid
from seg.recipe import recipe_identity
from seg.recipes import RECIPES


def make(**changes: Any) -> Fingerprint:
    """An archive like the simulator's: frames of 3072 pixels, cells of 90 to 220."""
    widths = np.linspace(90, 220, 40)
    usual = Fingerprint(
        sizes=[(3072, 3072)] * 24,
        is_colour=False,
        class_pixels=np.array([16_000_000, 1_000_000]),
        widths=widths,
        areas=(widths**2).astype(np.int64),
        train_images=24,
    )
    return replace(usual, **changes)


def test_an_archive_like_the_recipes_own_gets_its_recipe() -> None:
    assert recipe_identity(plan_training(make()).fitted) == recipe_identity(RECIPES[RECIPE])
    assert plan_training(make()).params == {}


def test_small_images_get_one_window_and_a_crop_that_fits() -> None:
    plan = plan_training(make(sizes=[(200, 300), (130, 500)], widths=np.array([20.0]), areas=np.array([300])))
    assert plan.params == {
        "preprocessing.shrink": 1.0,
        "crops.size_px": (128, 256),
        "tiling.crop_px": (224, 512),
        "tiling.halo_px": 0,
    }


def test_specks_do_not_keep_images_large_nor_make_crops_small() -> None:
    widths = np.concatenate([np.full(5000, 1.0), np.full(20, 450.0)])
    areas = np.concatenate([np.full(5000, 2), np.full(20, 150_000)])
    recipe = plan_training(make(widths=widths, areas=areas)).fitted
    assert recipe.preprocessing.shrink == 3
    assert recipe.crops.size_px == (512, 512)  # 450 / 3 is over half of 256


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"is_colour": True}, "preprocessing.channels", 3),
        ({"widths": np.full(9, 40.0), "areas": np.full(9, 1200)}, "preprocessing.shrink", 1.0),
        ({"sizes": [(1500, 2100)]}, "preprocessing.shrink", 2.0),
        ({"class_pixels": np.array([90, 9, 1, 0])}, "class_weights", (1.0, 3.2, 9.5, 1.0)),
        ({"class_pixels": np.array([10**6, 3])}, "class_weights", (1.0, 10.0)),
        ({"class_pixels": np.array([50, 50])}, "class_weights", ()),
        ({"class_pixels": np.array([20, 80])}, "class_weights", (2.0, 1.0)),
        ({"train_images": 6}, "epochs", ceil(LEAST_STEPS / (6 * 16 // 8))),
        ({"train_images": 1}, "epochs", MOST_EPOCHS),
        ({"train_images": 10_000}, "epochs", RECIPES[RECIPE].epochs),
    ],
)
def test_each_rule_sets_its_field(changes: dict[str, Any], field: str, value: object) -> None:
    plan = plan_training(make(**changes))
    found = {choice.field: choice.value for choice in plan.choices}
    assert found[field] == value


def test_a_label_map_goes_into_the_recipe() -> None:
    plan = plan_training(make(), ((2, 1), (3, 1)))
    assert plan.params == {"label_map": ((2, 1), (3, 1))}
    assert plan.fitted.label_map == ((2, 1), (3, 1))


@given(
    sizes=st.lists(st.tuples(st.integers(32, 5000), st.integers(32, 5000)), min_size=1, max_size=6),
    widths=st.lists(st.floats(1, 900), max_size=8),
    pixels=st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
    images=st.integers(0, 3000),
)
def test_any_data_set_gets_a_recipe_that_its_images_fit(
    sizes: list[tuple[int, int]], widths: list[float], pixels: list[int], images: int
) -> None:
    areas = np.maximum(1, np.square(widths)).astype(np.int64)
    data = make(
        sizes=sizes,
        widths=np.array(widths, np.float64),
        areas=areas,
        class_pixels=np.array(pixels),
        train_images=images,
    )
    recipe = plan_training(data).fitted  # what does not go together is refused here
    for size in sizes:
        small = working_size(*size, recipe.preprocessing)
        if recipe.preprocessing.shrink > 1:
            assert np.median([max(one) for one in sizes]) >= recipe.preprocessing.shrink * WORKING_PX
        if min(small) >= 32:
            assert all(crop <= side for crop, side in zip(recipe.crops.size_px, small, strict=True))
        grid = place_grid(small, size, recipe.tiling)
        assert (len(grid.tiles) == 1) if recipe.tiling.halo_px == 0 else recipe.tiling.halo_px == HALO_PX
    assert max(recipe.tiling.crop_px) <= TILE_PX
    if recipe.preprocessing.shrink > 1:
        wide_enough = np.array(widths) >= recipe.preprocessing.shrink * OBJECT_PX
        assert areas[wide_enough].sum() >= 0.75 * areas.sum() * (1 - 1e-9)
    for count, weight in zip(pixels, recipe.class_weights or [1.0] * len(pixels), strict=True):  # type: ignore[arg-type]
        assert not count or weight == pytest.approx(min(10, sqrt(max(pixels) / count)), abs=0.051)


def test_nothing_fits_no_image() -> None:
    with pytest.raises(ValueError, match="no image"):
        plan_training(make(sizes=[]))
