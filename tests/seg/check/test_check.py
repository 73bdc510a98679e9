from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.check.check import Checked, check_data, check_folder, check_training
from seg.check.find import find_data, open_data
from seg.data.layout import DataSet
from seg.data.splits import Split, split_samples
from seg.errors import RequestError
from seg.recipes import RECIPES, find_recipe
from seg.requests import CheckRequest, TrainRequest
from tests.conftest import SHARED, WriteArchive
from tests.small import TINY


@pytest.fixture
def archive(write_archive: WriteArchive) -> Path:
    return write_archive(sequences=4, frames=3)


def test_pixels_are_those_of_the_masks(archive: Path) -> None:
    checked = check_data(find_data(archive))
    masks = [np.asarray(Image.open(path)) for path in archive.glob("masks/*/*.png")]
    expected = [sum(int((mask == number).sum()) for mask in masks) for number in (0, 1)]
    assert checked.class_pixels.tolist() == expected
    assert checked.meaning.count_ignored(checked.stored_pixels) == sum(int((m == 255).sum()) for m in masks)
    assert (checked.total, len(checked.images), len(checked.labels)) == (12, 12, 12)
    widths, areas = checked.objects()
    assert areas.sum() == expected[1]
    assert widths == pytest.approx(np.full(len(widths), 32), abs=2)  # discs of half the height, on pixels


def test_the_split_is_the_trainings(archive: Path) -> None:
    found = find_data(archive)
    expected = split_samples(found.data, 0.2, seed=5)
    assert check_data(found, seed=5).split == expected
    limited = check_data(found, TINY, seed=5, limit=2).split
    assert isinstance(limited, Split)
    assert (limited.train, limited.validation) == (expected.train[:2], expected.validation[:2])


def test_without_a_recipe_one_is_fitted_and_with_one_none(archive: Path) -> None:
    checked = check_data(find_data(archive))
    assert checked.plan is not None
    assert checked.recipe == checked.plan.fitted != find_recipe("interferogram-small")
    told = check_data(open_data(archive), TINY)
    assert (told.plan, told.recipe) == (None, TINY)


def test_an_id_that_is_told_is_the_foreground(archive: Path) -> None:
    checked = check_data(find_data(archive), foreground=255)
    assert checked.class_pixels[1] == 12 * 96  # a row of each mask
    assert checked.meaning.foreground == 255


def test_a_request_is_checked_as_its_training_would_find_it(archive: Path) -> None:
    (archive / "masks").rename(archive / "hand")
    asked = TrainRequest(recipe=TINY, data=archive)
    assert "neither masks/ nor boxes/" in check_training(asked).found.refusal
    checked = check_training(replace(asked, labels=archive / "hand"))
    assert (checked.found.refusal, len(checked.labels)) == ("", 12)
    assert check_folder(CheckRequest(data=archive)).found.rule.folder == archive / "hand"


@pytest.mark.parametrize(("field", "text"), [("seed", "`seed` is -1"), ("limit", "`limit` is -1")])
def test_numbers_that_no_training_takes_are_refused(archive: Path, field: str, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        check_data(find_data(archive), TINY, **{field: -1})


def test_a_data_set_that_an_adapter_knows_gets_the_recipe_made_for_it() -> None:
    if not (SHARED / "camvid").is_dir():
        pytest.skip("no camvid here")
    found = find_data(SHARED / "camvid")
    few = DataSet(found.data.root, found.data.classes, found.data.samples[:4], label_map=found.data.label_map)
    checked: Checked = check_data(replace(found, data=few))
    assert checked.plan is not None
    assert checked.recipe == RECIPES["camvid-icnet"]
    assert checked.meaning.label_map == ((11, 255),)
    assert checked.meaning.unknown == ()
