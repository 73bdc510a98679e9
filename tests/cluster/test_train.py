import csv
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from platform import node
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from cluster.placement import Placement
from cluster.session import Session
from cluster.train import TrainSummary, plan_training, scale_batch, train
from cluster.train_workers import fit_workers
from seg.alarms import find_alarms
from seg.data.images import decode_image
from seg.data.preprocess import image_statistics
from seg.errors import STOPPED_EARLY, OutOfMemory, RequestError
from seg.files import read_json
from seg.model_file import load_model
from seg.predict.predictor import Predictor
from seg.recipe import Crops, Optimizer, Preprocessing, Recipe, Tiling
from seg.recipes import RECIPES
from seg.requests import TrainRequest
from seg.train.board import beating, failures_file, read_beats
from seg.train.learner import find_ranks
from seg.train.state import read_run, state_file
from seg.train.training import Position, Training, TrainingPlan
from tests.conftest import write_discs
from tests.small import CLASSES, ROOT, TIMES, TINY_WORDS, read_tree, start_job, wait_until, write_model

TINY = replace(
    RECIPES["interferogram-small"],
    backbone="mobilenet_v2",
    preprocessing=Preprocessing(shrink=1),
    crops=Crops(size_px=(64, 64), per_image=8, on_object_share=0.5),
    tiling=Tiling(crop_px=(128, 128), halo_px=16),
    batch=4,
    epochs=2,
    precision="float32",
)


Trained = Callable[[int], TrainSummary]
ONE_AND_TWO = [pytest.param(1, marks=pytest.mark.long), 2]  # one worker costs Ray Train's start once more


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of two frames of 256 x 288 pixels, and where their packs are kept."""
    return write_discs(
        tmp_path_factory.mktemp("training") / "archive", sequences=3, frames=2, size=(256, 288)
    )


@pytest.fixture(scope="module")
def trained(session: Session, archive: Path) -> Callable[[int], TrainSummary]:
    """A request on so many workers, trained once."""
    done: dict[int, TrainSummary] = {}

    def find(workers: int) -> TrainSummary:
        if workers not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
                request = request_for(archive, archive.parent / str(workers), workers=workers)
                done[workers] = train(request, session)
        return done[workers]

    return find


def request_for(archive: Path, out: Path, *, workers: int = 0, recipe: Recipe = TINY) -> TrainRequest:
    return TrainRequest(recipe=recipe, data=archive, out=out, workers=workers)


def what_is_left(folder: Path) -> tuple[list[dict[str, str]], dict[str, list[float]]]:
    """A run's history but for its times, and its weights."""
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    history = [{name: row[name] for name in row if name not in TIMES} for row in rows]
    weights = {name: tensor.tolist() for name, tensor in load_file(folder / "best.safetensors").items()}
    return history, weights


@pytest.mark.ray
@pytest.mark.parametrize("workers", ONE_AND_TWO)
def test_a_training_on_ray_leaves_a_whole_run(trained: Trained, workers: int) -> None:
    summary = trained(workers)
    assert summary.exit_code == 0
    saved = json.loads((summary.folder / "summary.json").read_text())
    assert saved == json.loads(json.dumps(summary.values))
    assert saved["recipe"] == "interferogram-small"
    assert (saved["workers"], saved["epochs_run"], saved["stopped_by"]) == (workers, 2, "finished")
    assert saved["model_file"] == str(summary.folder / "best.safetensors")
    assert saved["best_epoch"] in (1, 2)
    assert saved["images_per_second"] > 0
    assert saved["seconds"] > 0
    assert set(saved["iou"]) == set(saved["dice"]) == {"background", "disc"}
    assert saved["miou"] == pytest.approx(sum(saved["iou"].values()) / 2)
    assert 0 < saved["pixel_accuracy"] < 1
    shares = load_model(summary.folder / "best.safetensors")[1].class_shares
    assert len(shares) == 2
    assert saved["alarms"] == find_alarms(CLASSES, np.array(saved["confusion"]), trained=shares)
    names = {path.name for path in summary.folder.iterdir()}
    pictures = {"curves.png", "confusion.png", "examples.png"}
    folders = {"last", "tensorboard"}
    assert names == {"best.safetensors", "history.csv", "summary.json", "run.json", *folders, *pictures}
    assert [row["epoch"] for row in what_is_left(summary.folder)[0]] == ["1", "2"]


@pytest.mark.ray
@pytest.mark.parametrize("workers", ONE_AND_TWO)
def test_the_model_file_counts_what_its_summary_says(trained: Trained, archive: Path, workers: int) -> None:
    summary = trained(workers).values
    model, card = load_model(Path(summary["model_file"]))
    predictor = Predictor(model, card.tiling, batch=1, device=torch.device("cpu"))
    run = json.loads((trained(workers).folder / "run.json").read_text())
    total = np.zeros((2, 2), int)
    for name in run["validation"]:
        pixels = decode_image((archive / "images" / name).read_bytes())
        truth = cv2.imread(str(archive / "masks" / name), cv2.IMREAD_UNCHANGED)
        ids = predictor.predict(pixels, image_statistics(pixels), pixels.shape[:2]).ids.numpy()
        total += [[np.count_nonzero((truth == t) & (ids == p)) for p in range(2)] for t in range(2)]
    assert len(run["validation"]) == 2  # one sequence of three
    assert total.tolist() == summary["confusion"] == card.validation["confusion"]
    assert card.provenance.parent == str(workers)  # the run's folder


@pytest.mark.ray
def test_the_same_request_again_is_finished_at_once(trained: Trained, archive: Path, idle: Session) -> None:
    folder = trained(2).folder
    before = read_tree(folder)
    again = train(request_for(archive, folder, workers=2), idle)
    assert not idle.connected
    assert again.values == trained(2).values
    after = read_tree(folder)
    drawn_anew = {name for name in before | after if name == "curves.png" or name.startswith("tensorboard/")}
    assert {name: after[name] for name in after.keys() - drawn_anew} == {
        name: before[name] for name in before.keys() - drawn_anew
    }


@pytest.mark.ray
@pytest.mark.long
def test_what_is_wrong_for_a_worker_arrives_as_its_own_sentence(
    session: Session, archive: Path, tmp_path: Path
) -> None:
    few = replace(TINY, crops=replace(TINY.crops, per_image=1))
    request = replace(request_for(archive, tmp_path / "run", workers=2, recipe=few), limit=1)
    with pytest.raises(RequestError, match=r"^2 workers share a batch of 1 crops; lower `workers`$"):
        train(request, session)


def test_a_run_whose_last_line_was_not_written_gets_it(archive: Path, tmp_path: Path, idle: Session) -> None:
    whole = train(request_for(archive, tmp_path / "run"), idle)
    history = (whole.folder / "history.csv").read_bytes()
    # what a kill -9 between the last epoch's state and its line leaves
    (whole.folder / "history.csv").write_bytes(b"".join(history.splitlines(keepends=True)[:-1]))
    (whole.folder / "summary.json").unlink()
    train(request_for(archive, tmp_path / "run"), idle)
    assert (whole.folder / "history.csv").read_bytes() == history


@pytest.mark.ray
@pytest.mark.long
def test_memory_that_one_worker_lacks_ends_all_at_once(session: Session, tmp_path: Path) -> None:
    class Plan:
        """Stands for a plan: what a worker looks at first leaves a trace, and ends or blocks it."""

        folder = tmp_path

        @property
        def recipe(self) -> Recipe:
            rank = dist.get_rank()
            (tmp_path / f"{rank}-{secrets.token_hex(8)}.begun").touch()
            dist.barrier()
            if rank:
                raise OutOfMemory("worker 1 ran out of memory; lower `batch`")
            dist.barrier()
            raise AssertionError("nobody else comes here")

    session.start()
    placement = Placement(workers=2, gpus=0, threads=1)
    with pytest.raises(OutOfMemory, match=r"^worker 1 ran out of memory; lower `batch`$"):
        fit_workers(cast("TrainingPlan", Plan()), placement, restarts=3)
    assert sorted(file.name[0] for file in tmp_path.glob("*.begun")) == ["0", "1"]  # once each
    assert not failures_file(tmp_path).exists()


@pytest.mark.ray
@pytest.mark.long
def test_a_late_worker_is_named_though_the_one_that_waited_or_it_itself_is_gone(
    session: Session, tmp_path: Path
) -> None:
    """Rank 0 waits for rank 1: first it is ended for that, as NCCL's watchdog does, then rank 1 ends."""

    class Plan:
        """Stands for a plan: what a worker looks at first sets the scene."""

        folder = tmp_path

        @property
        def recipe(self) -> Recipe:
            import ray.train

            ranks, second = find_ranks(), failures_file(tmp_path).exists()
            position = Position(2, 8 if second else 7, "loading" if ranks.rank else "computing")
            still = threading.Event()
            for _ in range(2):  # the second is taken once Ray has looked: who is gone before never started
                ray.train.report({})
            with beating(cast("Training", SimpleNamespace(plan=self, ranks=ranks, position=position))):
                while [beat.position.step for beat in read_beats(tmp_path)] != [position.step] * 2:
                    still.wait(0.1)
                if ranks.rank == int(second):
                    os._exit(1)
                dist.barrier() if second else still.wait()
            raise AssertionError("nobody comes here")

    session.start()
    with pytest.raises(Exception, match=r"waited in vain|actor died"):
        fit_workers(
            cast("TrainingPlan", Plan()), Placement(workers=2, gpus=0, threads=1), restarts=1, stall_minutes=1
        )
    first, *others = failures_file(tmp_path).read_text().splitlines()
    late = f"behind the others: worker 1 on {node()}, loading in step"
    assert f" worker 0: answers no more; {late} 7 of epoch 2 (" in first
    assert others
    assert all(f"{late} 8 of epoch 2" in line for line in others)
    assert sum(" worker 1: " in line for line in others) == 1


def plan_batch(said: pytest.LogCaptureFixture, workers: Any, **changes: Any) -> tuple[int, float, str]:
    """Batch and learning rate that interferogram-small, of 8 crops and 0.003, gets, and what is said."""
    said.set_level("INFO")
    said.clear()
    small = RECIPES["interferogram-small"]
    recipe = replace(small, batch=changes.pop("batch", small.batch))
    placement = Placement(workers=workers, gpus=0, threads=1)
    found = scale_batch(TrainRequest(recipe=recipe, **changes), placement)
    assert found == replace(recipe, batch=found.batch, optimizer=found.optimizer)
    return found.batch, found.optimizer.lr, " ".join(said.messages)


def test_a_batch_follows_the_workers_and_the_rate_the_batch_where_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert plan_batch(caplog, 4) == (8, 0.003, "")
    assert plan_batch(caplog, 4, batch_per_worker=8) == (32, 0.003, "a batch of 32 crops, 8 a worker")
    assert plan_batch(caplog, 0, batch_per_worker=3)[:2] == (3, 0.003)
    batch, rate, said = plan_batch(caplog, 4, batch_per_worker=8, lr_scaling="linear")
    assert (batch, rate) == (32, 0.012)
    assert "learning rate 0.012: 4 times 0.003, for a batch of 32 in place of 8 (`lr_scaling=linear`)" in said
    assert plan_batch(caplog, 4, batch_per_worker=8, lr_scaling="sqrt")[1] == 0.006
    assert plan_batch(caplog, 1, batch=2, lr_scaling="linear")[:2] == (2, 0.003 / 4)


@pytest.mark.parametrize(
    ("workers", "changes", "text"),
    [
        (1, {"batch_per_worker": 0}, "`batch_per_worker` is 0, below 1; try `batch_per_worker=1`"),
        ((2, 4), {"batch_per_worker": 4}, "`batch_per_worker` wants one number of `workers`, as the batch"),
        (1, {"batch_per_worker": 4, "batch": 9}, "`batch=9` and `batch_per_worker=4` both say how large"),
    ],
)
def test_a_batch_that_does_not_follow_from_the_workers_is_refused(
    caplog: pytest.LogCaptureFixture, workers: Any, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestError, match=f"^{text}"):
        plan_batch(caplog, workers, **changes)


@pytest.mark.long
def test_four_epochs_and_two_are_six_bit_for_bit(
    tmp_path: Path, idle: Session, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    small = write_discs(tmp_path / "small", sequences=3, frames=2)
    crops = Crops(size_px=(32, 32), per_image=2)
    steady = replace(TINY, epochs=6, crops=crops, optimizer=Optimizer(schedule="constant", lr=3e-3))
    train(request_for(small, tmp_path / "whole", recipe=steady), idle)
    begun = request_for(small, tmp_path / "parts", recipe=replace(steady, epochs=4))
    values = train(begun, idle).values
    assert (values["epochs_run"], values["horizon"], values["schedule_epochs"]) == (4, None, 4)
    pictures = (tmp_path / "parts" / "examples.png").stat().st_mtime_ns
    with pytest.raises(RequestError, match=r"recipe.batch 4 instead of 2"):
        train(replace(begun, recipe=replace(steady, batch=2)), idle)
    values = train(replace(begun, recipe=steady), idle).values
    assert (values["epochs_run"], values["horizon"], values["schedule_epochs"]) == (6, "keep", 4)
    assert "keeps the schedule of 4 epochs, and after them its last value: `horizon=keep`" in caplog.text
    assert what_is_left(tmp_path / "parts") == what_is_left(tmp_path / "whole")
    expected, found = (load_file(state_file(tmp_path / out)) for out in ("whole", "parts"))
    assert all(torch.equal(found[name], expected[name]) for name in expected.keys() | found.keys())
    assert (tmp_path / "parts" / "examples.png").stat().st_mtime_ns != pictures  # of the new best epoch
    with pytest.raises(RequestError, match=r"`epochs=4`: the run has 6 already; try `epochs=6`"):
        train(begun, idle)
    again = train(replace(begun, recipe=steady, horizon="stretch"), idle).values  # nothing grows now
    assert again == values


def test_a_command_begins_where_another_run_was_and_leaves_it_as_it_is(
    tmp_path: Path, idle: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `from_run` that is the run of the same command; which it does not need once it has begun."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    small = write_discs(tmp_path / "small", sequences=3, frames=2)
    recipe = replace(TINY, epochs=3, crops=Crops(size_px=(32, 32)))
    request = TrainRequest(recipe=recipe, data=small, workers=0, keep_states=3)
    whole = train(request, idle).folder
    before = read_tree(whole)
    assert whole.parent == tmp_path / "runs"
    begun = replace(request, from_epoch=1, out=tmp_path / "new", keep_best=2)
    assert train(begun, idle).values["epochs_run"] == 3
    assert f"begun with {whole} after epoch 1" in caplog.text
    assert read_json(tmp_path / "new" / "run.json")["begun_from"] == {"run": whole.name, "epoch": 1}
    assert what_is_left(tmp_path / "new") == what_is_left(whole)
    assert read_tree(whole) == before
    slower = replace(recipe, epochs=2, optimizer=Optimizer(lr=1e-4))
    plan, _ = plan_training(replace(begun, recipe=slower, out=None, from_run=whole), idle)
    assert (plan.folder.parent, plan.horizon) == (whole.parent, 0)
    shutil.rmtree(whole)
    plan, identity = plan_training(replace(begun, recipe=replace(recipe, epochs=4)), idle)
    assert (plan.folder, plan.horizon) == (tmp_path / "new", 3)
    assert identity["begun_from"] == {"run": whole.name, "epoch": 1}
    with pytest.raises(RequestError, match=r"holds another run, with begun_from.epoch 1 instead of 2"):
        train(replace(begun, from_epoch=2), idle)
    with pytest.raises(RequestError, match=rf"^{whole} holds no run to begin with"):
        train(replace(begun, out=tmp_path / "newer", from_run=whole), idle)
    with pytest.raises(RequestError, match=r"`from_run=x` wants the epoch to begin with; add `from_epoch`"):
        train(replace(request, from_run=Path("x")), idle)
    with pytest.raises(RequestError, match=r"`keep_states` is 1, below 2, and .*; try `keep_states=2`"):
        train(replace(request, keep_states=1), idle)


def finish(*words: object, **variables: object) -> None:
    with start_job("train", *words, **variables) as job:
        _, errors = job.communicate()
    assert job.returncode == 0, errors


def kill_after_an_epoch(
    folder: Path, kill: Callable[[Any], None], *words: object, **variables: object
) -> Any:
    """Start a training, end it once its first epoch is saved; the job, which had epochs left."""
    with start_job("train", *words, **variables) as job:
        saved = lambda: (folder / "history.csv").exists() or job.poll() is not None  # noqa: E731
        wait_until(saved, "an epoch", within_s=120)
        kill(job)
        job.communicate()
    return job


def test_a_training_from_a_model_file_is_said_kept_and_refused_by_name(
    archive: Path, tmp_path: Path, idle: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write_model(tmp_path / name, classes=CLASSES) for name in ("a.safetensors", "b.safetensors")]
    recipes = [replace(TINY, weights=str(file), epochs=1, crops=Crops(size_px=(64, 64))) for file in files]
    first, other = (request_for(archive, tmp_path / "run", recipe=recipe) for recipe in recipes)
    summary = train(first, idle)
    tensors = len(load_file(files[0]))
    assert (
        f"weights {files[0]}: {tensors} of {tensors} tensors taken; nothing is left"
        in capsys.readouterr().err
    )
    provenance = load_model(summary.folder / "best.safetensors")[1].provenance
    assert provenance.start_sha256 == load_model(files[0])[1].provenance.weights_sha256
    with pytest.raises(RequestError, match=f"recipe.weights {files[0]} instead of {files[1]}"):
        train(other, idle)
    files[0].unlink()
    assert train(first, idle).exit_code == 0  # it is not looked at again
    with pytest.raises(RequestError, match=f"weights {files[0]} is neither none nor imagenet"):
        train(replace(first, out=tmp_path / "another"), idle)


INTERRUPTED_IMPORT = """
import sys
from importlib.abc import MetaPathFinder

class CtrlC(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "matplotlib.cm":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
from jobs.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_ctrl_c_while_the_plotting_library_loads_is_exit_code_4(archive: Path, tmp_path: Path) -> None:
    """Half loaded, it could not be loaded again to draw what had come until then."""
    words = (*TINY_WORDS, "--data", archive, "--workers", 0, "--epochs", 2, "--out", tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, *map(str, words)],
        env=os.environ | {"FRINGE_CACHE": str(archive.parent / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == STOPPED_EARLY, done.stderr


# 20: workers that outlive their killed driver for some seconds must not finish the run meanwhile
@pytest.mark.parametrize(
    ("workers", "epochs"),
    [
        pytest.param(0, 4, marks=pytest.mark.long),
        pytest.param(2, 20, marks=[pytest.mark.long, pytest.mark.ray]),
    ],
)
def test_a_killed_training_resumes_to_the_same_bits(
    archive: Path, tmp_path: Path, workers: int, epochs: int
) -> None:
    words = (*TINY_WORDS, "--data", archive, "--workers", workers, "--epochs", epochs)
    variables = {"RAY_ADDRESS": "local", "FRINGE_CACHE": archive.parent / "cache"}
    finish(*words, "--out", tmp_path / "whole", **variables)
    words = (*words, "--out", tmp_path / "parts")
    job = kill_after_an_epoch(tmp_path / "parts", lambda job: job.kill(), *words, **variables)
    assert job.returncode == -signal.SIGKILL
    journal = read_run(tmp_path / "parts")
    assert journal is not None
    assert journal.epochs_done < epochs
    finish(*words, **variables)
    assert what_is_left(tmp_path / "parts") == what_is_left(tmp_path / "whole")
    summaries = [json.loads((tmp_path / out / "summary.json").read_text()) for out in ("parts", "whole")]
    for summary in summaries:
        del summary["seconds"], summary["images_per_second"], summary["model_file"]
    assert summaries[0] == summaries[1]


def test_ctrl_c_ends_a_training_with_4_and_how_far_it_came(archive: Path, tmp_path: Path) -> None:
    """As SIGTERM does: tests/faults/test_training_faults.py."""
    words = (*TINY_WORDS, "--data", archive, "--workers", 0, "--epochs", 500, "--out", tmp_path / "run")
    variables = {"FRINGE_CACHE": archive.parent / "cache"}
    job = kill_after_an_epoch(
        tmp_path / "run", lambda job: job.send_signal(signal.SIGINT), *words, **variables
    )
    assert job.returncode == STOPPED_EARLY
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped_by"] == "interrupt"
    assert 0 < summary["epochs_run"] < 500
