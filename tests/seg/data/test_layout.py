import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import DATASETS
from seg.data.layout import find_labels, open_plain, pair_labels, read_classes
from seg.errors import DataWarning, RequestError
from seg.storage import as_place
from tests.conftest import WriteArchive


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_each_form_of_a_label_name_finds_its_image(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.bmp.png", "s/b.png", "c.txt", "d.json", "t.tif#0.png", "t#1.png", "s/other.png")
    images = ["s/a.bmp", "s/b.tif", "c.jpg", "d.npy", "t.tif#0", "t.tif#1", "s/none.png"]
    assert pair_labels(images, tmp_path) == {
        "s/a.bmp": "s/a.bmp.png",
        "s/b.tif": "s/b.png",
        "c.jpg": "c.txt",
        "d.npy": "d.json",
        "t.tif#0": "t.tif#0.png",
        "t.tif#1": "t#1.png",
    }


def test_sizes_and_times_of_labels_stand_beside_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "other.txt")
    (tmp_path / "b.png").write_bytes(b"abc")
    os.utime(tmp_path / "b.png", ns=(0, 7))
    labels = find_labels(["a.bmp", "b.bmp"], tmp_path)
    assert labels.names == {"b.bmp": "b.png"}
    assert labels.bytes.tolist() == [-1, 3]
    assert labels.mtime_ns.tolist() == [-1, 7]
    assert labels.unused == 1


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (["a.bmp"], ["a.png", "a.txt"], r"a.bmp has two labels, a.png and a.txt; remove one"),
        (["a.bmp"], ["a.bmp.png", "a.png"], r"a.bmp has two labels, a.bmp.png and a.png"),
        (["a b.bmp", "a b.tif"], ["a b.png"], "a b.png fits a b.bmp and a b.tif; .* as a b.bmp.png"),
    ],
)
def test_a_label_that_is_not_one_to_one_is_refused(
    tmp_path: Path, images: list[str], labels: list[str], text: str
) -> None:
    touch(tmp_path, *labels)
    with pytest.raises(RequestError, match=text):
        pair_labels(images, tmp_path)


def test_a_label_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"label folder .*nowhere is no folder"):
        pair_labels(["a.png"], tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["sky\nroad\n", "sky\nroad", "sky \r\nroad\r\n", "\ufeffsky\rroad"])
def test_class_names_are_the_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_classes(tmp_path / "classes.txt") == ("sky", "road")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("", "must be there.*line 1$"),
        ("a\n\nb\n", "must be there.*line 2$"),
        ("a\nb\na\n", "differ; look at line 3$"),
        ("a\nb\xfc\n", r"is no UTF-8 \(its byte 3\); save it as UTF-8"),
        ("\n".join(map(str, range(256))), "256 classes, but ids end at 254"),
    ],
)
def test_class_names_that_name_no_classes_are_refused(tmp_path: Path, lines: str, text: str) -> None:
    (tmp_path / "classes.txt").write_text(lines, encoding="latin-1")
    with pytest.raises(RequestError, match=text):
        read_classes(tmp_path / "classes.txt")


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
        ((), "has no images/ and classes.txt"),
        (("images/a.png",), "has no images/ and classes.txt"),
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


SECRET = "root:x:0:0:hunter2"


@pytest.fixture
def linked(write_archive: WriteArchive, tmp_path: Path) -> Path:
    """An archive of two images in two sequences; the masks of one lie elsewhere, behind a link each."""
    root, outside = write_archive(sequences=2, frames=2), tmp_path / "outside"
    outside.mkdir()
    (root / "masks/s1/0.png").rename(outside / "0.png")
    (root / "masks/s1/0.png").symlink_to(outside / "0.png")
    (root / "masks/s1/1.png").rename(root / "masks/kept.png")
    (root / "masks/s1/1.png").symlink_to(root / "masks/kept.png")
    (root / "masks/s2").symlink_to(outside)
    return root


def test_a_label_that_is_a_link_out_of_its_folder_is_left_out_named_and_counted(linked: Path) -> None:
    images = ["s0/0.png", "s1/0.png", "s1/1.png", "s2/0.png"]
    with pytest.warns(DataWarning) as caught:
        labels = find_labels(images, linked / "masks")
    assert dict(labels.names) == {"s0/0.png": "s0/0.png", "s1/1.png": "s1/1.png"}
    assert (labels.links, labels.unused) == (2, 2)  # unused: s0/1.png and kept.png
    assert [str(warning.message) for warning in caught] == [
        f"labels {linked}/masks: left out: s1/0.png and 1 more, a link out of the label folder or to a "
        "folder; put the files themselves there"
    ]


def test_a_training_leaves_out_what_is_a_link_out_of_the_masks(linked: Path) -> None:
    with pytest.warns(DataWarning, match="s1/0.png and 1 more, a link out of the label folder"):
        data = open_plain(linked)
    assert [sample.name for sample in data.samples] == ["s0/0.png", "s0/1.png", "s1/1.png"]
    assert [frame.name for frame in data.unlabelled] == ["s1/0.png"]


def test_labels_in_a_folder_that_is_itself_a_link_are_read(linked: Path, tmp_path: Path) -> None:
    (linked / "masks/s1/0.png").unlink()
    (linked / "masks/s2").unlink()
    (tmp_path / "here").symlink_to(linked / "masks")
    for folder in (tmp_path / "here", as_place(tmp_path).below("here")):
        labels = find_labels(["s0/0.png", "s1/1.png"], folder)
        assert (len(labels.names), labels.links) == (2, 0)


@pytest.mark.parametrize("name", ["classes.txt", "train.txt"])
def test_a_list_that_is_a_link_out_of_its_folder_is_refused(
    write_archive: WriteArchive, tmp_path: Path, name: str
) -> None:
    root = write_archive()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(tmp_path / "secret")
    with pytest.raises(RequestError, match=f"{name} is a link out of its folder; put the file itself there"):
        open_plain(root)


def write_one_list(root: Path, kind: str, text: str) -> None:
    """A data set with nothing but what makes its adapter read this text."""
    file = {
        "plain": "train.txt", "camvid": "train.txt", "camvid-rgb": "class_dict.csv",
        "pets-breeds": "annotations/trainval.txt", "drinks": "segmentation_train.json",
    }[kind]  # fmt: skip
    touch(root, "val.txt", "test.txt", "images/a.png", "masks/a.png", file)
    (root / "classes.txt").write_text("a\nb\n")
    (root / file).write_text(text)


REGION = {"shape_attributes": {"name": SECRET}, "region_attributes": {"Name": SECRET}}
WRONG_LISTS = [
    *((kind, SECRET) for kind in DATASETS if kind not in ("pets-binary", "pets-trimap", "pets-breeds-only")),
    ("plain", f"a.png\n{SECRET}"),
    ("camvid", f"{SECRET} {SECRET}"),
    ("camvid-rgb", f"name,r,g,b\n{SECRET},1,2,x"),
    ("camvid-rgb", f"name,r,g,b\n{SECRET},1,2,3\n{SECRET},1,2,4"),
    ("camvid-rgb", f"name,r,g,b\n{SECRET},1,2,3\nb,1,2,3"),
    ("pets-breeds", f"{SECRET} 1 1 1"),
    ("pets-breeds", f"{SECRET} 1 1 1\n{SECRET} 1 1 1"),
    ("pets-breeds", f"{SECRET}_1 1 1 1\nb_1 1 1 1"),
    ("pets-breeds", f"{SECRET}_1 2 1 1"),
    ("drinks", json.dumps({SECRET: 1})),
    ("drinks", json.dumps({"_via_img_metadata": {SECRET: {SECRET: 1}}})),
    ("drinks", json.dumps({"_via_img_metadata": {"a": {"filename": SECRET, "regions": []}}})),
    ("drinks", json.dumps({"_via_img_metadata": {"a": {"filename": "images/a.png", "regions": [REGION]}}})),
]


@pytest.mark.parametrize(("kind", "text"), WRONG_LISTS)
def test_no_text_of_a_list_is_quoted(tmp_path: Path, kind: str, text: str) -> None:
    write_one_list(tmp_path, kind, text)
    with pytest.raises(RequestError) as caught:
        DATASETS[kind](tmp_path, "")
    assert "hunter2" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("way", ["..", "absolute", "link", "linked folder"])
@pytest.mark.parametrize("kind", ["camvid", "drinks", "pets-binary"])
def test_a_listed_file_outside_of_the_data_set_is_refused_with_its_line(
    tmp_path: Path, kind: str, way: str
) -> None:
    root = tmp_path / "data"
    touch(tmp_path, "outside/x.jpg", "outside/x.png", "data/images/x.png", "data/annotations/trimaps/x.png")
    top = root / "images" if kind == "pets-binary" else root
    (top / "link.jpg").symlink_to(tmp_path / "outside/x.jpg")
    (top / "linked").symlink_to(tmp_path / "outside")
    up = "../" * (1 + len(top.relative_to(root).parts))
    name = {
        "..": f"{up}outside/x.jpg", "absolute": f"{tmp_path}/outside/x.jpg", "link": "link.jpg",
        "linked folder": "linked/x.jpg",
    }[way]  # fmt: skip
    entry = {"_via_img_metadata": {"k": {"filename": name, "regions": []}}}
    text = {"camvid": f"{name} images/x.png", "drinks": json.dumps(entry)}.get(kind, f"{name[:-4]} 1 1 1")
    write_one_list(root, kind.replace("binary", "breeds"), text)
    place = {"camvid": "line 1, field image", "drinks": "entry 1, field filename"}.get(
        kind, "line 1, field NAME"
    )
    with pytest.raises(
        RequestError, match=rf"{place} leads out of .*/data.*; name files in it, without \.\. or links"
    ):
        DATASETS[kind](root, "")


def test_a_colour_mask_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "outside/a_L.png", "train/a.png", "val/b.png", "val_labels/b_L.png", "train_labels/c")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nA,1,2,3\n")
    (tmp_path / "train_labels/a_L.png").symlink_to(tmp_path / "outside/a_L.png")
    with pytest.raises(RequestError, match=r"mask .*train_labels/a_L.png is a link out of its folder"):
        DATASETS["camvid-rgb"](tmp_path, "")
