import numpy as np
import pytest

from seg.errors import RequestError
from seg.train.losses import median_frequency_weights


def count_pixels(masks: list[np.ndarray], num_classes: int) -> np.ndarray:
    return np.array([[int((mask == c).sum()) for c in range(num_classes)] for mask in masks])


def test_weights_are_the_papers_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    sides = [(8, 9), (30, 20), (5, 40), (12, 12)]
    masks = [random.choice([0, 0, 0, 0, 1, 1, 2, 3, 255], side).astype(np.uint8) for side in sides]
    masks[0][masks[0] == 3] = 0  # class 3 is in images 1, 2 and 3 alone, class 1 in image 2 alone
    for mask in (masks[0], masks[1], masks[3]):
        mask[mask == 1] = 255
    frequencies = []
    for c in range(4):
        having = [mask for mask in masks if (mask == c).any()]
        pixels = [pixel for mask in having for pixel in mask.ravel() if pixel != 255]
        frequencies.append(pixels.count(c) / len(pixels))
    middle = sum(sorted(frequencies)[1:3]) / 2
    expected = [middle / frequency for frequency in frequencies]
    assert median_frequency_weights(count_pixels(masks, 4)) == pytest.approx(expected, rel=1e-12)


def test_classes_that_are_equally_frequent_weigh_1() -> None:
    assert median_frequency_weights(np.full((3, 5), 7)) == (1.0,) * 5


def test_a_class_in_few_images_is_as_frequent_as_it_is_there() -> None:
    assert median_frequency_weights(np.array([[50, 50, 0], [90, 0, 10]])) == pytest.approx((0.5 / 0.7, 1, 5))


def test_an_image_of_ignored_pixels_changes_nothing() -> None:
    pixels = np.array([[50, 50, 3], [90, 0, 10]])
    with_empty = np.array([*pixels, [0, 0, 0]])
    assert median_frequency_weights(with_empty) == median_frequency_weights(pixels)


def test_counts_beyond_32_bits_stay_exact() -> None:
    assert median_frequency_weights(np.array([[2**53, 2**53], [2**53, 2**53]])) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("pixels", "ids"), [([[5, 0, 3, 0], [1, 0, 0, 0]], "1, 3"), (np.zeros((0, 2)), "0, 1"), ([[0]], "0")]
)
def test_classes_that_no_image_has_are_refused_by_id(pixels: list[list[int]], ids: str) -> None:
    with pytest.raises(RequestError) as raised:
        median_frequency_weights(np.array(pixels, np.int64))
    assert str(raised.value) == (
        f"class_weights median_frequency: no training image has a pixel of class id {ids}; "
        "give class_weights as numbers, one a class"
    )
