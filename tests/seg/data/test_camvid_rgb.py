from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seg.data.camvid import open_camvid_rgb
from seg.errors import RequestError
from seg.recipes import RECIPES
from tests.seg.data.test_colours import COLOURS, CSV


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
