from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from seg.data.labels import Label
from seg.objects import Matches, Objects, find_objects, match_objects, object_ratios, summarise_objects
from tests.seg.test_objects import flood

CLASSES = 3
PREDICTED = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2))
BOXES = st.lists(
    st.tuples(*[st.integers(1, 2), *[st.integers(0, 5)] * 2, *[st.integers(1, 4)] * 2]), max_size=6
)
HALF = Fraction(1, 2)


def truth_like(data: st.DataObject, predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A truth with much in common with a prediction, some of it ignored."""
    elements = st.sampled_from([None, None, None, 0, 1, 2, 255])
    drawn = data.draw(st.lists(elements, min_size=predicted.size, max_size=predicted.size))
    pairs = zip(predicted.ravel().tolist(), drawn, strict=True)
    return np.array([own if other is None else other for own, other in pairs], np.uint8).reshape(
        predicted.shape
    )


def match(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], least_px: int = 1) -> Matches:
    return match_objects(find_objects(predicted, CLASSES, least_px), Label(truth, None), CLASSES, least_px)


def match_boxes(objects: Objects, boxes: list[tuple[int, ...]], least_px: int = 1) -> Matches:
    label = Label(np.zeros((9, 9), np.uint8), np.array(boxes, np.int64).reshape(-1, 5))
    return match_objects(objects, label, CLASSES, least_px)


def counts(matches: Matches) -> list[list[int]]:
    return [part.tolist() for part in (matches.found, matches.missed, matches.invented)]


def match_slowly(shares: list[tuple[Fraction, int, int]]) -> dict[int, tuple[int, Fraction]]:
    """True object and IoU of each predicted one: the highest IoU first, equal ones in the given order."""
    taken: dict[int, tuple[int, Fraction]] = {}
    for share, mine, theirs in sorted(shares, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if share >= HALF and mine not in taken and theirs not in [true for true, _ in taken.values()]:
            taken[mine] = (theirs, share)
    return taken


def by_position(ids: NDArray[np.uint8]) -> list[tuple[int, set[tuple[int, int]]]]:
    """Components of a mask in the order that decides between equals."""

    def position(component: tuple[int, list[tuple[int, int]]]) -> tuple[int, int, int, tuple[int, int]]:
        kind, pixels = component
        return kind, min(y for y, _ in pixels), min(x for _, x in pixels), min(pixels)

    return [(kind, set(pixels)) for kind, pixels in sorted(flood(ids), key=position)]


@given(PREDICTED, st.data())
def test_masks_are_matched_as_sets_of_pixels_are(predicted: NDArray[np.uint8], data: st.DataObject) -> None:
    truth = truth_like(data, predicted)
    mine, theirs = by_position(predicted), by_position(truth)
    ignored = {(int(row), int(column)) for row, column in np.argwhere(truth == 255)}
    shares = [
        (Fraction(len(own & true), len((own - ignored) | true)), place, other)
        for place, (kind, own) in enumerate(mine)
        for other, (true_kind, true) in enumerate(theirs)
        if kind == true_kind
    ]
    taken = match_slowly(shares)
    out = {place for place, (_, own) in enumerate(mine) if 2 * len(own & ignored) > len(own)} - set(taken)
    found = match(predicted, truth)
    expected = [np.nan if place in out else float(taken.get(place, (0, 0))[1]) for place in range(len(mine))]
    np.testing.assert_array_equal(found.ious, expected)
    assert counts(found) == [
        [sum(mine[place][0] == kind for place in taken) for kind in range(CLASSES)],
        [
            sum(true[0] == kind for other, true in enumerate(theirs) if other not in dict(taken.values()))
            for kind in range(CLASSES)
        ],
        [
            sum(own[0] == kind for place, own in enumerate(mine) if place not in out and place not in taken)
            for kind in range(CLASSES)
        ],
    ]


@given(PREDICTED, BOXES)
def test_boxes_are_matched_by_what_they_share_in_float64(
    predicted: NDArray[np.uint8], boxes: list[tuple[int, ...]]
) -> None:
    objects = find_objects(predicted, CLASSES, 1)
    known = sorted(boxes, key=lambda box: (box[0], box[2], box[1], box[3], box[4]))
    taken: dict[int, tuple[int, float]] = {}
    pairs = []
    for place, (kind, (x, y, w, h)) in enumerate(
        zip(objects.class_ids.tolist(), objects.boxes.astype(np.float64).tolist(), strict=True)
    ):
        for other, (true_kind, left, top, width, height) in enumerate(known):
            across, down = min(x + w, left + width) - max(x, left), min(y + h, top + height) - max(y, top)
            shared = max(across, 0.0) * max(down, 0.0)
            iou = shared / (w * h + width * height - shared)
            if kind == true_kind and iou >= 0.5:
                pairs.append((-iou, place, other))
    for negative, place, other in sorted(pairs):
        if place not in taken and other not in [true for true, _ in taken.values()]:
            taken[place] = (other, -negative)
    found = match_boxes(objects, boxes)
    assert found.ious.tolist() == [taken.get(place, (0, 0.0))[1] for place in range(len(objects))]
    hits = [known[other][0] for other, _ in taken.values()]
    assert found.found.tolist() == [hits.count(kind) for kind in range(CLASSES)]
    assert (found.found + found.missed).tolist() == [
        [box[0] for box in boxes].count(kind) for kind in range(CLASSES)
    ]
    assert (found.found + found.invented).tolist() == np.bincount(
        objects.class_ids, minlength=CLASSES
    ).tolist()


@given(PREDICTED, BOXES, st.randoms(use_true_random=False))
def test_the_order_of_boxes_in_a_file_does_not_matter(
    predicted: NDArray[np.uint8], boxes: list[tuple[int, ...]], random: Random
) -> None:
    objects, shuffled = find_objects(predicted, CLASSES, 1), list(boxes)
    random.shuffle(shuffled)
    one, other = match_boxes(objects, boxes), match_boxes(objects, shuffled)
    assert counts(one) == counts(other)
    assert one.ious.tolist() == other.ious.tolist()


@given(PREDICTED, st.sampled_from([1, 3]))
def test_a_mask_finds_all_of_itself(ids: NDArray[np.uint8], least_px: int) -> None:
    matches = match(ids, ids, least_px)
    assert (matches.ious == 1).all()
    assert not matches.missed.any()
    assert not matches.invented.any()
    there = matches.found > 0
    ratios = object_ratios(matches.found, matches.missed, matches.invented)
    for ratio in (ratios.precision, ratios.recall, ratios.f1):
        np.testing.assert_array_equal(ratio, np.where(there, 1.0, np.nan))


@given(PREDICTED, PREDICTED, st.data())
def test_counts_of_two_images_are_those_of_both_side_by_side(
    one: NDArray[np.uint8], other: NDArray[np.uint8], data: st.DataObject
) -> None:
    def beside(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
        page = np.zeros((9, 19), np.uint8)
        page[: left.shape[0], : left.shape[1]] = left
        page[: right.shape[0], 10 : 10 + right.shape[1]] = right
        return page

    truths = truth_like(data, one), truth_like(data, other)
    apart = [match(one, truths[0]), match(other, truths[1])]
    together = match(beside(one, other), beside(*truths))
    for name in ("found", "missed", "invented"):
        np.testing.assert_array_equal(sum(getattr(part, name) for part in apart), getattr(together, name))


def strip(*ids: int) -> NDArray[np.uint8]:
    return np.array([ids], np.uint8)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected", "ious"),
    [
        (strip(1, 1, 0, 0), strip(1, 0, 0, 0), (1, 0, 0), [0.5]),  # half is enough
        (strip(1, 1, 1, 0), strip(1, 0, 0, 0), (0, 1, 1), [0.0]),
        (strip(1, 0, 1, 0), strip(1, 1, 1, 0), (0, 1, 2), [0.0, 0.0]),
        (strip(2, 2, 0, 0), strip(1, 1, 0, 0), (0, 1, 1), [0.0]),  # another class
        (strip(1, 1, 1, 0), strip(255, 255, 0, 0), (0, 0, 0), [np.nan]),  # most of it is ignored
        (strip(1, 1, 0, 0), strip(255, 0, 0, 0), (0, 0, 1), [0.0]),  # half of it is
        (strip(1, 1, 1, 1), strip(255, 255, 255, 1), (1, 0, 0), [1.0]),  # what is left of it is there
        (strip(1, 0, 1, 1), strip(1, 0, 0, 0), (1, 0, 1), [1.0, 0.0]),
    ],
)
def test_what_an_object_comes_to(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], expected: tuple[int, int, int], ious: list[float]
) -> None:
    matches = match(predicted, truth)
    np.testing.assert_array_equal(matches.ious, ious)
    assert tuple(sum(part) for part in counts(matches)) == expected


def test_of_two_equal_halves_the_upper_one_is_the_match() -> None:
    objects = find_objects(np.array([[1, 1], [0, 0], [1, 1]], np.uint8), CLASSES, 1)
    matches = match_boxes(objects, [(1, 0, 0, 2, 1), (1, 0, 0, 2, 1), (1, 0, 1, 2, 2)])
    assert matches.ious.tolist() == [1.0, 0.5]
    assert counts(matches) == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_true_objects_that_are_too_small_are_none_in_boxes_as_in_masks() -> None:
    nothing = find_objects(np.zeros((9, 9), np.uint8), CLASSES, 4)
    truth = np.zeros((9, 9), np.uint8)
    truth[0, :3], truth[4, :4] = 1, 1
    assert counts(match_objects(nothing, Label(truth, None), CLASSES, 4)) == [[0] * 3, [0, 1, 0], [0] * 3]
    assert counts(match_boxes(nothing, [(1, 0, 0, 3, 1), (1, 0, 4, 4, 1)], 4)) == [
        [0] * 3,
        [0, 1, 0],
        [0] * 3,
    ]


def test_ratios_are_undefined_where_there_is_nothing_to_divide_by() -> None:
    found, missed, invented = np.array([[3, 0, 0, 0], [1, 2, 0, 0], [0, 0, 4, 0]])
    ratios = object_ratios(found, missed, invented)
    np.testing.assert_array_equal(ratios.precision, [1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(ratios.recall, [0.75, 0, np.nan, np.nan])
    np.testing.assert_array_equal(ratios.f1, [6 / 7, 0, 0, np.nan])


def test_a_summary_adds_classes_up_before_it_divides() -> None:
    found, missed, invented = np.array([[0, 3, 0], [0, 1, 2], [0, 0, 4]])
    summary = summarise_objects(found, missed, invented, ("background", "cell", "dust"))
    assert summary == {
        "found": 3,
        "missed": 3,
        "invented": 4,
        "precision": 3 / 7,
        "recall": 0.5,
        "f1": 6 / 13,
        "classes": {
            "cell": {"found": 3, "missed": 1, "invented": 0, "precision": 1, "recall": 0.75, "f1": 6 / 7},
            "dust": {"found": 0, "missed": 2, "invented": 4, "precision": 0, "recall": 0, "f1": 0},
        },
    }
