import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.check.check import Checked, check_data
from seg.check.faults import find_faults
from seg.check.find import find_data
from seg.check.screen import draw_sheet, print_check, write_check
from seg.figures.panels import COLOURS, to_rgb
from tests.conftest import WriteArchive


@pytest.fixture
def checked(write_archive: WriteArchive) -> Checked:
    """An archive of long names, one of whose images is damaged."""
    root = write_archive(sequences=4, frames=3)
    long = "the fourth sequence of an afternoon on which nobody could think of any shorter name than this"
    for kind in ("images", "masks"):
        (root / kind / "s3").rename(root / kind / long)
    (root / "images/s0/0.png").write_bytes(b"x")
    return check_data(find_data(root))


def test_what_is_printed_keeps_to_80_columns_and_says_all(
    checked: Checked, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = find_faults(checked)
    print_check(checked, faults, lambda text: text.replace("save them again", "SAVE THEM"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    words = " ".join(printed.split())
    for text in (
        "images 12, all read",
        "labelled 12, P.png",
        "sequences 4, of 3 to 3 images",
        "9 train, 3 validate",
        "PNG 8 bit gray 96 x 64 11",
        "0 background",
        "255 (ignored)",
        "crops.size_px 64 96",
        "faults: 1 that stop a training, 0 to know of",
        "1 STOPS: 1 labelled image cannot be read; SAVE THEM",
    ):
        assert text in words
    assert str(checked.found.data.root) in "".join(printed.split("\n"))


def test_the_files_hold_the_figures_the_faults_and_the_pictures(checked: Checked, tmp_path: Path) -> None:
    write_check(tmp_path / "new", checked, find_faults(checked), "python jobs/train.py")
    values = json.loads((tmp_path / "new/check.json").read_text())
    assert (values["images"], values["labelled"], values["command"]) == (12, 12, "python jobs/train.py")
    assert len(values["train"]) + len(values["validation"]) == 12
    assert sum(values["class_pixels"]) + values["stored_pixels"]["255"] == 11 * 64 * 96
    assert values["choices"]["crops.size_px"] == [64, 96]
    (fault,) = values["faults"]
    assert (fault["stops"], len(fault["names"])) == (True, 1)
    with Image.open(tmp_path / "new/check.png") as picture:
        assert min(picture.size) > 400


def test_labels_are_outlined_in_the_colour_of_their_class(checked: Checked) -> None:
    sheet = draw_sheet(checked)
    assert sheet is not None
    panels = [pixels for pixels, _, _ in sheet.arrays if min(pixels.shape[:2]) > 100]
    assert len(panels) == 3  # of four one is damaged
    outline = np.array(to_rgb(COLOURS[0]))
    for panel in panels:
        rows, columns = np.nonzero((panel == outline).all(2))
        # around a disc of half the height, in 320 x 480 pixels
        assert 140 <= rows.max() - rows.min() <= 170
        assert 140 <= columns.max() - columns.min() <= 170


def test_where_no_label_was_read_there_is_no_picture(write_archive: WriteArchive, tmp_path: Path) -> None:
    root = write_archive(sequences=1, frames=2)
    for path in root.glob("masks/*/*.png"):
        path.unlink()
    checked = check_data(find_data(root))
    assert draw_sheet(checked) is None
    write_check(tmp_path / "new", checked, find_faults(checked), "")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["check.json"]
