import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seg.data.labels import decode_label, read_label
from seg.errors import DataWarning, LabelMismatch
from tests.seg.data.test_images import encode

MASK, YOLO, JSON = Path("m/a.png"), Path("m/a.txt"), Path("m/a.json")
NAMES = tuple(f"class {number}" for number in range(255))
IDS = np.random.default_rng(0).integers(0, 4, (20, 30), dtype=np.uint8)


def draw_on(size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """What the numbers mean, pixel by pixel: a pixel is in a box when its centre is between the edges."""
    mask = np.zeros(size, np.uint8)
    for x, y, w, h in boxes:
        for row, column in np.ndindex(size):
            if x <= column + 0.5 < x + w and y <= row + 0.5 < y + h:
                mask[row, column] = 1
    return mask


def write_json(*boxes: tuple[float, float, float, float]) -> bytes:
    return json.dumps({"boxes": boxes}).encode()


EDGES = st.integers(-3, 14)
SIZES = st.integers(0, 9)
SIZE = (11, 9)


def lies_outside(box: tuple[int, int, int, int]) -> bool:
    x, y, w, h = box
    return w > 0 and h > 0 and (x + w <= 0 or y + h <= 0 or x >= SIZE[1] or y >= SIZE[0])


@given(st.lists(st.tuples(EDGES, EDGES, SIZES, SIZES), max_size=4))
def test_boxes_are_clipped_as_if_drawn_on_a_larger_canvas_that_is_then_cut(
    boxes: list[tuple[int, int, int, int]],
) -> None:
    data = write_json(*boxes)
    if any(lies_outside(box) for box in boxes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(LabelMismatch, match="lies outside its image"):
                decode_label(data, JSON, SIZE, NAMES[:2])
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mask = decode_label(data, JSON, SIZE, NAMES[:2])
    canvas = draw_on((SIZE[0] + 30, SIZE[1] + 30), [(x + 10, y + 10, w, h) for x, y, w, h in boxes])
    np.testing.assert_array_equal(mask, canvas[10 : 10 + SIZE[0], 10 : 10 + SIZE[1]])
    reaching = [
        number
        for number, (x, y, w, h) in enumerate(boxes, start=1)
        if w and h and (x < 0 or y < 0 or x + w > SIZE[1] or y + h > SIZE[0])
    ]
    assert [str(warning.message) for warning in caught] == [
        f"label m/a.json, box {number}: the box reaches outside its image of 9 x 11 pixels and is clipped"
        for number in reaching
    ]
    assert {warning.category for warning in caught} <= {DataWarning}


@given(st.integers(0, 8), st.integers(0, 10), st.integers(1, 9), st.integers(1, 11), st.booleans())
def test_a_box_comes_back_from_its_mask(x: int, y: int, w: int, h: int, yolo: bool) -> None:
    w, h = min(w, SIZE[1] - x), min(h, SIZE[0] - y)
    shares = ((x + w / 2) / SIZE[1], (y + h / 2) / SIZE[0], w / SIZE[1], h / SIZE[0])
    line = "0 " + " ".join(f"{share:.7f}" for share in shares)
    path, data = (YOLO, line.encode()) if yolo else (JSON, write_json((x, y, w, h)))
    rows, columns = np.nonzero(
        decode_label(data, path, SIZE, NAMES[:2])
    )  # and no warning, which would be an error
    assert (columns.min(), rows.min()) == (x, y)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (w, h)
    assert len(rows) == w * h


def test_later_boxes_cover_earlier_ones() -> None:
    data = b"0 .5 .5 1 1\n2 .25 .5 .5 1\n\n1 .5 .5 .5 .5"
    mask = decode_label(data, YOLO, (4, 4), NAMES[:4])
    assert mask.tolist() == [[3, 3, 1, 1], [3, 2, 2, 1], [3, 2, 2, 1], [3, 3, 1, 1]]


def test_a_yolo_box_that_reaches_out_is_clipped_with_a_warning_that_names_file_and_line() -> None:
    data = b"0 .5 .5 .1 .1\n0 1.05 .5 .3 .5\n"
    with pytest.warns(
        DataWarning, match=r"^label m/a.txt, line 2: the box reaches outside .* 30 x 20 pixels"
    ):
        mask = decode_label(data, YOLO, (20, 30), NAMES[:2])
    np.testing.assert_array_equal(mask[5:15, 27:], 1)  # 31.5 - 4.5 = 27
    np.testing.assert_array_equal(mask[:5, 27:], 0)


@pytest.mark.parametrize("excess", [0.0, 0.4999e-2])
def test_an_edge_that_rounds_to_the_border_is_not_outside(excess: float) -> None:
    assert decode_label(b"0 .5 .5 %f %f" % (1 + excess, 1 + excess), YOLO, (100, 100), NAMES[:2]).all()


@pytest.mark.parametrize(
    ("path", "data", "text"),
    [
        (
            YOLO,
            b"0 .5 .5 .1 .1\n0 1.5 .5 .2 .1",
            "label m/a.txt, line 2: the box lies outside its image of 30",
        ),
        (YOLO, b"0 .5 -.1 .2 .1", "line 1: the box lies outside"),
        (JSON, write_json((0, 0, 1, 1), (30, 0, 5, 5)), "label m/a.json, box 2: the box lies outside"),
        (JSON, write_json((0, -5, 5, 5)), "box 1: the box lies outside"),
        (JSON, write_json((1e308, 0, 1e308, 5)), "box 1: the box lies outside"),
    ],
)
def test_a_box_wholly_outside_is_refused(path: Path, data: bytes, text: str) -> None:
    with pytest.raises(LabelMismatch, match=text):
        decode_label(data, path, (20, 30), NAMES[:2])


def test_a_label_of_boxes_gives_them_in_whole_pixels_also_those_that_later_ones_cover() -> None:
    data = b"0 .5 .5 .1 .1\n\n2 .5 .5 .2 .2\n1 1.02 .52 .1 .1\n"
    with pytest.warns(DataWarning, match="line 4: the box reaches outside"):
        label = read_label(data, YOLO, (20, 30), NAMES[:4])
    assert label.boxes is not None
    assert label.boxes.tolist() == [[1, 14, 9, 2, 2], [3, 12, 8, 6, 4], [2, 29, 9, 1, 2]]
    assert np.bincount(label.mask.ravel()).tolist() == [600 - 24 - 2, 0, 2, 24]


@given(st.lists(st.tuples(EDGES, EDGES, SIZES, SIZES), max_size=4))
def test_the_mask_of_boxes_is_what_they_cover_and_no_more(boxes: list[tuple[int, int, int, int]]) -> None:
    data = write_json(*(box for box in boxes if not lies_outside(box)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        label = read_label(data, JSON, SIZE, NAMES[:2])
    assert label.boxes is not None
    for kind, x, y, w, h in label.boxes.tolist():
        assert kind == 1
        assert 0 <= x < x + w <= SIZE[1]
        assert 0 <= y < y + h <= SIZE[0]
    drawn = draw_on(SIZE, [(x, y, w, h) for _, x, y, w, h in label.boxes.tolist()])
    np.testing.assert_array_equal(label.mask, drawn)


@pytest.mark.parametrize("data", [b"", b"0 .5 .5 0 .5"])
def test_a_file_without_a_box_has_no_boxes_and_a_mask_has_none_to_give(data: bytes) -> None:
    boxes = read_label(data, YOLO, (3, 4), NAMES[:2]).boxes
    assert boxes is not None
    assert boxes.shape == (0, 5)
    assert read_label(encode(IDS, "PNG"), MASK, IDS.shape, NAMES[:4]).boxes is None


def test_a_box_without_area_marks_nothing() -> None:
    assert not decode_label(write_json((0, 0, 0, 0), (500, 3, 0, 2)), JSON, (20, 30), NAMES[:2]).any()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 8), st.integers(0, 10), st.integers(1, 9)), max_size=4
    )
)
def test_yolo_boxes_cover_their_pixels_and_later_ones_cover_earlier_ones(
    boxes: list[tuple[int, int, int, int]],
) -> None:
    height, width, lines = 11, 9, []
    expected = np.zeros((height, width), np.uint8)
    for kind, left, top, side in boxes:
        right, bottom = min(width, left + side), min(height, top + side)
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        lines.append(f"{kind} {x:.9f} {y:.9f} {(right - left) / width:.9f} {(bottom - top) / height:.9f}")
        for row in range(top, bottom):
            for column in range(left, right):
                expected[row, column] = kind + 1
    mask = decode_label("\n".join(lines).encode(), YOLO, (height, width), NAMES[:4])
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_box_file_means_all_background(data: bytes) -> None:
    assert not decode_label(data, YOLO, (3, 4), NAMES[:2]).any()


def test_a_json_box_is_of_the_class_that_its_file_names_and_without_names_of_class_1() -> None:
    boxes = [[0, 0, 2, 2], [4, 4, 3, 3], [1, 1, 0, 0]]
    named = json.dumps({"boxes": boxes, "classes": ["class 3", "class 1", "class 2"]}).encode()
    for data, kinds in ((named, [3, 1]), (write_json(*map(tuple, boxes)), [1, 1])):
        label = read_label(data, JSON, SIZE, NAMES[:4])
        assert label.boxes is not None
        assert label.boxes.tolist() == [[kind, *box] for kind, box in zip(kinds, boxes, strict=False)]
        expected = np.zeros(SIZE, np.uint8)
        expected[:2, :2], expected[4:7, 4:7] = kinds
        np.testing.assert_array_equal(label.mask, expected)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (
            ["class 1", "zebra"],
            "box 2: its entry in .* none of the classes that boxes have here: class 1, class 2",
        ),
        (["class 0", "class 1"], "box 1: its entry in .* none of the classes"),  # the background
        ([1, "class 1"], "box 1: its entry in .* none of the classes"),
        ([["class 1"], "class 1"], "box 1: its entry in .* none of the classes"),
        (["class 1"], "are 1 entries for 2 boxes; give a name for each box"),
        (["class 1"] * 3, "are 3 entries for 2 boxes"),
        ("class 1", "are no list for 2 boxes"),
        (None, "are no list for 2 boxes"),
    ],
)
def test_a_class_that_nobody_knows_is_a_mismatch_that_names_the_box(classes: object, text: str) -> None:
    data = json.dumps({"boxes": [[0, 0, 2, 2], [4, 4, 3, 3]], "classes": classes}).encode()
    with pytest.raises(LabelMismatch, match=f"^label m/a.json.*{text}") as caught:
        read_label(data, JSON, SIZE, NAMES[:3])
    assert "zebra" not in str(caught.value)


BAD: dict[str, tuple[Path, bytes, str]] = {
    "too few fields": (
        YOLO,
        b"0 .5 .5 .1 .1\n0 .5 .5 .1\n",
        "line 2: its fields are 4, not 'class x y width height'",
    ),
    "words": (YOLO, b"cell 1 2 3 4", "line 1: field class is not"),
    "no number": (YOLO, b"nan .5 .5 .1 .1", "line 1: field class is not"),
    "an infinite size": (YOLO, b"0 .5 .5 inf .1", "line 1: field width is not"),
    "half a class": (YOLO, b"0.5 .5 .5 .1 .1", "line 1: field class is not"),
    "a negative size": (YOLO, b"0 .5 .5 -.1 .1", "line 1: field width is not"),
    "pixels for shares": (YOLO, b"0 120 80 30 30", "line 1: field .*shares of the image"),
    "an unknown class": (YOLO, b"3 .5 .5 .1 .1", "line 1: its class is none of the 3 that boxes"),
    "a negative class": (YOLO, b"-1 .5 .5 .1 .1", "line 1: its class is none of the 3"),
    "a size of three images": (YOLO, b"0 .5 .5 3 .1", "line 1: field .*shares of the image"),
    "no JSON": (JSON, b"{", r"is no JSON \(line 1\); wanted {"),
    "a number of 400 digits": (
        JSON,
        b'{"boxes": [[1, 2, 3, %s]]}' % (b"9" * 400),
        "box 1: field height is not a finite",
    ),
    "lists in lists": (JSON, b"[" * 100_000, "is no JSON; wanted {"),
    "no boxes": (JSON, b"[]", "has no list of boxes; wanted {"),
    "three numbers": (JSON, b'{"boxes": [[1, 2, 3]]}', "box 1 is not four numbers; wanted {"),
    "NaN": (JSON, b'{"boxes": [[NaN, 2, 3, 4]]}', "box 1: field x is not a finite number"),
    "a box inside out": (JSON, b'{"boxes": [[1, 2, -3, 4]]}', "box 1: field width is a negative size"),
    "a string for a number": (
        JSON,
        b'{"boxes": [[1, 2, 3, "4"]]}',
        "box 1: field height is not a finite number",
    ),
    "a string for a box": (JSON, b'{"boxes": ["1234"]}', "box 1 is not four numbers"),
    "no UTF-8": (JSON, b"\xff", "is no JSON; wanted {"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_of_boxes_is_a_mismatch_that_names_the_file(kind: str) -> None:
    path, data, text = BAD[kind]
    with pytest.raises(LabelMismatch, match=f"(?s)label {path}.*{text}") as caught:
        decode_label(data, path, IDS.shape, NAMES[:4])
    assert caught.value.reason == "label_mismatch"
