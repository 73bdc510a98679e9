import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.errors import DataWarning
from seg.pack.training_data import open_packs, open_training_data, plan_packs, warn_of_absent_classes
from seg.recipe import Recipe
from tests.conftest import WriteArchive

RECIPE = Recipe(name="x", validation_share=0.5)


def test_packs_are_planned_where_they_are_opened(write_archive: WriteArchive) -> None:
    data = open_training_data(write_archive(), RECIPE, seed=0)
    plans, packs = plan_packs(data, RECIPE), open_packs(data, RECIPE)
    assert [plan.path for plan in plans] == [pack.path for pack in packs]
    for plan, pack, part in zip(plans, packs, (data.split.train, data.split.validation), strict=True):
        assert plan.samples == part
        assert [image.name for image in pack.images()] == [sample.name for sample in part]
    assert [pack[0].own_mask is None for pack in packs] == [True, False]


def test_workers_find_packs_where_the_job_has_them(
    write_archive: WriteArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_training_data(write_archive(), RECIPE, seed=0)
    here = [plan.path for plan in plan_packs(data, RECIPE)]
    sent = pickle.dumps(data)
    monkeypatch.setenv("FRINGE_CACHE", str(tmp_path / "of a worker"))
    assert [plan.path for plan in plan_packs(pickle.loads(sent), RECIPE)] == here  # noqa: S301  # our own bytes


def test_a_class_that_no_training_image_shows_is_named(write_archive: WriteArchive) -> None:
    root = write_archive()
    (root / "classes.txt").write_text("background\ndisc\nring\ndust\n")
    data = open_training_data(root, RECIPE, seed=0)
    for sample in data.split.validation:  # there it is of no use
        assert sample.label is not None
        cv2.imwrite(str(sample.label), np.full((64, 96), 2, np.uint8))
    train, _ = open_packs(data, RECIPE)
    with pytest.warns(DataWarning, match=r"no training image shows class ring, dust; no model can learn"):
        warn_of_absent_classes(data.classes, train)


def test_where_every_class_is_shown_nothing_is_said(write_archive: WriteArchive) -> None:
    data = open_training_data(write_archive(), RECIPE, seed=0)
    warn_of_absent_classes(data.classes, open_packs(data, RECIPE)[0])


def test_a_limit_is_said_for_each_part_it_counts_for(
    write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_archive(sequences=4, frames=3)
    recipe = Recipe(name="x", validation_share=0.25)
    open_training_data(root, recipe, seed=0)
    assert not capsys.readouterr().err
    open_training_data(root, recipe, seed=0, limit=4)
    said = "`limit=4` for each part: 4 of 9 images of training, 3 of 3 of validation\n"
    assert capsys.readouterr().err == said
