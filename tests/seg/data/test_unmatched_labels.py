import re
import warnings
from pathlib import Path

import pytest

from seg.data.pairing import find_labels, nearest_labels, warn_of_unmatched
from seg.data.plain import open_plain
from seg.errors import DataWarning, RequestError
from tests.conftest import WriteArchive
from tests.seg.data.test_pairing import touch


def near(images: list[str], folder: Path) -> str:
    return nearest_labels(images, find_labels(images, folder), folder)


def test_the_nearest_names_and_the_endings_that_are_there_are_named(tmp_path: Path) -> None:
    names = [f"s/other-{number}_mask.png" for number in range(30)]
    touch(tmp_path, *names, "s/one_mask.png", "one.jpg", "t/x.jpg", "classes.txt", "s/.hidden.png", "x")
    assert near(["s/one.bmp"], tmp_path) == (
        "s/one.bmp would want s/one.bmp.png, s/one.png, s/one.txt or s/one.json; unused: s/one_mask.png, "
        "one.jpg, s/other-0_mask.png, ... (31 .png, 2 .jpg, 1 without an ending)"
    )


def test_another_folder_structure_shows_in_the_nearest_names(tmp_path: Path) -> None:
    touch(tmp_path, *(f"masks/s{number}/0.png" for number in range(9)))
    assert (
        "s7/0.png would want s7/0.png.png, s7/0.png, s7/0.txt or s7/0.json; unused: masks/s7/0.png,"
        in near(["s7/0.png"], tmp_path)
    )


def test_a_folder_without_a_label_file_too_many_has_nothing_to_tell(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "classes.txt")
    assert near(["a.bmp", "b.bmp"], tmp_path) == ""
    assert near(["b.bmp"], touch(tmp_path / "empty", "classes.txt")) == ""


def test_labels_without_an_image_are_named_where_every_image_has_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{letter}.png" for letter in "abcde"))
    assert near(["c.bmp"], tmp_path) == "unused: a.png, b.png, d.png, ... (4 .png)"


@pytest.mark.parametrize(("unused", "loud"), [(2, False), (3, True)])
def test_below_half_of_the_label_files_in_use_is_a_loud_line(tmp_path: Path, unused: int, loud: bool) -> None:
    touch(tmp_path, "a.png", "b.txt", "classes.txt", "notes.md", ".hidden.txt")
    touch(tmp_path, *(f"{number}.json" for number in range(unused)))
    images = ["a.bmp", "b.bmp", "c.bmp"]
    labels = find_labels(images, tmp_path)
    assert labels.unused == unused
    text = re.escape(f"labels {tmp_path}: ONLY 2 of its 5 label files fit an image: c.bmp would want ")
    if loud:
        with pytest.warns(DataWarning, match=text):
            warn_of_unmatched(images, labels, tmp_path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_unmatched(images, labels, tmp_path)


def test_training_data_whose_label_names_fit_no_image_names_the_nearest(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=1, frames=2)
    for mask in (root / "masks").rglob("*.png"):
        mask.rename(mask.with_name(f"{mask.stem}_mask.png"))
    with pytest.raises(
        RequestError, match=r"none of its 2 images has a label in masks/: s0/0.png would want"
    ):
        open_plain(root)
    (root / "masks/s0/0_mask.png").rename(root / "masks/s0/0.png")
    touch(root / "masks", "s0/old.png")
    with pytest.warns(DataWarning, match=r"ONLY 1 of its 3 label files .* unused: s0/1_mask.png, s0/old.png"):
        assert len(open_plain(root).samples) == 1
