"""`import fringe`, beside the jobs that do the same."""

import json
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fringe
from jobs import score, train
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.requests import TrainRequest
from seg.storage import as_place
from tests.conftest import WriteArchive, write_discs
from tests.small import CLASSES, ROOT, TINY_WORDS, what_is_left, write_model

TINY: dict[str, Any] = {
    "preprocessing": {"shrink": 1},
    "precision": "float32",
    "crops": {"size_px": (64, 64), "per_image": 2},
    "batch": 4,
    "tiling": {"crop_px": (64, 64), "halo_px": 16},
    "backbone": "mobilenet_v2",
    "epochs": 2,
    "workers": 0,
}
"""TINY_WORDS, and two epochs in this process."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("data") / "archive", sequences=3, frames=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Any:
    """A training by keyword."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRINGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fringe.train(data=str(archive), out=tmp_path_factory.mktemp("runs") / "tiny", **TINY)


def test_importing_it_loads_nothing_slow_and_every_name_is_there() -> None:
    program = "import sys, fringe; print(*dir(fringe)); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names, modules = (line.split() for line in done.stdout.splitlines())
    assert {"seg.errors", "fringe"} <= set(modules)
    assert set(modules) & {"torch", "numpy", "pyarrow", "tyro", "rich", "ray", "cv2", "seg.requests"} == set()
    assert set(fringe.__all__) <= set(names)


def test_its_version_is_that_of_the_project() -> None:
    assert fringe.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_a_training_by_keyword_is_that_of_the_job(run: Any, archive: Path, tmp_path: Path) -> None:
    words = ["--epochs", "2", "--workers", "0", "--data", str(archive), "--out", str(tmp_path / "job")]
    assert train.main([*TINY_WORDS, *words]) == 0
    assert what_is_left(run.folder) == what_is_left(tmp_path / "job")
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (run.exit_code, run.values["miou"], run.values["epochs_run"]) == (0, summary["miou"], 2)
    same = json.loads((run.folder / "run.json").read_text())
    assert same == json.loads((tmp_path / "job/run.json").read_text())
    again = fringe.train(RECIPES["interferogram-small"], data=archive, out=run.folder, **TINY)
    assert again.values["best_epoch"] == run.values["best_epoch"]  # it had ended


def test_a_scoring_by_keyword_is_that_of_the_job_and_its_tables_are_read(
    run: Any, archive: Path, tmp_path: Path
) -> None:
    by_job, out = tmp_path / "job", tmp_path / "python"
    words = [str(archive), "--model", str(run.folder / "best.safetensors"), "--out", str(by_job)]
    assert score.main([*words, "--workers", "0", "--min-object", "9"]) == 0
    done = fringe.score(str(archive), run.folder, str(out), min_object_px=9, workers=0)
    expected, found = fringe.read_scores(by_job), fringe.read_scores(str(out))
    assert json.loads((by_job / "run.json").read_text()) == json.loads((out / "run.json").read_text())
    assert found.objects.equals(expected.objects)
    assert found.images["mask_sha256"].to_pylist() == expected.images["mask_sha256"].to_pylist()
    assert found.confusion.tolist() == done.values["confusion"]
    assert (done.exit_code, done.values["images_scored"], done.place) == (0, 6, as_place(out))
    assert (out / "report.html").is_file()
    assert (out / "review.csv").is_file()
    predicted = fringe.load(run.folder, min_object_px=9).predict(archive / "images/s0/1.png")
    mine = [row["area"] for row in found.objects.to_pylist() if row["image"] == "s0/1.png"]
    assert predicted.objects["area"].to_pylist() == mine


def test_without_workers_it_is_this_process_where_there_is_neither_cluster_nor_gpu(
    run: Any, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.delenv("FRINGE_WORKERS", raising=False)
    done = fringe.score(archive, run.folder, tmp_path / "scores", limit=1)
    assert done.values["images_scored"] == 1
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


def test_folders_and_files_name_a_model_and_several_are_an_ensemble(tmp_path: Path) -> None:
    files = [write_model(tmp_path / f"{seed}/best.safetensors", seed=seed) for seed in (1, 2)]
    image = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    alone, both = fringe.load(files[0].parent), fringe.load([str(files[0]), files[1].parent])
    assert alone.classes == CLASSES
    assert (alone.predict(image).mask == fringe.load(str(files[0])).predict(image).mask).all()
    assert both.predict(image).confidence != alone.predict(image).confidence


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epoch": 2}, "unknown field 'epoch'; did you mean epochs"),
        ({"recipe_name": "x"}, "unknown field 'recipe_name'"),
        ({"epochs": "two"}, 'epochs is "two", wanted a whole number'),
        ({"workers": 1.5}, "`workers` is 1.5, wanted a whole number or a list or null"),
        ({"lr_scaling": "cubic"}, "`lr_scaling` is \"cubic\", wanted 'none' or 'linear' or 'sqrt'"),
        ({"crops": {"size": 3}}, "crops has the unknown field size"),
        ({"crops": 3}, "crops is 3, wanted an object"),
        ({"epochs": {"lr": 3}}, "epochs is an object of 1, wanted a whole number"),
        ({"batch": np.int64(3)}, "int64 is not JSON"),
        ({"epochs": 0}, "recipe: epochs is 0"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_a_training_that_is_asked_for_wrongly_is_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(fringe.RequestError) as refused:
        fringe.train(**{"data": tmp_path, "workers": 0} | options)
    assert said in str(refused.value)


def test_other_requests_that_are_wrong_are_refused(tmp_path: Path, write_archive: WriteArchive) -> None:
    file, archive = write_model(tmp_path / "m.safetensors"), write_archive()
    for ask, said in [
        (lambda: fringe.train("interferogram-smal", workers=0), "did you mean interferogram-small"),
        (lambda: fringe.load(tmp_path / "none"), "none is not there; give the best.safetensors"),
        (lambda: fringe.load(tmp_path), "is a folder without best.safetensors"),
        (lambda: fringe.load(file, halo=3), "unknown field 'halo'; did you mean halo_px"),
        (lambda: fringe.load(file, out="x"), "`out` is not for `load`: images go to `predict`"),
        (lambda: fringe.score(archive, file, "x", tta="d8"), "`tta` is \"d8\", wanted 'none' or 'flips'"),
        (lambda: fringe.score(archive, file, "x", labels=3), "`labels` is 3, wanted a text"),
        (lambda: fringe.score(archive, file, "x", dry_run=True), "`dry_run` prints"),
        (lambda: fringe.score(tmp_path / "no", file, tmp_path / "x", workers=0), "no"),
        (lambda: fringe.read_scores(tmp_path), "is no scores folder"),
    ]:
        with pytest.raises(fringe.RequestError) as refused:
            ask()
        assert said in str(refused.value)


def test_no_field_of_a_recipe_has_the_name_of_one_of_the_request() -> None:
    names = {entry.name for entry in fields(TrainRequest)}
    assert names & {entry.name for entry in fields(Recipe)} == set()
