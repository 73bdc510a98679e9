from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg.errors import LabelMismatch, RequestError
from seg.label.files import LabelFiles, Mask, make_box
from seg.label.labelling import Labelling
from seg.label.shapes import Shapes, fill_box, fill_ellipse
from tests.small import read_tree, write_image

CLASSES = ("background", "cell", "dust")
IMAGES = ["s/1.png", "s/2.png", "s/10.png"]
SIZE = (90, 130)


def begin(root: Path) -> Labelling:
    labelling = Labelling(IMAGES, LabelFiles(root, CLASSES))
    labelling.open(SIZE)
    return labelling


def saved(root: Path) -> dict[str, str]:
    """The YOLO files that are there; JSON has the same names beside them."""
    tree = read_tree(root)
    labels = {name.removeprefix("boxes/"): data.decode() for name, data in tree.items() if "boxes/" in name}
    copies = {name.removeprefix("boxes-json/") for name in tree if "boxes-json/" in name}
    assert {name.replace(".txt", ".json") for name in labels} == copies
    return labels


def test_every_change_is_saved_before_anything_else_happens(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.add((13, 9, 39, 27))
    assert saved(tmp_path) == {"s/1.txt": "0 0.2000000000 0.2000000000 0.2000000000 0.2000000000\n"}
    labelling.choose_class(2)
    labelling.add((0, 0, 130, 90))
    assert (
        saved(tmp_path)["s/1.txt"].splitlines()[1] == "1 0.5000000000 0.5000000000 1.0000000000 1.0000000000"
    )
    labelling.delete()
    assert saved(tmp_path) == {"s/1.txt": "0 0.2000000000 0.2000000000 0.2000000000 0.2000000000\n"}
    labelling.delete()
    assert saved(tmp_path) == {}


def test_looking_at_images_writes_nothing_and_going_on_with_next_says_background(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    for step, moved in ((1, True), (1, True), (1, False), (-1, True), (-1, True), (-1, False)):
        assert labelling.go(step) is moved
        labelling.open(SIZE)
    assert not list(tmp_path.iterdir())
    assert labelling.confirm()
    assert (labelling.image, saved(tmp_path)) == ("s/2.png", {"s/1.txt": ""})


def test_next_leaves_a_labelled_image_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "boxes/s/1.txt"
    file.parent.mkdir(parents=True)
    file.write_text("0 0.5 0.5 0.1 0.1")
    before = file.stat().st_mtime_ns
    labelling = begin(tmp_path)
    assert labelling.image == "s/2.png"
    labelling.go(-1)
    labelling.open(SIZE)
    labelling.confirm()
    assert (file.stat().st_mtime_ns, set(read_tree(tmp_path))) == (before, {"boxes/s/1.txt"})


def test_it_begins_at_the_first_image_without_a_label(tmp_path: Path) -> None:
    files = LabelFiles(tmp_path, CLASSES)
    files.write("s/1.png", (make_box(1, 0, 0, 9, 9),), SIZE)
    files.write("s/10.png", (), SIZE)
    assert begin(tmp_path).image == "s/2.png"
    files.write("s/2.png", (), SIZE)
    labelling = begin(tmp_path)
    assert (labelling.image, labelling.boxes) == ("s/1.png", (make_box(1, 0, 0, 9, 9),))
    assert labelling.labelled == set(IMAGES)


def test_next_at_the_last_image_confirms_it_and_stays(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    for image, moved in zip(IMAGES, (True, True, False), strict=True):
        labelling.open(SIZE)
        assert (labelling.image, labelling.confirm()) == (image, moved)
    assert saved(tmp_path) == {"s/1.txt": "", "s/2.txt": "", "s/10.txt": ""}
    assert labelling.boxes == ()


def test_delete_takes_the_smallest_box_under_the_mouse_or_else_the_last(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    large, small, apart = (0, 0, 100, 80), (10, 10, 20, 20), (50, 50, 60, 60)
    for edges in (large, small, apart):
        labelling.add(edges)
    assert labelling.delete((15.5, 15.5))
    assert [(box.left, box.right) for box in labelling.boxes or ()] == [(0, 100), (50, 60)]
    assert labelling.delete((19.5, 20.5))  # the large one alone is there
    assert [(box.left, box.right) for box in labelling.boxes or ()] == [(50, 60)]
    labelling.add(small)
    assert labelling.delete((129, 89))
    assert [(box.left, box.right) for box in labelling.boxes or ()] == [(50, 60)]
    assert labelling.delete()
    assert not labelling.delete()


def test_of_two_equal_boxes_one_is_deleted(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.add((10, 10, 20, 20))
    labelling.add((10, 10, 20, 20))
    labelling.delete((15, 15))
    assert labelling.boxes == (make_box(1, 10, 10, 20, 20),)


def test_undo_goes_back_to_the_image_of_the_change(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.add((1, 2, 3, 4))
    labelling.confirm()
    labelling.open(SIZE)
    labelling.confirm()
    labelling.open(SIZE)
    assert labelling.undo()
    assert (labelling.image, labelling.boxes, set(saved(tmp_path))) == ("s/2.png", None, {"s/1.txt"})
    assert labelling.undo()
    assert (labelling.image, labelling.boxes, saved(tmp_path)) == ("s/1.png", None, {})
    assert not labelling.undo()
    assert labelling.labelled == set()


def test_a_change_that_cannot_be_saved_did_not_happen(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.add((1, 2, 3, 4))
    before = labelling.boxes
    (tmp_path / "boxes-json/s/1.json").unlink()
    (tmp_path / "boxes-json/s/1.json").mkdir()
    with pytest.raises(RequestError, match="cannot be written"):
        labelling.add((5, 6, 7, 8))
    assert labelling.boxes == before


PROPOSED: Shapes = (fill_ellipse(make_box(1, 5, 5, 15, 15)), fill_box(make_box(2, 50, 40, 60, 50)))


def read_mask(root: Path, image: str = "s/1.png") -> Mask:
    return np.asarray(Image.open(root / "masks" / image))


def test_proposals_are_in_no_file_until_they_are_accepted_and_undo_takes_them_back(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    assert labelling.wants_proposals
    labelling.propose("s/1.png", PROPOSED)
    assert not labelling.wants_proposals
    assert (labelling.proposals, labelling.label, saved(tmp_path)) == (PROPOSED, None, {})
    labelling.add((1, 2, 3, 4))
    assert labelling.proposals == PROPOSED
    assert labelling.accept()
    assert (labelling.proposals, labelling.boxes, saved(tmp_path)) == ((), None, {})
    wanted = np.zeros(SIZE, np.uint8)
    wanted[2:4, 1:3], wanted[40:50, 50:60] = 1, 2
    wanted[5:15, 5:15] = PROPOSED[0].pixels  # not all of its box
    assert (read_mask(tmp_path) == wanted).all()
    assert not labelling.accept()
    assert labelling.delete((10, 10))
    assert labelling.proposals == ()  # what was accepted and deleted does not come back
    wanted[5:15, 5:15] = 0
    assert (read_mask(tmp_path) == wanted).all()
    assert labelling.undo()
    assert labelling.undo()
    assert (labelling.boxes, labelling.proposals) == ((make_box(1, 1, 2, 3, 4),), PROPOSED)
    assert saved(tmp_path)["s/1.txt"].count("\n") == 1
    assert not (tmp_path / "masks/s/1.png").exists()


def test_a_click_accepts_the_proposal_under_it_alone(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.propose("s/1.png", PROPOSED)
    assert not labelling.accept((5.5, 5.5))  # in its box, beside its pixels
    assert labelling.label is None
    assert labelling.accept((55, 45))
    assert labelling.proposals == PROPOSED[:1]
    assert set(np.unique(read_mask(tmp_path), return_counts=True)[1]) == {SIZE[0] * SIZE[1] - 100, 100}
    assert labelling.accept()
    assert (read_mask(tmp_path) == 1).sum() == PROPOSED[0].pixels.sum()
    labelling.undo()
    labelling.undo()
    assert (labelling.label, labelling.proposals, labelling.labelled) == (None, PROPOSED, set())


def test_boxes_drawn_on_a_mask_are_objects_of_it_and_the_last_one_deleted_takes_it_along(
    tmp_path: Path,
) -> None:
    labelling = begin(tmp_path)
    labelling.propose("s/1.png", PROPOSED[1:])
    labelling.accept()
    labelling.add((80, 10, 90, 20))
    assert (read_mask(tmp_path)[10:20, 80:90] == 1).all()
    assert not labelling.delete((120, 80))  # nothing is there, and which one is the last a mask does not tell
    assert labelling.delete((55, 45))
    assert labelling.delete((85, 15))
    assert (labelling.label, labelling.labelled, saved(tmp_path)) == (None, set(), {})
    assert not (tmp_path / "masks/s/1.png").exists()


def test_ignored_pixels_stay_where_nothing_is_drawn(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:5], mask[20:30, 20:30] = 255, 1
    write_image(tmp_path / "masks/s/1.png", mask)
    labelling = Labelling(IMAGES[:1], LabelFiles(tmp_path, CLASSES))
    labelling.open(SIZE)
    assert len(labelling.shapes) == 1
    labelling.delete((25, 25))
    mask[20:30, 20:30] = 0
    assert (read_mask(tmp_path) == mask).all()


def test_a_box_that_means_an_ellipse_is_its_pixels_and_earlier_boxes_go_along(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.add((0, 0, 10, 10))
    labelling.change_form()
    labelling.choose_class(2)
    labelling.add((20, 30, 61, 51))
    wanted = np.zeros(SIZE, np.uint8)
    cv2.ellipse(wanted, (40, 40), (20, 10), 0, 0, 360, 2, -1)  # drawn by another library
    wanted[:10, :10] = 1
    assert (read_mask(tmp_path) != wanted).sum() <= 8  # pixels of the rim
    assert (labelling.form, saved(tmp_path)) == ("ellipse", {})
    labelling.change_form()
    assert labelling.form == "filled"


def test_a_labelled_image_wants_no_proposals_and_one_without_objects_is_asked_once(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.propose("s/1.png", ())
    assert not labelling.wants_proposals
    assert not labelling.accept()
    labelling.confirm()
    labelling.open(SIZE)
    assert labelling.wants_proposals
    labelling.add((1, 2, 3, 4))
    assert not labelling.wants_proposals


def test_images_that_cannot_be_shown_are_passed_in_the_direction_of_travel(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    labelling.go(1)
    labelling.set_aside("damaged")
    assert labelling.image == "s/10.png"
    labelling.open(SIZE)
    assert labelling.go(-1)
    assert labelling.image == "s/1.png"
    labelling.open(SIZE)
    labelling.go(1)
    labelling.set_aside("damaged too")  # the last: back to where we were
    assert labelling.image == "s/1.png"
    assert not labelling.go(1)
    with pytest.raises(
        RequestError, match=r"^none of the 3 images can be labelled; the last: and the first$"
    ):
        labelling.set_aside("and the first")


def test_a_damaged_label_file_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "boxes/s/2.txt"
    file.parent.mkdir(parents=True)
    file.write_text("not YOLO")
    labelling = begin(tmp_path)
    labelling.confirm()
    assert labelling.image == "s/2.png"
    with pytest.raises(LabelMismatch):
        labelling.open(SIZE)
    labelling.set_aside("the label is damaged")
    labelling.open(SIZE)
    labelling.add((1, 2, 3, 4))
    assert file.read_text() == "not YOLO"


def test_a_class_that_is_not_there_is_not_chosen(tmp_path: Path) -> None:
    labelling = begin(tmp_path)
    for kind, chosen in ((2, 2), (3, 2), (0, 2), (1, 1)):
        labelling.choose_class(kind)
        assert labelling.kind == chosen


@settings(max_examples=25)  # each change writes two files, flushed
@given(st.lists(st.sampled_from("adnpsxceP12"), min_size=5, max_size=25))
def test_undo_to_the_beginning_leaves_the_files_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    """Whatever was done: adding, deleting, confirming, moving, accepting; and files say what is shown."""
    root = tmp_path_factory.mktemp("labels")
    LabelFiles(root, CLASSES).write("s/2.png", (make_box(2, 1, 1, 5, 5), make_box(1, 3, 3, 9, 9)), SIZE)
    write_image(root / "masks/s/10.tif.png", np.full(SIZE, 1, np.uint8))  # of no image here
    (root / "boxes/s/10.txt").write_text("0 .5 .5 .1 .1")  # not as we write it
    before, labelling = read_tree(root), begin(root)
    for count, key in enumerate(keys):
        match key:
            case "a":
                labelling.add((count, count, count + 9, count + 9))
            case "d":
                labelling.delete((12, 12))
            case "n":
                labelling.confirm()
            case "p" | "s":
                labelling.go(1 if key == "s" else -1)
            case "x" | "c":
                labelling.accept((10, 10) if key == "c" else None)
            case "e":
                labelling.change_form()
            case "P":
                labelling.propose(labelling.image, PROPOSED)
            case kind:
                labelling.choose_class(int(kind))
        shown = labelling.label
        labelling.open(SIZE)
        assert key in "nps" or np.array_equal(np.asarray(shown), np.asarray(labelling.label))
        assert labelling.labelled == labelling.files.find_labelled(IMAGES)
    while labelling.undo():
        pass
    assert read_tree(root) == before
