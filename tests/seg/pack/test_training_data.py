import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from seg.data.images import ImageFiles
from seg.errors import DataWarning, RequestError
from seg.pack.training_data import (
    apply_foreground,
    open_packs,
    open_requested,
    open_training_data,
    plan_packs,
    warn_of_absent_classes,
)
from seg.recipe import Recipe
from seg.requests import DataRequest
from seg.train.run_folder import run_identity
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


def write_foreign(root: Path, *, suffix: str = "_mask") -> tuple[Path, Path]:
    """Four frames and, in another folder, their masks as TIFF, of 0, 255 and some ids in between."""
    images, labels = root / "images", root / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for frame in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[:8, : 8 + frame] = 255
        mask[8:10] = frame
        Image.fromarray(mask).save(labels / f"{frame}{suffix}.tif")
        Image.fromarray(mask // 2).save(images / f"{frame}.png")
    return images, labels


def ask(images: Path, labels: Path) -> DataRequest:
    return DataRequest(recipe=RECIPE, data=images, labels=labels, label_suffix="_mask")


def test_the_foreground_of_foreign_labels_is_class_1_and_all_else_0(tmp_path: Path) -> None:
    images, labels = write_foreign(tmp_path)
    request = apply_foreground(replace(ask(images, labels), foreground=255))
    assert dict(request.recipe.label_map) == {id_: int(id_ == 255) for id_ in range(256)}
    assert apply_foreground(request) == request
    data = open_requested(request, request.recipe)
    assert data.classes == ("background", "object")
    for sample in (*data.split.train, *data.split.validation):
        assert sample.label is not None
        found = sample.read_mask(ImageFiles(), (64, 64), data.classes, request.recipe.label_map)
        assert np.array_equal(found, np.asarray(Image.open(sample.label)) == 255)


def test_where_data_lie_is_no_part_of_their_fingerprint_and_which_label_is_whose_is(tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str:
        request = ask(root / "images", root / "labels")
        return open_requested(request, RECIPE).fingerprint

    write_foreign(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there/far")
    before = fingerprint(tmp_path / "here")
    assert fingerprint(tmp_path / "there/far") == before
    labels = tmp_path / "here/labels"
    (labels / "0_mask.tif").rename(labels / "x")
    (labels / "1_mask.tif").rename(labels / "0_mask.tif")
    (labels / "x").rename(labels / "1_mask.tif")
    assert fingerprint(tmp_path / "here") != before


def test_labels_inside_the_data_folder_make_the_run_that_the_plain_layout_makes(
    write_archive: WriteArchive,
) -> None:
    root = write_archive()
    plain = open_training_data(root, RECIPE, seed=0)
    given = open_requested(DataRequest(recipe=RECIPE, data=root, labels=root / "masks"), RECIPE)
    assert run_identity(RECIPE, given, 0) == run_identity(RECIPE, plain, 0)
    mine, theirs = (plan_packs(data, RECIPE) for data in (given, plain))
    assert [pack.path for pack in mine] == [pack.path for pack in theirs]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"foreground": 256}, "`foreground` is 256, but the ids of a mask go from 0 to 255; try"),
        (
            {"foreground": 1, "recipe": replace(RECIPE, label_map=((255, 1),))},
            "`foreground=1` and `label_map` both",
        ),
        (
            {"recipe": replace(RECIPE, dataset="camvid")},
            "`labels` is for `dataset=plain`: camvid knows where",
        ),
        (
            {"recipe": replace(RECIPE, dataset="drinks"), "labels": None},
            "`label_suffix` is for `dataset=plain`: drinks knows",
        ),
    ],
)
def test_words_about_labels_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    request = replace(ask(*write_foreign(tmp_path)), **changes)
    with pytest.raises(RequestError, match=text):
        open_requested(apply_foreground(request), request.recipe)


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
