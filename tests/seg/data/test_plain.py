from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.colours import ColourMask
from seg.data.plain import LabelRule, choose_classes, open_plain, pair_images
from seg.data.splits import data_fingerprint
from seg.errors import RequestError
from tests.conftest import WriteArchive
from tests.seg.data.test_pairing import touch


def test_the_plain_layout_gives_labelled_images_in_natural_order(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=2, frames=11)
    (root / "masks/s1/3.png").unlink()
    data = open_plain(root)
    assert data.classes == ("background", "disc")
    assert [sample.name for sample in data.samples] == [
        f"s{sequence}/{frame}.png"
        for sequence in range(2)
        for frame in range(11)
        if (sequence, frame) != (1, 3)
    ]
    assert {sample.sequence for sample in data.samples} == {"s0", "s1"}
    assert all(sample.image.is_file() and sample.label and sample.label.is_file() for sample in data.samples)
    assert [(frame.name, frame.label) for frame in data.unlabelled] == [("s1/3.png", None)]
    assert data.frames() == [
        (f"s{sequence}/{frame}.png", root / f"images/s{sequence}/{frame}.png", f"s{sequence}")
        for sequence in range(2)
        for frame in range(11)
    ]


def test_pages_of_a_tiff_are_samples_of_one_file_and_one_sequence(tmp_path: Path) -> None:
    touch(tmp_path, "images/x", "masks/s/t.tif#0.png", "masks/s/t.tif#1.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    page = Image.fromarray(np.zeros((4, 4), np.uint8))
    (tmp_path / "images/s").mkdir()
    page.save(tmp_path / "images/s/t.tif", save_all=True, append_images=[page])
    samples = open_plain(tmp_path).samples
    assert [sample.name for sample in samples] == ["s/t.tif#0", "s/t.tif#1"]
    assert {sample.image for sample in samples} == {tmp_path / "images/s/t.tif"}
    assert {sample.sequence for sample in samples} == {"s/t.tif"}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "has no labels: neither masks/ nor boxes/ beside images/; give the folder .*, `labels=DIR`"),
        (("images/a.png",), "has no labels: neither masks/ nor boxes/"),
        (("images/a.png", "classes.txt"), "has no labels: neither masks/ nor boxes/"),
        (("images/a.png", "classes.txt", "masks/b.png"), "none of its 1 images has a label in masks/"),
    ],
)
def test_a_folder_that_cannot_train_is_refused(tmp_path: Path, names: tuple[str, ...], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        open_plain(touch(tmp_path, *names))


def write_lists(root: Path, **lists: str) -> Path:
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text)
    return root


def test_lists_beside_the_images_are_the_split_and_the_test_part(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=2, frames=4)
    write_lists(root, train="s0/1.png\n\ns1/0.png\n", val="s0/0.png\r\n", test="s1/3.png\n")
    data = open_plain(root)
    assert data.given_split == (("s0/1.png", "s1/0.png"), ("s0/0.png",))
    assert [sample.name for sample in data.test] == ["s1/3.png"]
    assert len(data.samples) == 7
    assert "s1/3.png" not in [name for name, _, _ in data.frames()]


def test_a_test_list_alone_sets_images_aside_and_leaves_the_split_to_chance(
    write_archive: WriteArchive,
) -> None:
    data = open_plain(write_lists(write_archive(sequences=2, frames=1), test="s0/0.png"))
    assert data.given_split is None
    assert [sample.name for sample in data.samples] == ["s1/0.png"]


@pytest.mark.parametrize(
    ("lists", "text"),
    [
        ({"train": "s0/0.png\n"}, "only one of train.txt and val.txt; give both"),
        ({"val": "s0/0.png\n"}, "only one of train.txt and val.txt; give both"),
        ({"train": "\ns0/9.png", "val": ""}, "train.txt, line 2: it names no labelled image of .*images"),
        ({"train": "s0/1.png", "val": ""}, "train.txt, line 1: it names no labelled image"),
        ({"train": "s0/0.png\ns0/0.png", "val": ""}, r"train.txt, line 2: .*in .*train.txt, line 1 too"),
        ({"train": "s0/0.png", "val": "s0/0.png"}, r"val.txt, line 1: .*in .*train.txt, line 1 too; list it"),
        ({"test": "s0/0.png \xff"}, "test.txt, line 1: it names no labelled image"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_its_line(
    write_archive: WriteArchive, lists: dict[str, str], text: str
) -> None:
    root = write_archive(sequences=1, frames=2)
    (root / "masks/s0/1.png").unlink()
    with pytest.raises(RequestError, match=text):
        open_plain(write_lists(root, **lists))


LAYOUTS = [  # files of a data folder; where the labels are, with what suffix; names of images and labels
    (("images/s/a.png", "masks/s/a.png"), None, "", {"s/a.png": "masks/s/a.png"}),
    (("images/s/a.png", "labels/a.png"), "labels", "", {"s/a.png": "labels/a.png"}),
    (("s/a.tif", "t/b.tif", "t/b_mask.png"), "", "_mask", {"t/b.tif": "t/b_mask.png"}),
    (("s/a.tif", "b.png", "s/m/b.png"), "s/m", "", {"b.png": "s/m/b.png"}),
    (("s/a[1]/a.png", "s/a[1]/m/a.png"), "s/a[1]/m", "", {"s/a[1]/a.png": "s/a[1]/m/a.png"}),
    (("images/a.png", "raw/a.tif", "m/images/a.png"), "m", "", {"images/a.png": "m/images/a.png"}),
    (("images/a.png", "masks/a.png", "m/a.png"), "m", "", {"a.png": "m/a.png"}),
    (("images/a.png", "../elsewhere/m/a.png"), "../elsewhere/m", "", {"a.png": "../elsewhere/m/a.png"}),
]


@pytest.mark.parametrize(("files", "folder", "suffix", "wanted"), LAYOUTS)
def test_images_and_labels_are_found_where_others_put_them(
    tmp_path: Path, files: tuple[str, ...], folder: str | None, suffix: str, wanted: dict[str, str]
) -> None:
    root = touch(tmp_path / "data", *files)
    data = open_plain(root, rule=LabelRule(folder=None if folder is None else root / folder, suffix=suffix))
    assert {sample.name: sample.label for sample in data.samples} == {
        image: (root / label).resolve() for image, label in wanted.items()
    }
    assert all(sample.image.is_file() for sample in data.samples)
    assert data.classes == ("background", "object")
    others = {name for name in files if name.endswith(".tif")} & {frame.name for frame in data.unlabelled}
    assert {frame.name for frame in data.unlabelled} == others  # and no label among them


def test_how_labels_were_found_is_told(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/s/a.png", "images/s/b.png", "m/b_x.tif", "m/c_x.tif", "m/c.tif")
    paired = pair_images(root, LabelRule(folder=root / "m", suffix="_x"))
    assert paired.line == (
        f"labels {root}/m: 1 of 2 images have one, P_x.tif, P_x.tiff or P_x.bmp of image P, by name alone; "
        "1 file unused"
    )


@pytest.mark.parametrize(
    ("files", "folder", "text"),
    [
        (("a.txt", "m/a.png"), "m", r"data .* holds no image \(found: 1 .png, 1 .txt\); give the folder"),
        (
            ("a.png", "m/a_x.png"),
            "m",
            "none of its 1 images has a label in .*/m: a.png would want a.png.png, ",
        ),
        (("a.png",), "nowhere", "label folder .*nowhere is no folder; give the folder that holds the masks"),
    ],
)
def test_labels_that_are_not_where_they_are_said_to_be_are_refused(
    tmp_path: Path, files: tuple[str, ...], folder: str, text: str
) -> None:
    root = touch(tmp_path, *files)
    with pytest.raises(RequestError, match=text):
        open_plain(root, rule=LabelRule(folder=root / folder))


@pytest.mark.parametrize(
    ("files", "asked", "wanted"),
    [
        ({}, (), ("background", "object")),
        ({}, ("cell", "dust"), ("background", "cell", "dust")),
        ({"m": "sky\nroad\n"}, (), ("sky", "road")),
        ({"m": "sky\nroad\n", ".": "background\ncell\n"}, ("cell",), ("background", "cell")),
    ],
)
def test_classes_are_those_of_a_file_else_those_asked_for(
    tmp_path: Path, files: dict[str, str], asked: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    (tmp_path / "m").mkdir()
    for folder, text in files.items():
        (tmp_path / folder / "classes.txt").write_text(text)
    assert choose_classes(tmp_path, tmp_path / "m", LabelRule(classes=asked)) == (wanted, None)


def test_classes_that_contradict_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(RequestError, match=r"classes.txt names the classes sky, road but `classes` asks"):
        choose_classes(tmp_path, tmp_path, LabelRule(classes=("road",)))


def test_colours_name_the_classes_and_boxes_stay_boxes(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "a.bmp", "b.bmp", "m/a.png", "m/b.txt")
    table = tmp_path / "colours.txt"
    table.write_text("0 0 0 background\n255 0 0 cell\n")
    rule = LabelRule(folder=root / "m", colours=table)
    data = open_plain(root, rule=rule)
    assert data.classes == ("background", "cell")
    assert [sample.decoder for sample in data.samples] == [ColourMask(((0, 0, 0), (255, 0, 0))), None]
    with pytest.raises(RequestError, match="`label_colours` names the classes, and so does `classes`; leave"):
        open_plain(root, rule=replace(rule, classes=("cell",)))
    (root / "classes.txt").write_text("background\ndisc\n")
    with pytest.raises(
        RequestError, match=r"names the classes background, disc but `label_colours=.*colours.txt` asks for"
    ):
        open_plain(root, rule=rule)


def test_of_masks_and_boxes_beside_each_other_a_mask_wins_and_both_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("images/s/a.bmp", "images/s/b.bmp", "images/c.bmp", "masks/s/a.png", "boxes/s/a.txt")
    root = touch(tmp_path, *names)
    with caplog.at_level("INFO"):
        masks = open_plain(root)
    assert (masks.labels, caplog.messages) == (root / "masks", [])  # no image has boxes alone
    touch(root, "boxes/s/b.json", "masks/other.png")
    with caplog.at_level("INFO"):
        data = open_plain(root)
    assert {sample.name: sample.label for sample in data.samples} == {
        "s/a.bmp": root / "masks/s/a.png",
        "s/b.bmp": root / "boxes/s/b.json",
    }
    assert [frame.name for frame in data.unlabelled] == ["c.bmp"]
    assert caplog.messages == [
        f"labels {root}: 1 mask, and boxes of 1 image without one; `labels={root}/masks` leaves the boxes out"
    ]
    assert pair_images(root).labels.unused == 1  # masks/other.png
    assert open_plain(root, rule=LabelRule(folder=root / "masks")).samples == masks.samples


def test_boxes_are_labels_where_no_mask_fits(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.bmp", "masks/other.png", "boxes/a.txt")
    assert [sample.label for sample in open_plain(root).samples] == [root / "boxes/a.txt"]


def test_two_labels_within_one_of_the_folders_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.bmp", "images/b.bmp", "masks/a.png", "boxes/b.txt", "boxes/b.json")
    with pytest.raises(RequestError, match=r"boxes: b.bmp has two labels, b.txt and b.json; remove one"):
        open_plain(root)


def test_images_and_labels_behind_links_count_where_links_are_followed(tmp_path: Path) -> None:
    real, root = touch(tmp_path / "real", "i/a.bmp", "m/a.png"), touch(tmp_path / "data", "images/x")
    (root / "images/s").symlink_to(real / "i")
    (root / "masks").mkdir()
    (root / "masks/s").symlink_to(real / "m")
    data = open_plain(root, rule=LabelRule(follow_links=True))
    assert [(sample.name, sample.label) for sample in data.samples] == [("s/a.bmp", root / "masks/s/a.png")]
    assert len(data_fingerprint(data.samples, root)) == 64
    with pytest.raises(RequestError, match=r"holds no image \(found: 1 \(link\), 1 \(none\)\)"):
        open_plain(root)
