from pathlib import Path

import pytest

from seg.errors import RequestError
from seg.label.folder import read_queue

IMAGES = ["a.png", "s/1.png", "s/2.png", 'odd, "name".png', "c\nd.png", "pages.tif#1"]


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "review.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize("mark", ["", "\ufeff"])  # a spreadsheet puts it first
def test_images_come_in_the_files_order_each_once_whatever_else_it_has(tmp_path: Path, mark: str) -> None:
    quoted = '3,"odd, ""name"".png",x\n4,"c\nd.png",x\n5,pages.tif#1,x\n'
    file = write(tmp_path, f"{mark}rank,image,reason\n1,s/2.png,x\n2,a.png,x\n2,s/2.png,x\n{quoted}")
    assert read_queue(file, IMAGES) == ["s/2.png", "a.png", 'odd, "name".png', "c\nd.png", "pages.tif#1"]


MEND = "give the review.csv of a scoring"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank,name\n1,a.png\n", f"has no column named image; {MEND}"),
        ("", f"has no column named image; {MEND}"),
        ("rank,image\n", "names no image; there is nothing to label"),
        (b"image\n\xff\n", f"cannot be read (it is no CSV in UTF-8); {MEND}"),
        (
            "image\na.png\nb.png\nc.png\n",
            "line 3 and 1 more: the folder has no such image; give the folder that was scored",
        ),
    ],
)
def test_a_wrong_queue_is_one_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RequestError) as error:
        read_queue(file, IMAGES)
    assert str(error.value).removeprefix(f"`queue={file}`").lstrip(", ") == said


def test_a_queue_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be read \(No such file or directory\); give the"):
        read_queue(tmp_path / "none.csv", IMAGES)
