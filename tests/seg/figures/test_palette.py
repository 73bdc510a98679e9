from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg.figures.panels import (
    BACKGROUND,
    COLOURS,
    CONFUSED,
    IGNORED,
    INVENTED,
    MISSED,
    class_colours,
    error_legend,
    to_rgb,
)

SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as it is seen (Machado et al. 2009, severity 1)."""


def see(colour: str, sight: str) -> NDArray[np.float32]:
    """A colour in CIELAB, where a distance of 2.3 is just noticeable side by side."""
    encoded = np.array(to_rgb(colour)) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(SIGHT[sight] @ linear, 0, 1)
    again = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(again.astype(np.float32)[None, None], cv2.COLOR_RGB2Lab)[0, 0]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(("count", "distance"), [(12, 13.5), (32, 6.5)])
def test_all_eyes_tell_classes_background_and_ignored_apart(count: int, distance: float, sight: str) -> None:
    seen = {colour: see(colour, sight) for colour in (*COLOURS[:count], BACKGROUND, IGNORED)}
    assert len(seen) == count + 2
    nearest = min(combinations(seen, 2), key=lambda pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]))
    assert np.linalg.norm(seen[nearest[0]] - seen[nearest[1]]) >= distance, nearest


@pytest.mark.parametrize("sight", SIGHT)
def test_all_eyes_tell_errors_from_one_another_and_from_dim_gray(sight: str) -> None:
    seen = [see(colour, sight) for colour in (MISSED, INVENTED, CONFUSED, IGNORED, "#000000", "#666666")]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) >= 10


@pytest.mark.parametrize("count", [1, 2, 11, 32, 40])
def test_classes_up_to_32_have_colours_of_their_own(count: int) -> None:
    colours = class_colours([f"class {n}" for n in range(count)])
    assert len(colours) == count
    assert len(set(colours)) == min(count, 32)


def test_a_class_keeps_its_colour_as_more_are_added() -> None:
    few, many = (class_colours(("background", *map(str, range(n)))) for n in (3, 20))
    assert many[:4] == few
    assert few[0] == BACKGROUND
    assert few[1:] == list(COLOURS[:3])


def test_errors_are_told_as_far_as_classes_allow() -> None:
    assert [colour for _, colour in error_legend(("sky", "road"))] == [MISSED]
    assert [colour for _, colour in error_legend(("background", "cell"))] == [MISSED, INVENTED]
    assert [colour for _, colour in error_legend(("background", "a", "b"))] == [MISSED, INVENTED, CONFUSED]


def test_a_colours_name_becomes_its_numbers() -> None:
    assert to_rgb("#0a10ff") == (10, 16, 255)
