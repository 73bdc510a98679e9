import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seg.data.colours import Colour, ColourMask, read_class_dict, read_colours
from seg.errors import LabelMismatch, RequestError
from tests.seg.data.test_images import encode

CSV = "name,r,g,b\nAnimal,64,128,64\nBicyclist,0,128, 192\nVoid,0,0,0\nWall,64,192,0\n"
COLOURS = ((64, 128, 64), (0, 128, 192), (0, 0, 0), (64, 192, 0))
MASK = Path("m/a_L.png")
NAMES = tuple(f"class {number}" for number in range(40))


COLOUR = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))


@given(st.lists(COLOUR, min_size=1, max_size=40, unique=True), st.integers(0, 2**32))
def test_any_colours_are_told_apart(colours: list[Colour], seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, len(colours), (3, 5))
    data = encode(np.array(colours, np.uint8)[ids], "PNG")
    mask = ColourMask(tuple(colours))(data, MASK, (3, 5), NAMES[: len(colours)], ())
    np.testing.assert_array_equal(mask, ids)


def test_a_colour_of_no_class_is_named_with_its_first_pixel() -> None:
    rgb = np.array(COLOURS, np.uint8)[np.zeros((5, 7), int)]
    rgb[2, 4] = rgb[4, 1] = 64, 128, 65
    with pytest.raises(
        LabelMismatch,
        match=r"label m/a_L.png has colour \(64, 128, 65\) at column 4, row 2 \(2 such pixels\)",
    ):
        ColourMask(COLOURS)(encode(rgb, "PNG"), MASK, (5, 7), NAMES[:4], ())


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.zeros((5, 7), np.uint8), "wanted 8-bit RGB colours"),
        (np.zeros((5, 7, 4), np.uint8), "cannot be read: .*alpha"),
        (np.zeros((7, 5, 3), np.uint8), "is 5 x 7 pixels but its image is 7 x 5"),
    ],
)
def test_a_mask_that_is_no_colour_image_is_refused(pixels: NDArray[np.uint8], text: str) -> None:
    with pytest.raises(LabelMismatch, match=text):
        ColourMask(COLOURS)(encode(pixels, "PNG"), MASK, (5, 7), NAMES[:4], ())


def test_the_decoder_pickles_and_its_repr_says_every_colour() -> None:
    decoder = ColourMask(COLOURS)
    assert pickle.loads(pickle.dumps(decoder)) == decoder  # noqa: S301 - our own bytes
    assert repr(decoder) == f"ColourMask(colours={COLOURS})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: it is not 'name,r,g,b'"),
        ("Animal,64,128,64\n", "line 1: it is not 'name,r,g,b'"),
        ("name,r,g,b\n", "has 0 classes; give 1 to 255"),
        (
            "name,r,g,b\nA,1,2,3\n\nB,1,2,3\n",
            "line 4: its colour is another class's too; a colour is one class",
        ),
        ("name,r,g,b\nA,1,2,3\nA,1,2,4\n", "line 3: its class is there twice"),
        ("name,r,g,b\nA,1,2\n", "line 2: it is not a name and three numbers"),
        ("name,r,g,b\nA,1,2,3,4\n", "line 2: .* is not a name and three"),
        ("name,r,g,b\nA,1,2,256\n", "line 2: .* from 0 to 255"),
        ("name,r,g,b\nA,1,2,x\n", "line 2: .* from 0 to 255"),
        ("name,r,g,b\n,1,2,3\n", "line 2: it is not a name"),
        ("name,r,g,b\n" + "".join(f"c{k},{k},0,1\n" for k in range(256)), "has 256 classes"),
    ],
)
def test_a_class_dict_that_names_no_classes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "class_dict.csv").write_text(text)
    with pytest.raises(RequestError, match=f"class_dict.csv.*{message}"):
        read_class_dict(tmp_path / "class_dict.csv")


def test_a_class_dict_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "class_dict.csv").write_bytes(("\ufeff" + CSV.replace("\n", "\r\n")).encode())
    assert read_class_dict(tmp_path / "class_dict.csv") == (("Animal", "Bicyclist", "Void", "Wall"), COLOURS)


TABLE = "\ufeff64 128 64 Animal\n\n0 128 192 ignore\n64 192 0 Wall of a house\n0 0 0 ignore\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("colours.txt", TABLE),
        ("colours.csv", CSV.replace("Bicyclist", "ignore").replace("Void", "ignore")),
    ],
)
def test_a_table_of_colours_gives_classes_by_its_order_and_what_is_ignored(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    names, decode = read_colours(tmp_path / name)
    assert names in (("Animal", "Wall"), ("Animal", "Wall of a house"))
    rgb = np.array([[(64, 192, 0), (64, 128, 64)], [(0, 128, 192), (0, 0, 0)]], np.uint8)
    assert decode(encode(rgb, "PNG"), MASK, (2, 2), names, ()).tolist() == [[1, 0], [255, 255]]
    assert decode(encode(rgb, "PNG"), MASK, (2, 2), names, ((0, 1), (2, 0))).tolist() == [[1, 1], [0, 255]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 classes; give 1 to 255"),
        ("1 2 3 ignore\n", "names no class; give a line a class, R G B NAME"),
        ("1 2 3\n", "line 1: it is not a name and three numbers from 0 to 255"),
        ("1 2 3 a\n1 2 256 b\n", "line 2: it is not a name and three numbers"),
        ("1 2 3 a\n1 2 4 a\n", "line 2: its class is there twice"),
        ("1 2 3 a\n1 2 3 ignore\n", "line 2: its colour is another class's too"),
    ],
)
def test_a_table_that_says_nothing_or_two_things_of_a_colour_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "colours.txt").write_text(text)
    with pytest.raises(RequestError, match=f"colours.txt.* {message}"):
        read_colours(tmp_path / "colours.txt")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"`label_colours=.*none` is no file; give one with a line"):
        read_colours(tmp_path / "none")
