import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.requests import SearchRequest
from cluster.search import SearchSummary, apply_trial, find_backbones, search
from cluster.session import Session
from cluster.trials import TrialCounter, read_trials
from seg.checkpoint import load_model
from seg.models.unet import UNet
from seg.recipe import Crops, Preprocessing, Tiling
from seg.recipes import RECIPES
from tests.conftest import draw_disc
from tests.small import TINY_WORDS, read_tree, start_job, wait_until, write_image

pytestmark = pytest.mark.ray

TINY = replace(
    RECIPES["interferogram-small"],
    preprocessing=Preprocessing(shrink=1),
    crops=Crops(size_px=(64, 64)),
    tiling=Tiling(crop_px=(128, 128), halo_px=16),
    batch=2,
    epochs=1,
    precision="float32",
)
OWN = {"lr": 3e-3, "loss": "cross_entropy", "backbone": "resnet18"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search") / "archive"
    for sequence in range(2):
        for frame in range(2):
            image, mask = draw_disc((256, 256), np.random.default_rng([sequence, frame]))
            write_image(root / "images" / f"s{sequence}" / f"{frame}.png", image)
            write_image(root / "masks" / f"s{sequence}" / f"{frame}.png", mask)
    (root / "classes.txt").write_text("background\ndisc\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def packs(archive: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_cache(packs: None) -> None:
    """Instead of one folder a test: trials of a file share their packs."""


def request_for(archive: Path) -> SearchRequest:
    return SearchRequest(recipe=TINY, data=archive, out=archive.parent / "search", trials=3)


@pytest.fixture(scope="module")
def found(archive: Path, session: Session, packs: None) -> SearchSummary:
    return search(request_for(archive), session)


def leaderboard(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))


def test_a_search_leaves_a_leaderboard_a_model_and_a_summary(found: SearchSummary) -> None:
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(found.values))
    assert found.exit_code == 0
    kinds = {name: summary[name] for name in ("trials", "finished", "pruned", "errored", "stopped_by")}
    assert kinds == {"trials": 3, "finished": 3, "pruned": 0, "errored": 0, "stopped_by": "finished"}
    rows = leaderboard(found.folder)
    assert len({row["trial"] for row in rows}) == 3
    mious = [float(row["miou"]) for row in rows]
    assert mious == sorted(mious, reverse=True)
    assert (summary["best"]["trial"], summary["best"]["miou"]) == (rows[0]["trial"], mious[0])
    assert summary["seconds"] > 0


def test_the_recipes_own_settings_are_tried_and_the_best_is_no_worse(found: SearchSummary) -> None:
    trials = read_trials(found.folder / "trials")
    own = [trial for trial in trials if trial.params == OWN]
    assert len(own) == 1
    assert found.values["best"]["miou"] >= own[0].journal.best_miou
    for trial in trials:
        assert 3e-4 <= trial.params["lr"] <= 3e-2
        assert trial.params["backbone"] in UNet.BACKBONES


def test_the_winners_model_file_names_its_trial_and_is_counted_again(found: SearchSummary) -> None:
    _, card = load_model(Path(found.values["model_file"]))
    best = found.values["best"]
    assert card.provenance["parent"] == f"search/{best['trial']}"
    assert card.provenance["recipe"]["optimizer"]["lr"] == best["params"]["lr"]
    assert card.backbone == best["params"]["backbone"]
    assert found.values["miou"] == best["miou"]  # the same images, the same integers
    assert card.validation["confusion"] == found.values["confusion"]


def test_the_same_search_again_is_finished_at_once(
    found: SearchSummary, archive: Path, idle: Session
) -> None:
    before = read_tree(found.folder)
    again = search(request_for(archive), idle)
    assert not idle.connected
    assert again.values == json.loads(json.dumps(found.values))
    assert again.leaderboard == found.leaderboard
    assert read_tree(found.folder) == before


def test_a_search_killed_before_its_summary_only_concludes(
    found: SearchSummary, archive: Path, session: Session, tmp_path: Path
) -> None:
    shutil.copytree(found.folder, tmp_path / "copy")
    (found.folder / "summary.json").unlink()
    (found.folder / "best.safetensors").unlink()
    again = search(request_for(archive), session)
    volatile = {"seconds"}
    assert {k: v for k, v in again.values.items() if k not in volatile} == {
        k: v for k, v in found.values.items() if k not in volatile
    }
    assert (found.folder / "best.safetensors").read_bytes() == (
        tmp_path / "copy" / "best.safetensors"
    ).read_bytes()


def test_a_trial_changes_what_is_searched_and_nothing_else() -> None:
    params = {"lr": 1e-2, "loss": "focal", "backbone": "resnet34"}
    changed = apply_trial(TINY, params)
    assert (changed.optimizer.lr, changed.loss, changed.backbone) == (1e-2, "focal", "resnet34")
    back = replace(changed, loss=TINY.loss, backbone=TINY.backbone, optimizer=TINY.optimizer)
    assert back == TINY
    assert replace(changed.optimizer, lr=TINY.optimizer.lr) == TINY.optimizer


def test_a_display_counts_trials_that_have_ended(found: SearchSummary) -> None:
    seen: list[tuple[int, str]] = []
    counter = TrialCounter(found.folder / "trials")
    counter.show(lambda steps=1, note="": seen.append((steps, note)))
    counter.show(lambda steps=1, note="": seen.append((steps, note)))
    note = f"0 running  best mIoU {found.values['best']['miou']:.4f}"
    assert seen == [(3, note), (0, note)]


@pytest.mark.long
def test_a_killed_search_goes_on_with_the_same_command(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (*TINY_WORDS, "--data", archive, "--out", out, "--trials", 4, "--epochs", 3)
    with start_job("tune", *words, RAY_ADDRESS="local") as job:
        ended = lambda: len(list(out.glob("trials/*/ended.json"))) >= 1 or job.poll() is not None  # noqa: E731
        wait_until(ended, "a trial", within_s=240)
        assert job.poll() is None
        job.kill()
        job.communicate()
    assert not (out / "summary.json").exists()
    with start_job("tune", *words, RAY_ADDRESS="local") as job:
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped_by"] == "finished"
    assert summary["finished"] + summary["pruned"] == 4
    assert summary["errored"] == 0
    assert len(leaderboard(out)) == 4
    assert sum(trial.params == OWN for trial in read_trials(out / "trials")) == 1
    load_model(out / "best.safetensors")


def test_weights_from_a_file_leave_the_recipes_own_backbone() -> None:
    recipe = replace(RECIPES["camvid-fpn-mobilenet"], weights="w.pth")
    assert find_backbones(recipe) == ("mobilenet_v2",)
    assert find_backbones(replace(recipe, backbone=None)) == ("mobilenet_v2",)  # the first
    assert len(find_backbones(replace(recipe, weights="none"))) > 1
    assert find_backbones(replace(recipe, model="smp/unet/resnet18", backbone=None)) == (None,)
