from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg.check.copies import Copy, count_scenes, find_copies


def draw_scene(seed: int, ground: int | None = None) -> NDArray[np.float64]:
    """Ten spots of one scene, [96, 96], on a strong ground of its own or of a sequence."""
    random = np.random.default_rng(seed)
    scene = np.zeros((96, 96))
    for row, column in random.integers(8, 88, (10, 2)):
        scene = np.maximum(scene, cv2.circle(np.zeros((96, 96)), (int(column), int(row)), 6, 40.0, -1))
    if ground is not None:
        rows, columns = np.ogrid[:96, :96]
        scene += 300 * np.sin((rows * (ground + 1) + columns * 3) / 9.0) + 0.8 * rows
    return scene + 100


def shrink(images: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    return np.stack([image.reshape(32, 3, 32, 3).mean((1, 3)) for image in images]).astype(np.float32)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_lighter_noisy_copy_is_found_and_other_scenes_are_not(turns: int, mirrored: bool) -> None:
    images = [draw_scene(seed) for seed in range(5)]
    copy = np.rot90(images[3][::-1] if mirrored else images[3], turns)
    noise = np.random.default_rng(9).normal(0, 6, copy.shape)
    images.append(1.4 * copy + 20 + noise)
    (found,) = find_copies(shrink(images), range(6))
    assert (found.first, found.second) == (3, 5)
    assert 0.98 <= found.correlation <= 1


def test_what_stays_in_a_sequence_is_no_likeness() -> None:
    frames = [draw_scene(seed, ground=0) for seed in range(6)]
    assert find_copies(shrink(frames), ["s"] * 6) == []
    alike = find_copies(shrink(frames), range(6))  # the same frames, were they of no sequence
    assert len(alike) > 0
    again = find_copies(shrink([*frames, frames[2]]), ["s"] * 7)
    assert [(pair.first, pair.second) for pair in again] == [(2, 6)]


def test_images_of_one_value_are_no_copies() -> None:
    assert find_copies(np.full((3, 32, 32), 7, np.float32), range(3)) == []
    assert find_copies(np.empty((0, 32, 32), np.float32), ()) == []


def test_scenes_are_counted_as_by_growing_groups() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        pairs = [pair for pair in combinations(range(9), 2) if random.random() < 0.12]
        groups = [{place} for place in range(9)]
        for first, second in pairs:
            joined = [group for group in groups if group & {first, second}]
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
        assert count_scenes([Copy(*pair, 1.0) for pair in pairs], 9) == len(groups)
