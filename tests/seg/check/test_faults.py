import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg.check.check import check_data
from seg.check.faults import Fault, find_faults, shown_names
from seg.check.find import find_data
from seg.data.plain import LabelRule
from tests.conftest import WriteArchive
from tests.small import write_image


def read(path: Path) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def change(root: Path, names: str, how: Callable[[NDArray[np.uint8]], NDArray[np.generic]]) -> None:
    """Write the files that a pattern names anew."""
    files = list(root.glob(names))
    assert files
    for path in files:
        write_image(path, np.asarray(how(read(path))))


def put(
    value: int, at: tuple[slice | int, slice | int] = (9, 9)
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Set some pixels of an image."""

    def write(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels[at] = value
        return pixels

    return write


def remove(root: Path, names: str) -> None:
    for path in root.glob(names):
        path.unlink()


def add_copies(root: Path) -> None:
    """Each frame of a sequence once more, turned, in the other ones."""
    for kind in ("images", "masks"):
        pixels = read(root / kind / "s0/0.png")
        for sequence in ("s1", "s2", "s3"):
            write_image(root / kind / sequence / "0.png", np.rot90(pixels, 2))


def write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)


def paint(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask in two colours, which OpenCV writes blue first: the disc red, what is around it black."""
    return (mask == 1).astype(np.uint8)[:, :, None] * np.array([0, 0, 200], np.uint8)


ALL = (slice(None), slice(None))
DISC_ONLY = (slice(20, 30), slice(20, 30))
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, bool]] = {
    "image": (
        lambda root: write(root, "images/s0/0.png", "x"),
        "1 labelled image cannot be read",
        "s0/0.png",
        True,
    ),
    "label": (lambda root: write(root, "masks/s0/0.png", "x"), "1 label cannot be used", "is no image", True),
    "size": (
        lambda root: change(root, "masks/s0/0.png", lambda mask: mask[:-2]),
        "1 label cannot be used",
        "is 96 x 62 pixels but its image is 96 x 64",
        True,
    ),
    "colours": (
        lambda root: change(root, "masks/s0/0.png", paint),
        "1 label cannot be used",
        "where its colours stand for classes",
        True,
    ),
    "no label": (
        lambda root: remove(root, "masks/s1/0.png"),
        "1 of 12 images have no label and do not train",
        "s1/0.png",
        False,
    ),
    "no image": (lambda root: remove(root, "images/s1/0.png"), "1 label file without an image", "", False),
    "no labels": (lambda root: remove(root, "masks/*/*.png"), "none of its 12 images has a label", "", True),
    "two": (
        lambda root: shutil.copy(root / "masks/s0/0.png", root / "masks/s0/0.png.png"),
        "s0/0.png has two labels",
        "",
        True,
    ),
    "unknown id": (
        lambda root: change(root, "masks/s2/1.png", put(7)),
        "masks hold id 7, which none of the 2 classes has",
        "s2/1.png",
        True,
    ),
    "empty": (lambda root: change(root, "masks/s0/0.png", put(0, ALL)), "1 mask is empty", "s0/0.png", False),
    "all empty": (
        lambda root: change(root, "masks/*/*.png", put(0, ALL)),
        "12 masks are empty",
        "s0/0.png",
        True,
    ),
    "ignored": (
        lambda root: change(root, "masks/s0/0.png", put(255, ALL)),
        "1 mask is ignored in every pixel",
        "s0/0.png",
        False,
    ),
    "absent": (
        lambda root: write(root, "classes.txt", "background\ndisc\nghost\n"),
        "no mask that was read shows class ghost",
        "",
        False,
    ),
    "dot": (
        lambda root: (
            write(root, "classes.txt", "background\ndisc\ndot\n"),
            change(root, "masks/s*/0.png", put(2)),
        ),
        "the largest object of class dot has 1 pixel",
        "",
        False,
    ),
    "untrained": (
        lambda root: (
            write(root, "classes.txt", "background\ndisc\nrare\n"),
            write(root, "train.txt", "s0/0.png\ns1/0.png\n"),
            write(root, "val.txt", "s2/0.png\n"),
            change(root, "masks/s2/0.png", put(2, DISC_ONLY)),
        ),
        "class rare is in no image that was read and trains",
        "",
        False,
    ),
    "depths": (
        lambda root: change(root, "images/s1/1.png", lambda image: image.astype(np.uint16) * 257),
        "images have 2 depths: 8 bit (11), 16 bit (1)",
        "",
        False,
    ),
    "channels": (
        lambda root: change(root, "images/s1/1.png", lambda image: np.repeat(image[:, :, None], 3, 2)),
        "images have 2 channels: gray (11), RGB (1)",
        "",
        False,
    ),
    "sizes": (
        lambda root: (
            change(root, "images/s1/1.png", lambda image: image[:40]),
            change(root, "masks/s1/1.png", lambda mask: mask[:40]),
        ),
        "images have 2 sizes: 96 x 64 (11), 96 x 40 (1)",
        "",
        False,
    ),
    "small": (
        lambda root: (
            change(root, "images/s1/1.png", lambda image: image[:20]),
            change(root, "masks/s1/1.png", lambda mask: mask[:20]),
        ),
        "1 image of fewer pixels at working size than a crop of 32 x 96",
        "s1/1.png",
        True,
    ),
    "saturated": (
        lambda root: change(root, "images/s0/0.png", put(255, (slice(0, 3), slice(None)))),
        "1 image with 1% of its pixels or more at the largest",
        "s0/0.png",
        False,
    ),
    "constant": (
        lambda root: change(root, "images/s0/0.png", put(90, ALL)),
        "1 image of one value alone",
        "s0/0.png",
        False,
    ),
    "copies": (add_copies, "pairs of images of one scene, one of which trains", "s0/0.png and s", False),
    "few": (
        lambda root: (remove(root, "*/s[1-3]/*.png"), remove(root, "*/s0/[12].png")),
        "1 labelled images are too few to train and validate",
        "",
        True,
    ),
    "list": (lambda root: write(root, "train.txt", "s0/9.png\n"), "names no labelled image", "", True),
    "names": (
        lambda root: (remove(root, "classes.txt"), change(root, "masks/s0/*.png", put(5))),
        "masks hold ids 1, 5 and no classes.txt names them",
        "",
        False,
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named_with_its_images_and_how_to_mend_it(write_archive: WriteArchive, kind: str) -> None:
    spoil, what, names, stops = FAULTS[kind]
    root = write_archive(sequences=4, frames=3)
    spoil(root)
    faults = find_faults(check_data(find_data(root)))
    (found,) = [fault for fault in faults if what in fault.what]
    assert names in "; ".join(found.names)
    assert bool(names) == bool(found.names)
    assert (found.stops, found.mend != "") == (stops, True)
    assert any(fault.stops for fault in faults) == stops
    assert faults == sorted(faults, key=lambda fault: not fault.stops)


def test_the_colours_of_masks_are_named_and_once_they_are_told_nothing_is_wrong(
    write_archive: WriteArchive, tmp_path: Path
) -> None:
    root = write_archive(sequences=4, frames=3)
    change(root, "masks/*/*.png", paint)
    (fault,) = find_faults(check_data(find_data(root)))
    assert fault.mend.endswith("`label_colours`, a line R G B NAME for each of these colours: 0 0 0, 200 0 0")
    (root / "classes.txt").unlink()
    (tmp_path / "colours.txt").write_text("0 0 0 background\n200 0 0 disc\n")
    checked = check_data(find_data(root, LabelRule(colours=tmp_path / "colours.txt")))
    assert find_faults(checked) == []
    assert checked.meaning.classes == ("background", "disc")
    reds = sum(int((read(path)[:, :, 2] == 200).sum()) for path in root.glob("masks/*/*.png"))
    assert checked.class_pixels[1] == reds


def test_a_sound_data_set_has_none(write_archive: WriteArchive) -> None:
    assert find_faults(check_data(find_data(write_archive(sequences=4, frames=3)))) == []


def test_of_many_names_the_first_are_shown() -> None:
    fault = Fault(what="", mend="", names=tuple("abcde"))
    assert shown_names(fault, 3) == "a; b; c; and 2 more"
    assert shown_names(fault, 5) == "a; b; c; d; e"
    assert shown_names(Fault(what="", mend=""), 3) == ""
