import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.layout import find_labels, open_plain, pair_labels, read_classes
from seg.errors import RequestError
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
        ({"train": "\ns0/9.png", "val": ""}, r"train.txt, line 2: s0/9.png is no labelled image in .*images"),
        ({"train": "s0/1.png", "val": ""}, r"train.txt, line 1: s0/1.png is no labelled image"),
        ({"train": "s0/0.png\ns0/0.png", "val": ""}, r"train.txt, line 2: .*in .*train.txt, line 1 too"),
        ({"train": "s0/0.png", "val": "s0/0.png"}, r"val.txt, line 1: .*in .*train.txt, line 1 too; list it"),
        ({"test": "s0/0.png \xff"}, r"test.txt, line 1: s0/0.png .* is no labelled image"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_its_line(
    write_archive: WriteArchive, lists: dict[str, str], text: str
) -> None:
    root = write_archive(sequences=1, frames=2)
    (root / "masks/s0/1.png").unlink()
    with pytest.raises(RequestError, match=text):
        open_plain(write_lists(root, **lists))
