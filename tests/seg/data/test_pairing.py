import os
from pathlib import Path

import pytest

from seg.data.pairing import Naming, find_labels, find_namings, pair_labels
from seg.data.plain import open_plain
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


OTHERS_WAYS = [  # the files of a label folder, and which of them are the labels of s/a.tif and t/b.bmp
    ("", ["s/a.tiff", "t/b.bmp", "x.tif"], ["s/a.tiff", "t/b.bmp"]),
    ("", ["s/a.tif", "t/b.png"], [None, "t/b.png"]),  # one PNG: the folder's TIFFs are something else
    ("", ["b.png", "a.tif.png"], ["a.tif.png", "b.png"]),
    ("", ["b.tif", "a.bmp"], ["a.bmp", "b.tif"]),
    ("", ["a.png", "t/b.png"], [None, "t/b.png"]),  # one path: the name of the other is chance
    ("_mask", ["s/a_mask.png", "t/b_mask.txt", "t/b.png"], ["s/a_mask.png", "t/b_mask.txt"]),
    ("_mask", ["s/a.tif_mask.png", "t/b.bmp_mask.png"], ["s/a.tif_mask.png", "t/b.bmp_mask.png"]),
    ("-seg", ["a-seg.tif", "b-seg.tiff", "a.tif"], ["a-seg.tif", "b-seg.tiff"]),
    (".cells", ["a.cells.png", "axcells.png"], ["a.cells.png", None]),
]


@pytest.mark.filterwarnings("ignore:.*would have a TIFF or BMP")
@pytest.mark.parametrize(("suffix", "files", "wanted"), OTHERS_WAYS)
def test_labels_as_others_name_them_find_their_images(
    tmp_path: Path, suffix: str, files: list[str], wanted: list[str | None]
) -> None:
    images = ["s/a.tif", "t/b.bmp"]
    labels = find_labels(images, touch(tmp_path, *files), find_namings(suffix))
    assert [labels.names.get(image) for image in images] == wanted
    assert all((labels.bytes >= 0) == [name is not None for name in wanted])


@pytest.mark.parametrize(
    ("naming", "files", "unused"),
    [
        (Naming(), ["a.png", "b.json", "b.tif", ".c.png", "classes.txt"], 2),
        (Naming("_mask"), ["a_mask.png", "a.png", "b_mask.TXT", "_mask.png", "b_mask.tif"], 2),
        (Naming("_mask", other_masks=True), ["a_mask.tif", "a.tif", "d/b_mask.BMP", "b_mask.png"], 3),
    ],
)
def test_what_could_have_been_a_label_is_counted(
    tmp_path: Path, naming: Naming, files: list[str], unused: int
) -> None:
    assert find_labels(["z.png"], touch(tmp_path, *files), (naming,)).unused == unused


@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_masks_of_another_naming_are_not_left_out_in_silence(tmp_path: Path, suffix: str) -> None:
    """One drawn as a PNG, in a folder of TIFFs, would otherwise be all there is to train on."""
    touch(tmp_path, *(f"{name}{suffix}.{kind}" for name, kind in (("a", "png"), ("b", "tif"), ("d", "BMP"))))
    touch(tmp_path, f"c{suffix}.bmp", f"a{suffix}.tiff", f"elsewhere{suffix}.tif")
    said = r"2 images without a label would have a TIFF or BMP of that name \(the first is b.png\), which is"
    with pytest.warns(DataWarning, match=said):
        found = find_labels(["a.png", "b.png", "c.jpg", "e.png"], tmp_path, find_namings(suffix))
    assert dict(found.names) == {"a.png": f"a{suffix}.png"}


def test_a_label_that_is_two_images_by_its_name_alone_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "0_mask.png", "1_mask.png")
    with pytest.raises(RequestError, match=r"0_mask.png fits s/0.bmp and t/0.bmp; .* as s/0.bmp_mask.png$"):
        find_labels(["s/0.bmp", "t/0.bmp", "t/1.bmp"], tmp_path, find_namings("_mask"))


def test_no_image_is_its_own_label(tmp_path: Path) -> None:
    images = ["a.tif", "b.tif", "c.png"]
    touch(tmp_path, *images, "a.txt", "c.txt")
    labels = find_labels(images, tmp_path, holds_images=True)
    assert dict(labels.names) == {"a.tif": "a.txt", "c.png": "c.txt"}
    assert (labels.unused, labels.bytes.tolist()) == (0, [0, -1, 0])
    (tmp_path / "a.txt").unlink()
    (tmp_path / "c.txt").unlink()
    assert not find_labels(images, tmp_path, holds_images=True).names
    assert find_labels(images[:2], tmp_path).naming == Naming(other_masks=True)  # were it another folder


@pytest.mark.parametrize(
    ("naming", "text"),
    [
        (Naming(), "P.png, P.txt or P.json of image P, by path"),
        (Naming("_m", other_masks=True, flat=True), "P_m.tif, P_m.tiff or P_m.bmp of image P, by name alone"),
    ],
)
def test_a_naming_is_said_in_words(naming: Naming, text: str) -> None:
    assert str(naming) == text
