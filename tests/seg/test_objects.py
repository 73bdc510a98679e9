from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from seg.objects import CHUNK_PX, Objects, find_objects, object_rows

MASKS = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 1, 2, 3, 255]),
)


def flood(ids: NDArray[np.uint8]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Class and pixels (row, column) of each 8-connected component but those of 0 and 255, by walking."""
    left = {(row, column) for row, column in np.ndindex(*ids.shape) if ids[row, column] not in (0, 255)}
    found = []
    while left:
        waiting, kind = [left.pop()], 0
        pixels = []
        while waiting:
            row, column = waiting.pop()
            kind = int(ids[row, column])
            pixels.append((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)}
            near = {(y, x) for y, x in near & left if ids[y, x] == kind}
            left -= near
            waiting += near
        found.append((kind, sorted(pixels)))
    return found


def describe(ids: NDArray[np.uint8], least_px: int) -> list[tuple[Any, ...]]:
    """What objects are, said pixel by pixel: class, box, area, centroid, border; in their order."""
    rows = []
    for kind, pixels in flood(ids):
        ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
        box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        border = min(xs) == 0 or min(ys) == 0 or max(xs) == ids.shape[1] - 1 or max(ys) == ids.shape[0] - 1
        means = (float(Fraction(sum(xs), len(xs))), float(Fraction(sum(ys), len(ys))))
        if len(pixels) >= least_px:
            rows.append(((kind, box[1], box[0], pixels[0]), (kind, box, len(pixels), means, border)))
    return [row for _, row in sorted(rows)]


def listed(objects: Objects) -> list[tuple[Any, ...]]:
    return [
        (kind, tuple(box), area, tuple(centroid), border)
        for kind, box, area, centroid, border in zip(
            objects.class_ids.tolist(),
            objects.boxes.tolist(),
            objects.areas.tolist(),
            objects.centroids.tolist(),
            objects.touches_border.tolist(),
            strict=True,
        )
    ]


@given(MASKS, st.sampled_from([1, 2, 5]))
def test_objects_are_what_a_walk_from_pixel_to_pixel_finds(ids: NDArray[np.uint8], least_px: int) -> None:
    assert listed(find_objects(ids, 4, least_px)) == describe(ids, least_px)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_components_of_a_large_mask_are_those_of_scipy(share: float) -> None:
    random = np.random.default_rng(3)
    ids = (random.random((301, 257)) < share).astype(np.uint8) * random.integers(1, 4, (301, 257), np.uint8)
    objects = find_objects(ids, 4, 3)
    for kind in (1, 2, 3):
        components = np.zeros(ids.shape, np.int32)
        scipy.ndimage.label(ids == kind, np.ones((3, 3)), output=components)
        areas = np.bincount(components.ravel())[1:]
        assert sorted(objects.areas[objects.class_ids == kind]) == sorted(areas[areas >= 3])


@given(MASKS, st.sampled_from([1, 2, 5]))
def test_areas_add_up_to_the_pixels_of_what_is_kept(ids: NDArray[np.uint8], least_px: int) -> None:
    objects = find_objects(ids, 4, least_px)
    owned = np.bincount(objects.chords.owners, weights=objects.chords.lengths, minlength=len(objects))
    assert owned.tolist() == objects.areas.tolist()
    if least_px == 1:
        assert objects.areas.sum() == np.isin(ids, (1, 2, 3)).sum()


@given(MASKS, st.integers(1, 15), st.integers(1, 15), st.integers(0, 99))
def test_confidence_is_the_mean_of_the_working_pixels_that_own_centres_lie_in(
    ids: NDArray[np.uint8], height: int, width: int, seed: int
) -> None:
    probability = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    expected = []
    for kind, pixels in flood(ids):
        total = 0.0
        for row, column in pixels:
            y = (Fraction(row) + Fraction(1, 2)) * height / ids.shape[0]
            x = (Fraction(column) + Fraction(1, 2)) * width / ids.shape[1]
            total += float(probability[int(y), int(x)])
        ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
        expected.append((kind, min(ys), min(xs), pixels[0], total / len(pixels)))
    found = find_objects(ids, 4, 1, probability).confidences
    assert found == pytest.approx([row[-1] for row in sorted(expected)], rel=1e-12)  # the order of summation


def test_confidence_does_not_depend_on_how_pixels_are_gathered() -> None:
    side = int(CHUNK_PX**0.5) + 300  # more pixels than one chunk holds
    probability = np.random.default_rng(0).random((side, side), dtype=np.float32)
    ids = np.ones((side, side), np.uint8)
    ids[:, side // 2] = 0
    expected = [
        half.mean(dtype=np.float64) for half in (probability[:, : side // 2], probability[:, side // 2 + 1 :])
    ]
    assert find_objects(ids, 2, 1, probability).confidences == pytest.approx(expected, rel=1e-12)


def test_touching_objects_of_two_classes_stay_apart_and_a_diagonal_joins_one() -> None:
    ids = np.array([[1, 1, 2, 2, 0], [0, 0, 0, 0, 2]], np.uint8)
    objects = find_objects(ids, 3, 1)
    assert objects.boxes.tolist() == [[0, 0, 2, 1], [2, 0, 3, 2]]
    assert objects.class_ids.tolist() == [1, 2]


@pytest.mark.parametrize("ids", [np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8)])
def test_a_mask_without_objects_has_none(ids: NDArray[np.uint8]) -> None:
    objects = find_objects(ids, 3, 1, np.ones(ids.shape, np.float32))
    assert len(objects) == 0
    assert objects.boxes.shape == (0, 4)
    assert object_rows("a.png", objects, None) == ()


def test_rows_have_none_where_a_number_is_undefined() -> None:
    objects = find_objects(np.array([[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], np.uint8), 2, 1)
    row = {
        "image": "s/a.png",
        "class_id": 1,
        "x": 1,
        "y": 1,
        "width": 1,
        "height": 2,
        "area": 2,
        "centroid_x": 1.0,
        "centroid_y": 1.5,
        "confidence": None,
        "touches_border": False,
    }
    for ious, iou in ((None, None), (np.array([np.nan]), None), (np.array([0.75]), 0.75)):
        (found,) = object_rows("s/a.png", objects, ious)
        assert found._asdict() == {**row, "iou": iou}
