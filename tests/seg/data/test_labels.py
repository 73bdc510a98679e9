import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.labels import decode_label
from seg.errors import LabelMismatch
from tests.seg.data.test_images import encode, write_png

MASK, YOLO, JSON = Path("m/a.png"), Path("m/a.txt"), Path("m/a.json")
IDS = np.random.default_rng(0).integers(0, 4, (20, 30), dtype=np.uint8)


def save_palette(ids: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(ids).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("data", [encode(IDS, "PNG"), save_palette(IDS)], ids=["gray", "palette"])
def test_a_mask_holds_the_ids_that_were_stored(data: bytes) -> None:
    mask = decode_label(data, MASK, IDS.shape, 4)
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
        assert decode_label(data, MASK, (1, len(stored)), 3, pairs).tolist() == [meant]
    else:
        with pytest.raises(LabelMismatch, match=r"label m/a.png holds class id .*not below 3"):
            decode_label(data, MASK, (1, len(stored)), 3, pairs)


def test_a_label_map_to_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(LabelMismatch, match="holds class id 3, not below 4"):
        decode_label(encode(IDS, "PNG"), MASK, IDS.shape, 4, ((3, 7),))


# what the numbers mean, pixel by pixel: a pixel is in a box when its centre is between the rounded edges
EDGES = st.integers(-3, 14)


@given(st.lists(st.tuples(st.integers(0, 2), EDGES, EDGES, st.integers(0, 9), st.integers(0, 9)), max_size=4))
def test_json_boxes_cover_their_pixels_and_later_ones_cover_earlier_ones(
    boxes: list[tuple[int, int, int, int, int]],
) -> None:
    expected = np.zeros((11, 9), np.uint8)
    for _, x, y, w, h in boxes:
        for row in range(11):
            for column in range(9):
                if x <= column + 0.5 < x + w and y <= row + 0.5 < y + h:
                    expected[row, column] = 1
    data = json.dumps({"boxes": [box[1:] for box in boxes]}).encode()
    np.testing.assert_array_equal(decode_label(data, JSON, (11, 9), 2), expected)


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
    mask = decode_label("\n".join(lines).encode(), YOLO, (height, width), 4)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_box_file_means_all_background(data: bytes) -> None:
    assert not decode_label(data, YOLO, (3, 4), 2).any()


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
    "too few fields": (YOLO, b"0 .5 .5 .1 .1\n0 .5 .5 .1\n", "line 2: '0 .5 .5 .1' is not"),
    "words": (YOLO, b"cell 1 2 3 4", "line 1"),
    "no number": (YOLO, b"nan .5 .5 .1 .1", "line 1"),
    "an infinite size": (YOLO, b"0 .5 .5 inf .1", "line 1"),
    "half a class": (YOLO, b"0.5 .5 .5 .1 .1", "line 1"),
    "a negative size": (YOLO, b"0 .5 .5 -.1 .1", "line 1"),
    "pixels for shares": (YOLO, b"0 120 80 30 30", "line 1.*shares of the image"),
    "an unknown class": (YOLO, b"3 .5 .5 .1 .1", "a box of class 3, the model knows 3"),
    "a negative class": (YOLO, b"-1 .5 .5 .1 .1", "a box of class -1"),
    "no JSON": (JSON, b"{", "is not {"),
    "no boxes": (JSON, b"[]", "is not {"),
    "three numbers": (JSON, b'{"boxes": [[1, 2, 3]]}', "is not {"),
    "NaN": (JSON, b'{"boxes": [[NaN, 2, 3, 4]]}', "not finite"),
    "a box inside out": (JSON, b'{"boxes": [[1, 2, -3, 4]]}', "negative size"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_label_is_a_mismatch_that_names_the_file(kind: str) -> None:
    path, data, text = BAD[kind]
    with pytest.raises(LabelMismatch, match=f"(?s)label {path}.*{text}") as caught:
        decode_label(data, path, IDS.shape, 4)
    assert caught.value.reason == "label_mismatch"
