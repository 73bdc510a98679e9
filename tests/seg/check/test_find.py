from pathlib import Path

import numpy as np
import pytest

from seg.check.find import find_data, open_data
from seg.data.images import decode_image
from seg.data.plain import LabelRule, open_plain
from seg.errors import RequestError
from tests.conftest import SHARED, WriteArchive
from tests.small import write_image

IMAGES = ["a.png", "b.tif"]


def write_pairs(root: Path, images: list[str], labels: list[str]) -> None:
    """Images of one value each and, each with that value plus 100, their labels."""
    for value, names in enumerate(zip(images, labels, strict=True)):
        for name, shade in zip(names, (value, value + 100), strict=True):
            write_image(root / name, np.full((4, 6), shade, np.uint8))


@pytest.mark.parametrize(
    ("images", "labels", "data", "folder", "suffix"),
    [
        (["images/a.png", "images/b.tif"], ["masks/a.png", "masks/b.tif.png"], "", None, ""),
        (["images/a.png", "images/b.tif"], ["masks/a_mask.png", "masks/b_mask.png"], "", None, "_mask"),
        (["images/s/a.png", "images/s/b.tif"], ["labels/s/a.png", "labels/s/b.png"], "", "labels", ""),
        (["raw/a.png", "raw/b.tif"], ["raw masks/a.png", "raw masks/b.png"], "raw", "raw masks", ""),
        (["raw/a.png", "raw/b.tif"], ["GT/a-gt.tif", "GT/b-gt.tif"], "raw", "GT", "-gt"),
        (["raw/x/a.png", "raw/y/b.tif"], ["seg/a.png", "seg/b.png"], "raw", "seg", ""),
        (IMAGES, ["a_label.png", "b_label.png"], "", "", "_label"),
        (IMAGES, ["masks/a.png", "masks/b.png"], "", "masks", ""),
        (["mon/a.png", "tue/b.tif"], ["labels/mon/a.png", "labels/tue/b.png"], "", "labels", ""),
    ],
)
def test_labels_are_found_and_a_training_finds_the_same_by_what_is_found(
    tmp_path: Path, images: list[str], labels: list[str], data: str, folder: str | None, suffix: str
) -> None:
    write_pairs(tmp_path, images, labels)
    found = find_data(tmp_path)
    expected = None if folder is None else tmp_path / folder
    assert (found.data.root, found.rule) == (tmp_path / data, LabelRule(folder=expected, suffix=suffix))
    assert (found.refusal, len(found.data.samples), found.data.unlabelled) == ("", 2, ())
    for sample in found.data.samples:
        assert sample.label is not None
        ours, theirs = (decode_image(path.read_bytes()) for path in (sample.image, sample.label))
        assert int(theirs[0, 0]) - int(ours[0, 0]) == 100
    assert open_plain(found.data.root, "", found.rule).samples == found.data.samples


def test_a_suffix_is_found_in_a_folder_that_is_given(tmp_path: Path) -> None:
    write_pairs(tmp_path, [f"day/{name}" for name in IMAGES], ["hand/a_v2.png", "hand/b_v2.png"])
    found = find_data(tmp_path / "day", LabelRule(folder=tmp_path / "hand"))
    assert found.rule == LabelRule(folder=tmp_path / "hand", suffix="_v2")
    assert len(found.data.samples) == 2


def test_what_pairing_refuses_stands_beside_the_images(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["images/a.png"], ["masks/a.png"])
    write_image(tmp_path / "masks" / "a.png.png", np.zeros((4, 6), np.uint8))
    found = find_data(tmp_path)
    assert "a.png has two labels" in found.refusal
    assert [sample.name for sample in found.data.unlabelled] == ["a.png"]
    assert found.data.samples == ()


def test_images_without_labels_are_found_with_the_reason(tmp_path: Path) -> None:
    write_pairs(tmp_path, IMAGES, ["c/x.png", "c/y.png"])
    found = find_data(tmp_path)
    assert "`labels=DIR`" in found.refusal
    assert len(found.data.unlabelled) == 4


def test_names_of_classes_are_known_or_not(write_archive: WriteArchive) -> None:
    root = write_archive()
    assert find_data(root).has_names
    (root / "classes.txt").unlink()
    assert not find_data(root).has_names
    assert find_data(root, LabelRule(classes=("cell",))).has_names


@pytest.mark.parametrize("find", [find_data, open_data])
def test_a_folder_that_is_none_or_empty_is_refused(find: object, tmp_path: Path) -> None:
    assert callable(find)
    with pytest.raises(RequestError, match="nowhere is no folder"):
        find(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(RequestError, match="holds no image"):
        find(tmp_path)


def test_a_training_is_shown_what_it_would_find_and_no_more(tmp_path: Path) -> None:
    write_pairs(tmp_path, [f"images/{name}" for name in IMAGES], ["labels/a.png", "labels/b.png"])
    assert "neither masks/ nor boxes/" in open_data(tmp_path).refusal
    with pytest.raises(RequestError, match="unknown dataset 'plane'; did you mean plain"):
        open_data(tmp_path, dataset="plane")


@pytest.mark.parametrize(
    ("folder", "dataset"), [("camvid", "camvid"), ("drinks", "drinks"), ("oxford-iiit-pet", "pets-breeds")]
)
def test_the_data_sets_of_adapters_are_recognised(folder: str, dataset: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no {folder} here")
    found = find_data(SHARED / folder)
    assert (found.dataset, found.refusal) == (dataset, "")
    assert len(found.data.samples) > 50
