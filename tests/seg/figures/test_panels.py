from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seg.data.images import decode_image
from seg.figures.panels import (
    CONFUSED,
    HATCH,
    IGNORED,
    INVENTED,
    MISSED,
    TINT,
    Kind,
    class_colours,
    classify_errors,
    fit_size,
    show_errors,
    show_mask,
    show_overlay,
    show_pixels,
    to_rgb,
)

OBJECTS, SCENE = ("background", "cell", "debris"), ("sky", "road", "tree")


def make_masks(
    num_classes: int = 3, size: tuple[int, int] = (17, 23), seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    truth, prediction = np.random.default_rng(seed).integers(0, num_classes, (2, *size), dtype=np.uint8)
    truth[2:4] = 255
    return truth, prediction


def colours_of(panel: NDArray[np.uint8], where: NDArray[np.bool_]) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in panel[where].tolist()}


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.integers(1, 1000))
def test_a_panel_has_the_images_proportions_and_fits(height: int, width: int, side: int) -> None:
    shown = fit_size(height, width, side)
    assert max(shown) == side
    assert min(shown) >= 1
    exact = min(height, width) * side / max(height, width)
    assert abs(min(shown) - max(1, exact)) <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(700, 300), (300, 700, 3), (30, 20)])
def test_an_image_of_any_depth_is_shown_from_black_to_white(
    dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    ramp = np.linspace(40, 90, shape[0] * shape[1]).reshape(shape[:2])
    pixels = (ramp if len(shape) == 2 else np.repeat(ramp[:, :, None], 3, 2)).astype(dtype)
    size = fit_size(shape[0], shape[1], 400)
    panel = show_pixels(pixels, size)  # type: ignore[arg-type]
    assert panel.shape == (*size, 3)
    assert panel.dtype == np.uint8
    assert panel.min() == 0
    assert panel.max() == 255
    assert 100 < panel.mean() < 155  # a ramp stays one


def test_16_bits_of_real_nuclei_do_not_go_black(shared_data: Path) -> None:
    files = sorted((shared_data / "nuclei16/images").iterdir())[::8]
    for file in files:
        panel = show_pixels(decode_image(file.read_bytes()), (90, 120))
        assert panel.max() == 255
        assert panel.std() > 25


def test_a_flat_image_is_black_and_warns_of_nothing() -> None:
    assert show_pixels(np.full((20, 20), 900, np.uint16), (40, 40)).max() == 0


def test_a_small_image_is_enlarged_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    panel = show_pixels(pixels, (50, 70))
    assert np.array_equal(panel, np.repeat(np.repeat(panel[::10, ::10], 10, 0), 10, 1))


def test_a_large_image_is_reduced_by_area() -> None:
    board = np.indices((200, 200)).sum(0).astype(np.uint16) % 2 * 1000
    board[:, :100] = 0
    panel = show_pixels(board, (50, 50))
    assert colours_of(panel, np.ones((50, 50), bool)) == {(0, 0, 0), (255, 255, 255)}
    assert (panel[:, 25:] == 255).all()  # the board's mean, not one of its colours by chance


def test_a_mask_is_drawn_in_its_classes_colours_and_ignored_pixels_are_hatched() -> None:
    mask, _ = make_masks()
    panel = show_mask(mask, mask.shape, OBJECTS)
    for number, colour in enumerate(class_colours(OBJECTS)):
        assert colours_of(panel, mask == number) == {to_rgb(colour)}
    assert colours_of(panel, mask == 255) == {to_rgb(IGNORED), to_rgb(HATCH)}


@pytest.mark.parametrize("size", [(30, 19), (200, 126)])
def test_a_resized_mask_has_the_id_at_each_pixels_centre(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).choice([0, 2], (97, 61)).astype(np.uint8)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, (97, 61), strict=True)
    )
    centres = mask[rows[:, None], columns]
    colours = np.array([to_rgb(colour) for colour in class_colours(OBJECTS)])
    found = show_mask(mask, size, OBJECTS)
    assert np.mean((found == colours[centres]).all(2)) > 0.99  # OpenCV's scale is a fixed-point number
    assert colours_of(found, np.ones(size, bool)) == {tuple(colours[0]), tuple(colours[2])}


@pytest.mark.parametrize("classes", [OBJECTS, SCENE])
def test_kinds_of_error_are_those_of_each_pixel(classes: tuple[str, ...]) -> None:
    truth, prediction = make_masks()
    kinds = classify_errors(truth, prediction, classes)
    for place in np.ndindex(truth.shape):
        true, predicted = truth[place], prediction[place]
        if true == 255:
            assert kinds[place] == Kind.IGNORED
        elif true == predicted:
            assert kinds[place] == Kind.RIGHT
        elif classes == SCENE or predicted == 0:
            assert kinds[place] == Kind.MISSED
        else:
            assert kinds[place] == (Kind.INVENTED if true == 0 else Kind.CONFUSED)


@pytest.mark.parametrize("classes", [OBJECTS, SCENE])
@pytest.mark.parametrize("seed", range(5))
def test_wrong_pixels_are_strong_right_ones_dim_and_gray_and_ignored_ones_hatched(
    classes: tuple[str, ...], seed: int
) -> None:
    truth, prediction = make_masks(seed=seed)
    image = np.random.default_rng(seed).integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
    panel = show_errors(image, truth, prediction, classes)
    ignored, right = truth == 255, (truth == prediction) & (truth != 255)
    strong = {
        to_rgb(colour) for colour in ((MISSED, INVENTED, CONFUSED) if classes == OBJECTS else (MISSED,))
    }
    assert colours_of(panel, ~ignored & ~right) == strong
    assert colours_of(panel, ignored) == {to_rgb(IGNORED), to_rgb(HATCH)}
    assert panel[right].max() <= 0.4 * 255
    assert (panel[right] == panel[right][:, :1]).all()
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[right]
    assert np.corrcoef(gray, panel[right][:, 0])[0, 1] > 0.99  # it is the image


def test_no_image_is_changed_by_being_shown() -> None:
    truth, prediction = make_masks()
    image = np.random.default_rng(0).integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
    before = [array.copy() for array in (image, truth, prediction)]
    show_errors(image, truth, prediction, OBJECTS)
    show_mask(truth, truth.shape, OBJECTS)
    for array, was in zip((image, truth, prediction), before, strict=True):
        assert np.array_equal(array, was)


@pytest.mark.parametrize("classes", [OBJECTS, SCENE])
def test_an_overlay_tints_objects_and_draws_where_classes_meet(classes: tuple[str, ...]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    mask = np.zeros((19, 23), np.uint8)
    mask[4:11, 3:14], mask[8:17, 9:20] = 1, 2
    panel = show_overlay(image, mask, classes)
    colours = [np.array(to_rgb(colour), np.float64) for colour in class_colours(classes)]
    for row, column in np.ndindex(mask.shape):
        around = mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        seen, colour = image[row, column].astype(np.float64), colours[mask[row, column]]
        expected = colour if len(np.unique(around)) > 1 else (1 - TINT) * seen + TINT * colour
        if mask[row, column] == 0 and classes is OBJECTS:
            expected = seen
        assert np.abs(panel[row, column] - expected).max() <= 0.51  # rounded
