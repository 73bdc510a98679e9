from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.camvid import open_camvid
from seg.data.labels import decode_label
from seg.errors import RequestError
from seg.recipes import RECIPES


def test_the_lists_are_the_split_and_drives_the_sequences(tmp_path: Path) -> None:
    for name in (
        "train/0001TP_7.jpg",
        "trainannot/0001TP_7.png",
        "val/0006R0_1.png",
        "valannot/0006R0_1.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train.txt").write_text("train/0001TP_7.jpg trainannot/0001TP_7.png\n")
    (tmp_path / "val.txt").write_text("val/0006R0_1.png valannot/0006R0_1.png\n")
    data = open_camvid(tmp_path)
    assert data.given_split == (("train/0001TP_7.jpg",), ("val/0006R0_1.png",))
    assert [sample.sequence for sample in data.samples] == ["0001TP", "0006R0"]
    assert data.samples[0].label == tmp_path / "trainannot/0001TP_7.png"


@pytest.mark.parametrize(
    ("train", "text"),
    [
        (None, "has no train.txt; CamVid"),
        ("a.png\n", "train.txt, line 1: 'a.png' is not 'image annotation'"),
        ("a.png b.png\n", "train.txt, line 1: .*a.png is not there"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, train: str | None, text: str) -> None:
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
    mask = decode_label(
        sample.label.read_bytes(), sample.label, (360, 480), 11, RECIPES["camvid-icnet"].label_map
    )
    stored = np.asarray(Image.open(sample.label))
    np.testing.assert_array_equal(mask, np.where(stored == 11, 255, stored))
