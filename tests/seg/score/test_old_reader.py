"""Folders as an earlier version left them: made by this one, then their run.json without `reader`."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.score import look_only, score
from cluster.session import Session
from seg.errors import RequestError
from seg.files import write_json
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Scored
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.score.folder import refuse_changed
from seg.score.plan import plan_scoring
from seg.storage import as_place
from tests.small import ledger_rows, read_tree, write_image, write_model

TIFFS = ["b.TIFF", "deep/c.tif", "pages.Tif#0", "pages.Tif#1"]
REFUSAL = (
    r"`out=.*out` holds another run, with reader 1 instead of 2, which reads TIFFs otherwise \({} of these "
    r"images: {}\); give `rescore_changed` to score them again, or another `out`"
)
ALL_TIFFS = REFUSAL.format(5, r"b\.TIFF, broken\.tif, deep/c\.tif, pages\.Tif#0, pages\.Tif#1")
IDLE = Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> ScoreRequest:
    """A scoring that is done: PNGs, TIFFs of all endings, and one that is damaged and so in quarantine."""
    root = tmp_path_factory.mktemp("scored")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("a.png", "deep/z.png", "b.TIFF", "deep/c.tif"):
        write_image(root / "archive" / name, pixels)
    assert cv2.imwritemulti(str(root / "archive/pages.tif"), [pixels, pixels])
    (root / "archive/pages.tif").rename(root / "archive/pages.Tif")
    (root / "archive/broken.tif").write_bytes(b"II*\0")
    request = ask(root, write_model(root / "model.safetensors"))
    score(request, IDLE)
    return request


@pytest.fixture
def old(tmp_path: Path, scored: ScoreRequest) -> ScoreRequest:
    """The same in a folder of the test's own, as a version without readers would have left it."""
    shutil.copytree(scored.out.local(), tmp_path / "out")
    make_old(tmp_path / "out")
    return replace(scored, out=as_place(tmp_path / "out"))


def ask(root: Path, model: Path, **options: Any) -> ScoreRequest:
    return ScoreRequest(
        archive=as_place(root / "archive"), models=(model,), out=as_place(root / "out"), workers=0, **options
    )


def make_old(out: Path) -> None:
    run = json.loads((out / "run.json").read_text())
    assert run.pop("reader") == 2
    write_json(out / "run.json", run)


def reader_of(out: Path) -> int | None:
    return json.loads((out / "run.json").read_text()).get("reader")


def times(out: Path) -> dict[str, datetime]:
    return {row["image"]: row["finished_at"] for row in ledger_rows(out)}


def judge(request: ScoreRequest) -> list[str]:
    """What a command with this request would score again."""
    plan = plan_scoring(request)
    return refuse_changed(plan, request, Ledger(plan.out))


@pytest.mark.parametrize("command", [score, look_only])
def test_tiffs_of_an_earlier_reader_are_refused_by_name_and_nothing_is_written(
    old: ScoreRequest, command: Callable[..., object]
) -> None:
    files = read_tree(old.out.local())
    with pytest.raises(RequestError, match=ALL_TIFFS):
        command(old, IDLE)
    assert read_tree(old.out.local()) == files


def test_with_rescore_changed_tiffs_are_scored_again_and_nothing_else(old: ScoreRequest) -> None:
    out = old.out.local()
    before = times(out)
    summary = score(replace(old, rescore_changed=True), IDLE)
    after = times(out)
    assert after.keys() == before.keys()
    assert sorted(image for image in after if after[image] != before[image]) == TIFFS
    assert (summary.values["images_scored"], summary.values["images_quarantined"]) == (4, 1)
    assert reader_of(out) == 2
    assert score(old, IDLE).values["images_scored"] == 0


def test_a_folder_of_an_earlier_reader_without_tiffs_goes_on_and_is_this_readers(
    tmp_path: Path, scored: ScoreRequest
) -> None:
    write_image(tmp_path / "archive/a.png", np.zeros((64, 64), np.uint8))
    request, out = ask(tmp_path, *scored.models), tmp_path / "out"
    score(request, IDLE)
    make_old(out)
    before = times(out)
    write_image(tmp_path / "archive/b.png", np.zeros((64, 64), np.uint8))
    assert score(request, IDLE).values["images_scored"] == 1
    assert times(out).items() > before.items()
    assert reader_of(out) == 2  # from now on TIFFs may come


def test_a_tiff_in_the_ledger_or_the_quarantine_or_asked_for_is_enough(old: ScoreRequest) -> None:
    no_tiff = replace(old, exclude=("*.[tT][iI][fF]*",))
    ledger = Ledger(old.out)
    ledger.forget(TIFFS[1:])
    with pytest.raises(RequestError, match=REFUSAL.format(2, r"b\.TIFF, broken\.tif")):
        judge(no_tiff)
    ledger.forget(TIFFS)
    with pytest.raises(RequestError, match=REFUSAL.format(1, r"broken\.tif")):
        judge(no_tiff)
    ledger.forget_quarantined()
    assert judge(no_tiff) == []
    assert judge(replace(old, limit=1)) == []  # a.png
    with pytest.raises(RequestError, match=REFUSAL.format(1, r"b\.TIFF")):
        judge(replace(old, limit=2))


def test_rows_of_tiffs_that_are_gone_go_too_and_that_is_said(
    old: ScoreRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    (row,) = [row for row in ledger_rows(old.out.local()) if row["image"] == "b.TIFF"]
    ledger = Ledger(old.out)
    ledger.add([Scored(**(row | {"image": "gone.tif"}))])
    ledger.commit()
    assert "gone.tif" in judge(replace(old, rescore_changed=True))
    said = capfd.readouterr().err
    assert "6 images are scored again, as reader 2 reads TIFFs otherwise" in said
    assert "1 of them are no longer in the archive (gone.tif); they count no more" in said
    assert "rows stay" not in said


@pytest.mark.parametrize("before", [pytest.param("the quarantine", marks=pytest.mark.long), "run.json"])
def test_killed_while_it_leaves_the_earlier_reader_the_same_command_goes_on(
    old: ScoreRequest, before: str
) -> None:
    out = old.out.local()
    whole = {row["image"]: row["class_pixels"] for row in ledger_rows(out)}
    Ledger(out).forget(TIFFS)  # what the command does first, so what a kill leaves
    if before == "run.json":
        Ledger(out).forget_quarantined(["broken.tif"])
    with pytest.raises(RequestError, match=ALL_TIFFS):
        judge(old)
    score(replace(old, rescore_changed=True), IDLE)
    assert {row["image"]: row["class_pixels"] for row in ledger_rows(out)} == whole
    assert Ledger(out).quarantined_images() == {"broken.tif"}
    assert reader_of(out) == 2


@pytest.mark.long
def test_images_whose_background_holds_a_tiff_are_scored_again_and_it_is_measured_again(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model.safetensors", preprocessing=Preprocessing(background_every=1))
    pixels = np.random.default_rng(1).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    for k in range(4):
        write_image(tmp_path / "archive/mixed" / f"{k}.{'tif' if k == 3 else 'png'}", pixels[k])
        write_image(tmp_path / "archive/pure" / f"{k}.png", pixels[k])
    out, request = tmp_path / "out", ask(tmp_path, model)
    score(request, IDLE)
    make_old(out)
    before, kept = times(out), stamps(out)
    score(replace(request, rescore_changed=True), IDLE)
    after = times(out)
    again = {image for image in after if after[image] != before[image]}
    assert again == {image for image in after if image.startswith("mixed/")}
    assert stamps(out).keys() == kept.keys()
    assert len(stamps(out).items() - kept.items()) == 1


def stamps(out: Path) -> dict[str, int]:
    """When each background was measured."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "backgrounds").glob("*.npz")}
