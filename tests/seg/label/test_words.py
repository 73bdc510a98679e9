from pathlib import Path

import numpy as np

from seg.label.files import LabelFiles, make_box
from seg.label.labelling import Labelling
from seg.label.picture import box_colours
from seg.label.shapes import fill_box
from seg.label.window import Lines, describe_image, explain_drawing, list_keys

PIXELS = np.zeros((30, 40), np.uint16)


def begin(root: Path, *classes: str) -> Labelling:
    labelling = Labelling(["s/1.png", "s/2.png"], LabelFiles(root, ("background", *classes)))
    labelling.open((30, 40))
    return labelling


def read(lines: Lines) -> list[list[str]]:
    return [[text for text, _ in words] for words in lines]


def test_the_heading_says_what_is_shown_and_how_it_is_labelled(tmp_path: Path) -> None:
    labelling = begin(tmp_path, "cell", "dust")
    colours = box_colours(labelling.files.classes)

    def heading() -> list[str]:
        return read(describe_image(labelling, PIXELS, colours))[0]

    assert heading() == ["1.", "s/1.png", "40 x 30, 16 bits", "not labelled", "0 of 2 labelled"]
    labelling.add((1, 2, 3, 4))
    assert heading()[3:] == ["1 box", "1 of 2 labelled"]
    labelling.add((1, 2, 3, 4))
    assert heading()[3] == "2 boxes"
    labelling.propose("s/1.png", (fill_box(make_box(1, 20, 20, 25, 25)),))
    labelling.accept()
    assert heading()[3] == "2 objects"  # both boxes are one, and the accepted one
    labelling.confirm()
    labelling.open((30, 40))
    labelling.confirm()
    assert heading() == ["2.", "s/2.png", "40 x 30, 16 bits", "all background", "2 of 2 labelled"]


def test_the_class_of_the_next_box_is_in_brackets_each_in_its_colour(tmp_path: Path) -> None:
    labelling = begin(tmp_path, "cell", "dust")
    labelling.choose_class(2)
    colours = box_colours(labelling.files.classes)
    line = describe_image(labelling, PIXELS, colours)[1]
    assert line[1:] == [("1 cell", colours[1]), ("[2 dust]", colours[2])]
    assert read(explain_drawing(labelling))[0][0] == "dust: drag a box with the mouse"


def test_keys_that_do_nothing_now_are_left_out(tmp_path: Path) -> None:
    labelling = begin(tmp_path, "cell")
    keys = [
        "SPACE draw a box",
        "e ellipses",
        "n next: all background",
        "s skip",
        "p previous",
        "u undo",
        "d delete",
        "q quit",
    ]
    assert read(list_keys(labelling, "")) == [keys, [""]]
    labelling.propose("s/1.png", (fill_box(make_box(1, 1, 2, 3, 4)),))
    assert read(list_keys(labelling, "look"))[0][1:3] == ["a accept 1 proposal", "click accept one"]
    assert read(list_keys(labelling, "look"))[1] == ["look"]
    labelling.accept()
    assert read(list_keys(labelling, ""))[0] == [*keys[:2], "n next", *keys[3:]]
    labelling.change_form()
    assert read(list_keys(labelling, ""))[0][:2] == ["SPACE draw the box of an ellipse", "e boxes"]
    assert "1-9 or TAB class" in read(list_keys(begin(tmp_path, "cell", "dust"), ""))[0]


def test_the_picture_stays_in_its_place_when_a_box_is_drawn(tmp_path: Path) -> None:
    labelling = begin(tmp_path, "cell")
    assert len(explain_drawing(labelling)) == len(list_keys(labelling, ""))
