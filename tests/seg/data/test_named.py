import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.data.listing import list_images
from seg.data.named import list_named
from seg.errors import RequestError
from tests.small import write_image

GRAY = np.zeros((4, 5), np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sequences, a stack of three pages, a hidden image, one in brackets and a text."""
    for name in ("s1/a-2.png", "s1/a-10.png", "s2/a-2.PNG", "s2/.hidden.png", "s1/[x].png", "one.tif"):
        write_image(tmp_path / name, GRAY)
    assert cv2.imwritemulti(str(tmp_path / "s2/stack.tif"), [GRAY] * 3)
    (tmp_path / "s1/notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: object, archive: Path | None = None) -> list[str]:
    return list_named([str(word) for word in words], archive)[0].images


def test_all_images_of_a_pattern_are_those_of_a_listing(root: Path) -> None:
    listing, folder = list_named(["**/*"])
    whole = list_images(root)
    assert folder == root
    assert listing.images == whole.images
    assert listing.bytes.tolist() == whole.bytes.tolist()
    assert listing.mtime_ns.tolist() == whole.mtime_ns.tolist()


def test_words_keep_their_order_patterns_the_natural_one_and_each_image_is_named_once(root: Path) -> None:
    assert names("s1/a-*.png") == ["a-2.png", "a-10.png"]
    assert names("s1/a-10.png", "s1/a*.png", root / "s1/a-2.png") == ["a-10.png", "a-2.png"]
    assert names("s1/../s1/[x].png") == ["[x].png"]  # a file of that name comes before the pattern
    assert names("s1/a-[0-9].png") == ["a-2.png"]
    assert names("s2/.hidden.png") == [".hidden.png"]


def test_names_count_from_what_images_have_in_common_or_from_the_archive(root: Path) -> None:
    assert names("s1/a-2.png", "s2/a-2.PNG") == ["s1/a-2.png", "s2/a-2.PNG"]
    assert list_named(["s1/a-2.png"])[1] == root / "s1"
    assert names("s1/a-2.png", archive=root) == names("s1/a-2.png", archive=Path()) == ["s1/a-2.png"]
    with pytest.raises(RequestError, match=r"`archive=s2` does not hold .*/s1/a-2.png; give a folder above"):
        names("s1/a-2.png", archive=Path("s2"))


def test_pages_of_a_stack_are_named_as_in_an_archive(root: Path) -> None:
    assert names("s2/stack.tif") == ["stack.tif#0", "stack.tif#1", "stack.tif#2"]
    assert names("s2/st*.tif#1", "s2/stack.tif#0") == ["stack.tif#1", "stack.tif#0"]
    assert names("one.tif#0") == names("one.tif") == ["one.tif"]
    said = r"stack.tif has no page 3: its 3 pages count from 0; try .*stack.tif#2$"
    with pytest.raises(RequestError, match=said):
        names("s2/stack.tif#3")


def test_a_link_keeps_its_name_and_place(root: Path) -> None:
    (root / "s1/link.png").symlink_to(root / "s2/a-2.PNG")
    (root / "other").symlink_to(root / "s1")
    listing, folder = list_named(["other/link.png"])
    assert (listing.images, folder) == (["link.png"], root / "other")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("s1/a-3.png", r"s1/a-3.png is no image: the nearest in .*/s1: a-2.png or a-10.png$"),
        ("s1/*.bmp", r"the nearest in .*/s1: \[x\].png or a-2.png or a-10.png$"),
        ("s3/a.png", r"s3/a.png is no image: there is no folder .*/s3$"),
        ("*.png", r"\*.png is no image: the nearest in .*: one.tif$"),
        ("s1/notes.txt", r"its name ends in none of .bmp, .jpeg, .jpg, .npy, .png, .tif, .tiff$"),
        ("s1/", r"s1/ is a folder; name its images, 's1/\*.png', or score it: jobs/score.py$"),
    ],
)
def test_a_word_that_names_no_image_is_refused_with_the_nearest(root: Path, word: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        names(word)


def test_no_word_is_refused_and_a_name_that_is_no_text(root: Path) -> None:
    with pytest.raises(RequestError, match="name an image at least"):
        names()
    (root / "one.tif").rename(root / os.fsdecode(b"\xff.tif"))
    with pytest.raises(RequestError, match=r"the name '.*\\udcff.tif' is no UTF-8; rename the file"):
        names("*.tif")
