import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.png import add_palette
from seg.data.labels import decode_label, decode_mask, encode_mask, map_foreground, read_label
from seg.errors import DataWarning, LabelMismatch
from tests.seg.data.test_images import encode, write_png

MASK, YOLO, JSON = Path("m/a.png"), Path("m/a.txt"), Path("m/a.json")
NAMES = tuple(f"class {number}" for number in range(255))
IDS = np.random.default_rng(0).integers(0, 4, (20, 30), dtype=np.uint8)


def save_palette(ids: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(ids).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("data", [encode(IDS, "PNG"), save_palette(IDS)], ids=["gray", "palette"])
def test_a_mask_holds_the_ids_that_were_stored(data: bytes) -> None:
    mask = decode_label(data, MASK, IDS.shape, NAMES[:4])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, IDS)


@given(
    st.dictionaries(st.integers(0, 255), st.sampled_from([0, 1, 2, 255]), max_size=5),
    st.lists(st.integers(0, 255), min_size=1, max_size=12),
)
def test_the_label_map_comes_first_and_ids_it_leaves_unknown_are_refused(
    label_map: dict[int, int], stored: list[int]
) -> None:
    data, pairs = encode(np.array([stored], np.uint8), "PNG"), tuple(label_map.items())
    meant = [label_map.get(number, number) for number in stored]
    if all(number < 3 or number == 255 for number in meant):
        assert decode_label(data, MASK, (1, len(stored)), NAMES[:3], pairs).tolist() == [meant]
    else:
        with pytest.raises(LabelMismatch, match=r"label m/a.png holds class id .*not below 3"):
            decode_label(data, MASK, (1, len(stored)), NAMES[:3], pairs)


def test_a_label_map_to_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(LabelMismatch, match="holds class id 3, not below 4"):
        decode_label(encode(IDS, "PNG"), MASK, IDS.shape, NAMES[:4], ((3, 7),))


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


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_an_encoded_mask_is_read_back_by_us_and_by_pillow(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    colours = np.random.default_rng(seed).integers(0, 256, (256, 3), dtype=np.uint8)
    for palette, mode in ((b"", "L"), (colours.tobytes(), "P")):
        data = encode_mask(mask, palette)
        np.testing.assert_array_equal(decode_label(data, MASK, mask.shape, NAMES[:255]), mask)
        np.testing.assert_array_equal(decode_mask(data), mask)
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image), mask)
            if palette:
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[mask])


def test_only_a_gray_png_of_8_bits_gets_a_palette() -> None:
    colour = encode(np.zeros((2, 2, 3), np.uint8), "PNG")
    with pytest.raises(ValueError, match="colour type 2 of 8 bits is not gray of 8"):
        add_palette(colour, bytes(6))


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


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        *(
            (YOLO, text)
            for text in (SECRET, f"0 .5 .5 .1 {SECRET}", f"{SECRET} .5 .5 .1 .1", f"{SECRET} " * 5)
        ),
        *(
            (JSON, text)
            for text in (SECRET, f'{{"boxes": "{SECRET}"}}', f'{{"boxes": [[1, 2, 3, "{SECRET}"]]}}')
        ),
        (JSON, f'{{"{SECRET}": 1}}'),
        (JSON, f'{{"boxes": [["{SECRET}"]], "classes": ["{SECRET}"]}}'),
        (JSON, f'{{"boxes": [[1, 2, 3, 4]], "classes": ["{SECRET}"]}}'),
        (MASK, SECRET),
    ],
)
def test_no_text_of_a_label_is_quoted(path: Path, data: str) -> None:
    with pytest.raises(LabelMismatch) as caught:
        read_label(data.encode(), path, SIZE, NAMES[:3])
    assert SECRET not in str(caught.value)


BAD: dict[str, tuple[Path, bytes, str]] = {
    "another size": (MASK, encode(IDS.T, "PNG"), "is 20 x 30 pixels but its image is 30 x 20 pixels"),
    "a palette of 10^12 pixels": (MASK, write_png(10**6, 10**6, 8, 3, b""), "1000000 x 1000000 pixels but"),
    "an unknown id": (MASK, encode(IDS + 2, "PNG"), "holds class id 4, 5, not below 4"),
    "colour": (MASK, encode(np.dstack([IDS] * 3), "PNG"), "wanted 8-bit class ids of one channel"),
    "16 bits": (MASK, encode(IDS.astype(np.uint16), "PNG"), "wanted 8-bit class ids"),
    "text": (MASK, b"not a mask", "is no image"),
    "no bytes": (MASK, b"", "is no image"),
    "cut short": (MASK, encode(IDS, "PNG")[:-30], "cannot be read: the file ends after"),
    "palette cut short": (MASK, save_palette(IDS)[:-40], "cannot be read"),
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
def test_a_bad_label_is_a_mismatch_that_names_the_file(kind: str) -> None:
    path, data, text = BAD[kind]
    with pytest.raises(LabelMismatch, match=f"(?s)label {path}.*{text}") as caught:
        decode_label(data, path, IDS.shape, NAMES[:4])
    assert caught.value.reason == "label_mismatch"


def save_with_pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PNG"])
@pytest.mark.parametrize("bits", [1, 8])
def test_masks_of_any_kind_hold_what_pillow_stored(kind: str, bits: int) -> None:
    binary = np.random.default_rng(0).integers(0, 2, (13, 21)).astype(bool)
    image = Image.fromarray(binary) if bits == 1 else Image.fromarray(binary.astype(np.uint8) * 255)
    data, foreground = save_with_pillow(image, kind), 1 if bits == 1 else 255
    path = Path(f"m/a_mask.{kind.lower()}")
    mask = decode_label(data, path, binary.shape, ("background", "object"), map_foreground(foreground))
    np.testing.assert_array_equal(mask, binary)


def test_a_mask_of_several_pages_is_refused() -> None:
    page = Image.fromarray(IDS)
    data = save_with_pillow(page, "TIFF", save_all=True, append_images=[page, page])
    with pytest.raises(LabelMismatch, match=r"label m/a.tif has 3 pages and its image one; save that mask"):
        decode_label(data, Path("m/a.tif"), IDS.shape, NAMES[:4])
