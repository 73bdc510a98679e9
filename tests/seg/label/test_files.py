import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg.data.labels import decode_label
from seg.data.pairing import pair_labels
from seg.errors import DataWarning, LabelMismatch, RequestError
from seg.label.files import Boxes, LabelFiles, choose_classes, find_folders, make_box
from tests.small import read_tree, write_image

CLASSES = ("background", "cell", "dust")
SHAPE = "'class x y width height', a whole number and four shares of the image"
SIZE = (90, 130)


@st.composite
def sized_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Boxes]:
    """The size of an image, and boxes of whole pixels in it."""
    height, width = draw(st.tuples(st.integers(1, 2**20), st.integers(1, 2**20)))

    def edges(length: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True).map(sorted)

    kinds = st.integers(1, len(CLASSES) - 1)
    drawn = draw(st.lists(st.tuples(kinds, edges(width), edges(height)), max_size=5))
    boxes = tuple(make_box(kind, x[0], y[0], x[1], y[1]) for kind, x, y in drawn)
    return (height, width), boxes


@settings(max_examples=40)  # each writes two files, flushed
@given(sized_boxes())
def test_boxes_come_back_exactly_at_any_size(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[tuple[int, int], Boxes]
) -> None:
    size, boxes = drawn
    files = LabelFiles(tmp_path_factory.mktemp("labels"), CLASSES)
    files.write("s/a.png", boxes, size)
    assert files.read("s/a.png", size) == boxes


def test_what_is_written_is_the_mask_and_the_pixels_that_were_drawn(tmp_path: Path) -> None:
    files = LabelFiles(tmp_path, CLASSES)
    boxes = (make_box(1, 3, 5, 40, 60), make_box(2, 30, 50, 130, 90))
    files.write("s/a.png", boxes, SIZE)
    file = tmp_path / "boxes" / pair_labels(["s/a.png"], tmp_path / "boxes")["s/a.png"]
    expected = np.zeros(SIZE, np.uint8)
    expected[5:60, 3:40] = 1
    expected[50:90, 30:130] = 2
    copy = tmp_path / "boxes-json/s/a.json"
    for label in (file, copy):
        assert (decode_label(label.read_bytes(), label, SIZE, CLASSES) == expected).all()
    assert json.loads(copy.read_text()) == {
        "boxes": [[3, 5, 37, 55], [30, 50, 100, 40]],
        "classes": ["cell", "dust"],
    }
    assert (tmp_path / "classes.txt").read_text() == "background\ncell\ndust\n"


def test_no_box_is_an_empty_file_and_none_is_no_file(tmp_path: Path) -> None:
    files = LabelFiles(tmp_path, CLASSES)
    assert files.read("a.png", SIZE) is None
    files.write("a.png", (), SIZE)
    assert (tmp_path / "boxes/a.txt").read_bytes() == b""
    assert (files.read("a.png", SIZE), files.find_labelled(["a.png", "b.png"])) == ((), {"a.png"})
    files.write("a.png", None, SIZE)
    assert set(read_tree(tmp_path)) == {"classes.txt"}
    files.write("a.png", None, SIZE)  # nothing to remove


def test_an_image_and_the_pages_of_a_tiff_have_labels_of_their_own(tmp_path: Path) -> None:
    images = ["a.b.png", "s/a.tif", "stack.tif#0", "stack.tif#1"]
    files = LabelFiles(tmp_path, CLASSES)
    for image in images:
        files.write(image, (), SIZE)
    assert files.find_labelled(images) == set(images)
    assert len(list((tmp_path / "boxes").rglob("*.txt"))) == len(images)


def test_fractions_of_a_pixel_in_a_file_of_others_are_kept(tmp_path: Path) -> None:
    files = LabelFiles(tmp_path, CLASSES)
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/a.txt").write_text("0 0.5 0.5 0.1250000 0.3333333\n\n1 0.2 0.2 0.1 0.1\n")
    boxes = files.read("a.png", SIZE)
    assert boxes is not None
    width = 0.125 * SIZE[1]
    assert (boxes[0].left, boxes[0].right) == ((SIZE[1] - width) / 2, (SIZE[1] + width) / 2)
    files.write("a.png", boxes, SIZE)
    assert files.read("a.png", SIZE) == boxes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 0.5 0.5\n",
            "line 1: its fields are 3, not " + SHAPE,
        ),
        (
            "2 0.5 0.5 0.1 0.1\n",
            "line 1: its class is none of the 2 that boxes have here, which count from 0",
        ),
        (
            "-1 0.5 0.5 0.1 0.1\n",
            "line 1: its class is none of the 2 that boxes have here, which count from 0",
        ),
    ],
)
def test_a_damaged_label_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/a.txt").write_text(text)
    with pytest.raises(LabelMismatch) as error:
        LabelFiles(tmp_path, CLASSES).read("a.png", SIZE)
    assert str(error.value) == f"label {tmp_path}/boxes/a.txt, {message}"


def test_a_label_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "boxes/a.txt").mkdir(parents=True)
    with pytest.raises(LabelMismatch, match=r"^label .*/boxes/a.txt cannot be read: Is a directory$"):
        LabelFiles(tmp_path, CLASSES).read("a.png", SIZE)


def test_a_label_that_is_a_link_out_of_boxes_is_neither_read_nor_written_over(tmp_path: Path) -> None:
    (tmp_path / "boxes").mkdir()
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "boxes/a.txt").symlink_to(tmp_path / "a.txt")
    files = LabelFiles(tmp_path, CLASSES)
    with pytest.warns(DataWarning, match="a.txt, a link out of the label folder"):
        assert files.find_labelled(["a.png"]) == set()
    with pytest.raises(
        LabelMismatch, match=r"^label .*/boxes/a.txt is a link out of .*/boxes and is not read"
    ):
        files.read("a.png", SIZE)


def test_boxes_in_a_folder_that_is_itself_a_link_are_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "boxes").symlink_to(tmp_path / "elsewhere")
    files = LabelFiles(tmp_path, CLASSES)
    assert files.find_labelled(["a.png"]) == {"a.png"}
    assert len(files.read("a.png", SIZE) or ()) == 1


def test_two_images_that_would_share_a_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        LabelFiles(tmp_path, CLASSES).find_labelled(["a.png", "b.png", "a.tif"])
    label = tmp_path / "boxes/a.txt"
    assert str(error.value) == f"label {label} would be of a.png and a.tif; rename one, or label them apart"


@pytest.mark.parametrize("label", ["a.png", "a.json", "a.png.png"])
def test_another_kind_of_label_in_the_way_is_refused(tmp_path: Path, label: str) -> None:
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / label).write_text("{}")
    with pytest.raises(RequestError) as error:
        LabelFiles(tmp_path, CLASSES).find_labelled(["a.png"])
    assert str(error.value) == (
        f"labels {tmp_path}/boxes: a.png is labelled by {label}; labelling writes YOLO files "
        "there, so move that elsewhere or give another `out`"
    )


def test_a_mask_is_an_images_label_also_beside_its_boxes_and_takes_their_place(tmp_path: Path) -> None:
    files, mask = LabelFiles(tmp_path, CLASSES), np.zeros(SIZE, np.uint8)
    mask[3:9, 5:50], mask[80:, :7] = 2, 255
    files.write("s/a.png", (make_box(1, 3, 5, 40, 60),), SIZE)
    before = files.keep("s/a.png")
    files.write("s/a.png", mask, SIZE)
    assert set(read_tree(tmp_path)) == {"classes.txt", "masks/s/a.png"}
    assert (np.asarray(Image.open(tmp_path / "masks/s/a.png")) == mask).all()
    files.write("s/b.png", (), SIZE)
    (tmp_path / "boxes/s/a.txt").write_text("0 .5 .5 .1 .1\n")
    assert (files.read("s/a.png", SIZE) == mask).all()  # type: ignore[union-attr]
    assert files.find_labelled(["s/a.png", "s/b.png", "s/c.png"]) == {"s/a.png", "s/b.png"}
    files.put(before)
    assert files.keep("s/a.png") == before
    assert "masks/s/a.png" not in read_tree(tmp_path)
    files.write("s/a.png", None, SIZE)
    assert files.read("s/a.png", SIZE) is None


@pytest.mark.parametrize("name", ["a.tif.png", "a.png"])
def test_a_mask_under_either_name_that_a_label_may_have_is_read_and_written(
    tmp_path: Path, name: str
) -> None:
    files, mask = LabelFiles(tmp_path, CLASSES), np.full(SIZE, 1, np.uint8)
    write_image(tmp_path / "masks" / name, mask)
    assert files.find_labelled(["a.tif"]) == {"a.tif"}
    assert (files.read("a.tif", SIZE) == mask).all()  # type: ignore[union-attr]
    files.write("a.tif", mask * 2, SIZE)
    assert set(read_tree(tmp_path)) == {"classes.txt", f"masks/{name}"}
    assert pair_labels(["a.tif"], tmp_path / "masks") == {"a.tif": name}


def test_boxes_become_the_mask_that_reading_them_gives(tmp_path: Path) -> None:
    files, boxes = LabelFiles(tmp_path, CLASSES), (make_box(1, 3.4, 5, 40, 60), make_box(2, 30, 50, 130, 90))
    files.write("a.png", boxes, SIZE)
    file = tmp_path / "boxes/a.txt"
    read = decode_label(file.read_bytes(), file, SIZE, CLASSES)
    assert (files.as_mask("a.png", boxes, SIZE) == read).all()
    assert not files.as_mask("a.png", None, SIZE).any()
    assert (files.as_mask("a.png", read, SIZE) == read).all()


def test_a_mask_that_does_not_fit_is_named(tmp_path: Path) -> None:
    files = LabelFiles(tmp_path, CLASSES)
    write_image(tmp_path / "masks/a.png", np.full(SIZE, 3, np.uint8))
    with pytest.raises(LabelMismatch, match=r"^label .*/masks/a.png holds class id 3, not below 3"):
        files.read("a.png", SIZE)
    with pytest.raises(LabelMismatch, match=r"^label .*/masks/a.png is 130 x 90 pixels but its image is"):
        files.read("a.png", (90, 131))
    (tmp_path / "masks/a.txt").write_text("")
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(RequestError, match=r"a.png is labelled by a.txt; labelling writes PNG masks there"):
        files.find_labelled(["a.png"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("background\ncell\ndust\n")
    (tmp_path / "boxes").write_text("a file, where a folder should be")
    with pytest.raises(RequestError) as error:
        LabelFiles(tmp_path, CLASSES).write("a.png", (), SIZE)
    assert str(error.value) == (
        f"labels {tmp_path} cannot be written: File exists ({tmp_path}/boxes); mend that, or give another "
        "`out`; all before this change is saved"
    )


def test_the_plain_layout_keeps_its_labels_and_bare_images_get_a_folder_beside(tmp_path: Path) -> None:
    plain, bare = tmp_path / "plain", tmp_path / "frames"
    (plain / "images").mkdir(parents=True)
    bare.mkdir()
    assert find_folders(plain, None) == (plain / "images", plain)
    assert find_folders(plain / "images", None) == (plain / "images", plain)
    assert find_folders(bare, None) == (bare, tmp_path / "frames-labels")
    assert find_folders(bare, tmp_path / "mine") == (bare, tmp_path / "mine")
    assert find_folders(plain, tmp_path / "mine") == (plain / "images", tmp_path / "mine")


def test_classes_come_from_the_file_then_the_command_then_the_model(tmp_path: Path) -> None:
    assert choose_classes(tmp_path) == ("background", "sample")
    assert choose_classes(tmp_path, (), ("background", "cell")) == ("background", "cell")
    assert choose_classes(tmp_path, ("cell", "dust")) == CLASSES
    (tmp_path / "classes.txt").write_text("background\ncell\ndust\n")
    assert choose_classes(tmp_path) == CLASSES
    assert choose_classes(tmp_path, ("cell", "dust"), CLASSES) == CLASSES


def test_classes_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^`classes` names the classes background, dust but the model"):
        choose_classes(tmp_path, ("dust",), ("background", "cell"))
    file = tmp_path / "classes.txt"
    file.write_text("background\ncell\n")
    with pytest.raises(RequestError) as error:
        choose_classes(tmp_path, ("dust",))
    assert str(error.value) == (
        f"{file} names the classes background, cell but `classes` asks for background, dust; "
        "give the same classes, in the same order"
    )
    file.write_text("background\n")
    with pytest.raises(RequestError, match=r"names background alone; boxes need a class on a second line$"):
        choose_classes(tmp_path)
