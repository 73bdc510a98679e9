import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from seg.data.images import Pixels
from seg.errors import UnsupportedImage
from seg.label.files import LabelFiles, make_box
from seg.label.labelling import Labelling, Predicting, Propose
from seg.label.shapes import Shapes, fill_box
from tests.small import wait_until

PIXELS: Pixels = np.full((30, 40), 7, np.uint8)
FOUND: Shapes = (fill_box(make_box(1, 1, 2, 3, 4)),)


@contextmanager
def predicting(root: Path, propose: Propose) -> Iterator[tuple[Labelling, Predicting]]:
    labelling = Labelling(["1.png", "2.png"], LabelFiles(root, ("background", "cell")))
    labelling.open((30, 40))
    ahead = Predicting(labelling, propose)
    try:
        yield labelling, ahead
    finally:
        ahead.close()


def test_the_window_goes_on_while_the_model_looks(tmp_path: Path) -> None:
    go, seen = threading.Event(), []

    def propose(name: str, pixels: Pixels) -> Shapes:
        seen.append((name, int(pixels.sum())))
        assert go.wait(20)
        return FOUND

    with predicting(tmp_path, propose) as (labelling, ahead):
        for _ in range(5):
            assert ahead.look(PIXELS) == ""
        assert labelling.wants_proposals
        labelling.go(1)  # the user does not wait
        labelling.open((30, 40))
        assert ahead.look(PIXELS[:3]) == ""
        go.set()
        wait_until(lambda: ahead.look(PIXELS[:3]) or not labelling.wants_proposals, "the second image")
        labelling.go(-1)
        assert labelling.proposals == FOUND
        assert seen == [("1.png", PIXELS.sum()), ("2.png", PIXELS[:3].sum())]  # each once


def test_an_image_that_the_model_refuses_is_said_once(tmp_path: Path) -> None:
    def propose(_name: str, _pixels: Pixels) -> Shapes:
        raise UnsupportedImage("the image has 8 bits, the model was fitted on 16")

    said: list[str] = []
    with predicting(tmp_path, propose) as (labelling, ahead):
        wait_until(lambda: said.append(ahead.look(PIXELS)) or not labelling.wants_proposals, "the refusal")
        said.append(ahead.look(PIXELS))
    notice = "1.png: no proposals: the image has 8 bits, the model was fitted on 16"
    assert [words for words in said if words] == [notice]


def test_a_failure_of_ours_is_not_hidden(tmp_path: Path) -> None:
    def propose(_name: str, _pixels: Pixels) -> Shapes:
        raise ZeroDivisionError

    with predicting(tmp_path, propose) as (_, ahead), pytest.raises(ZeroDivisionError):
        wait_until(lambda: ahead.look(PIXELS), "the failure")
