import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.camvid import Colour, ColourMask, open_camvid_rgb, read_class_dict
from seg.errors import LabelMismatch, RequestError
from seg.recipes import RECIPES
from tests.seg.data.test_images import encode

CSV = "name,r,g,b\nAnimal,64,128,64\nBicyclist,0,128, 192\nVoid,0,0,0\nWall,64,192,0\n"
COLOURS = ((64, 128, 64), (0, 128, 192), (0, 0, 0), (64, 192, 0))
MASK = Path("m/a_L.png")
NAMES = tuple(f"class {number}" for number in range(40))


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_camvid_rgb(root: Path, **parts: str) -> Path:
    """Images of noise in the folders of the data set as Kaggle has it, with masks of random classes."""
    random = np.random.default_rng(1)
    root.mkdir(exist_ok=True)
    (root / "class_dict.csv").write_text(CSV)
    for part, names in parts.items():
        for name in names.split():
            ids = random.integers(0, 4, (12, 16))
            write_png(root / part / f"{name}.png", random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            write_png(root / f"{part}_labels" / f"{name}_L.png", np.array(COLOURS, np.uint8)[ids])
    return root


def test_folders_are_the_split_and_drives_the_sequences(tmp_path: Path) -> None:
    data = open_camvid_rgb(write_camvid_rgb(tmp_path, train="0001TP_9 0001TP_10", val="0006R0_1", test="S_2"))
    assert data.classes == ("Animal", "Bicyclist", "Void", "Wall")
    assert data.given_split == (("train/0001TP_9.png", "train/0001TP_10.png"), ("val/0006R0_1.png",))
    assert [sample.name for sample in data.test] == ["test/S_2.png"]
    assert [sample.sequence for sample in data.samples] == ["0001TP", "0001TP", "0006R0"]
    by_pattern = open_camvid_rgb(tmp_path, r"(\w+)/").samples
    assert [sample.sequence for sample in by_pattern] == ["train", "train", "val"]
    assert data.root == tmp_path
    assert data.label_map == ()


def test_masks_are_the_classes_of_the_colours_that_pillow_reads(tmp_path: Path) -> None:
    data = open_camvid_rgb(write_camvid_rgb(tmp_path, train="a_1 a_2", val="b_1"))
    for sample in data.samples:
        assert sample.label is not None
        assert sample.decoder is not None
        mask = sample.decoder(sample.label.read_bytes(), sample.label, (12, 16), data.classes, ())
        with Image.open(sample.label) as image:
            expected = [[COLOURS.index(image.getpixel((x, y))) for x in range(16)] for y in range(12)]
        assert mask.dtype == np.uint8
        assert mask.tolist() == expected
        mapped = sample.decoder(sample.label.read_bytes(), sample.label, (12, 16), data.classes, ((2, 255),))
        np.testing.assert_array_equal(mapped, np.where(mask == 2, 255, mask))


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


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (remove("class_dict.csv"), "class_dict.csv is not there"),
        (
            lambda root: (root / "val").rename(root / "valid"),
            "has no val/; CamVid with colours has train/ and val/",
        ),
        (remove("val_labels/b_1_L.png"), r"val/b_1.png has no mask .*val_labels/b_1_L.png"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], text: str
) -> None:
    spoil(write_camvid_rgb(tmp_path, train="a_1", val="b_1"))
    with pytest.raises(RequestError, match=text):
        open_camvid_rgb(tmp_path)


def test_the_recipe_reads_this_layout() -> None:
    assert RECIPES["camvid-unet"].dataset == "camvid-rgb"
