from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.camvid import open_camvid
from seg.data.labels import decode_label
from seg.errors import RequestError
from seg.recipes import RECIPES


def write_camvid(root: Path, **lists: str) -> Path:
    """CamVid with empty files: a list of drive_frame names for each part."""
    for part, names in lists.items():
        lines = []
        for name in names.split():
            image, annotation = f"{part}/{name}.png", f"{part}annot/{name}.png"
            for file in (root / image, root / annotation):
                file.parent.mkdir(exist_ok=True)
                file.touch()
            lines.append(f"{image} {annotation}\n")
        (root / f"{part}.txt").write_text("".join(lines))
    return root


def test_the_lists_are_the_split_and_drives_the_sequences(tmp_path: Path) -> None:
    data = open_camvid(write_camvid(tmp_path, train="0001TP_7", val="0006R0_1"))
    assert data.given_split == (("train/0001TP_7.png",), ("val/0006R0_1.png",))
    assert [sample.sequence for sample in data.samples] == ["0001TP", "0006R0"]
    assert data.samples[0].label == tmp_path / "trainannot/0001TP_7.png"
    assert data.test == ()
    assert dict(data.label_map) == {11: 255}


def test_a_third_list_is_the_test_part(tmp_path: Path) -> None:
    data = open_camvid(write_camvid(tmp_path, train="0001TP_7", val="0006R0_1", test="Seq05VD_2 Seq05VD_1"))
    assert [sample.name for sample in data.test] == ["test/Seq05VD_2.png", "test/Seq05VD_1.png"]
    assert {sample.sequence for sample in data.test} == {"Seq05VD"}
    assert len(data.samples) == 2


def test_a_recipes_pattern_names_the_sequences(tmp_path: Path) -> None:
    data = open_camvid(write_camvid(tmp_path, train="0001TP_7", val="0006R0_1"), "_([0-9]+)")
    assert [sample.sequence for sample in data.samples] == ["7", "1"]


@pytest.mark.parametrize(
    ("train", "text"),
    [
        (None, "has no train.txt; CamVid"),
        ("a.png\n", "train.txt, line 1: its fields are 1, not 'image annotation'"),
        ("a.png b.png\n", "train.txt, line 1, field image names no file in"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, train: str | None, text: str) -> None:
    (tmp_path / "val.txt").touch()
    if train is not None:
        (tmp_path / "train.txt").write_text(train)
    with pytest.raises(RequestError, match=text):
        open_camvid(tmp_path)


def test_the_real_camvid_has_its_published_counts(shared_data: Path) -> None:
    data = open_camvid(shared_data / "camvid")
    assert data.given_split is not None
    assert [len(part) for part in data.given_split] == [367, 101]
    assert len(data.classes) == 11
    sample = data.samples[-1]
    assert sample.label is not None
    mask = decode_label(
        sample.label.read_bytes(), sample.label, (360, 480), data.classes, RECIPES["camvid-icnet"].label_map
    )
    stored = np.asarray(Image.open(sample.label))
    np.testing.assert_array_equal(mask, np.where(stored == 11, 255, stored))
