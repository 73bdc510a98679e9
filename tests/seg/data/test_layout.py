import json
from pathlib import Path

import pytest

from seg.data import DATASETS
from seg.data.layout import read_classes
from seg.data.plain import open_plain
from seg.errors import RequestError
from tests.conftest import WriteArchive
from tests.seg.data.test_pairing import touch


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


SECRET = "root:x:0:0:hunter2"


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
