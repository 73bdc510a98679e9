"""What a cluster does to a training: each time it ends with what an undisturbed one leaves, bit for bit."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.session import Session
from cluster.train import train
from jobs.options import parse
from jobs.train import Args
from seg.requests import TrainRequest
from seg.train.state import EpochResult, read_run
from tests.conftest import write_discs
from tests.small import TINY_WORDS, own_processes, start_job, wait_until

TIMES = {"seconds", "validation_seconds", "crops_per_second", "wait_share", "memory_bytes"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of two frames of 96 x 128 pixels."""
    return write_discs(tmp_path_factory.mktemp("faults") / "archive", sequences=3, frames=2, size=(96, 128))


def what_is_left(folder: Path) -> tuple[list[EpochResult], dict[str, bytes]]:
    """A run's journal but for its times, and the weights of its best epoch."""
    journal = read_run(folder)
    assert journal is not None
    history = [replace(result, **dict.fromkeys(TIMES, 0)) for result in journal.history]
    weights = load_file(folder / "best.safetensors")
    return history, {name: value.numpy().tobytes() for name, value in weights.items()}


def words_for(archive: Path, out: Path, *, workers: int = 0, epochs: int = 3) -> tuple[object, ...]:
    return (*TINY_WORDS, "--data", archive, "--out", out, "--workers", workers, "--epochs", epochs)


@pytest.fixture(scope="module")
def variables(archive: Path) -> dict[str, object]:
    """The environment of jobs: a Ray of their own, packs that all tests share."""
    return {"RAY_ADDRESS": "local", "FRINGE_CACHE": archive.parent / "cache", "OMP_NUM_THREADS": 1}


@pytest.fixture(scope="module")
def whole(archive: Path, variables: dict[str, object]) -> Callable[..., Path]:
    """The folder of a run that nothing disturbed, for a number of workers and epochs; trained once."""
    done: dict[tuple[int, int], Path] = {}

    def find(workers: int = 0, epochs: int = 3) -> Path:
        out = archive.parent / f"whole-{workers}-{epochs}"
        if (workers, epochs) not in done:
            with start_job(
                "train", *words_for(archive, out, workers=workers, epochs=epochs), **variables
            ) as job:
                _, errors = job.communicate()
            assert job.returncode == 0, errors
        return done.setdefault((workers, epochs), out)

    return find


def epochs_done(folder: Path) -> int:
    history = folder / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.is_file() else 0


def test_a_half_written_state_is_left_out_and_its_epoch_trained_again(
    archive: Path, whole: Callable[..., Path], variables: dict[str, object], tmp_path: Path
) -> None:
    out = shutil.copytree(whole(), tmp_path / "run")
    newest = max((out / "last").glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    with start_job("train", *words_for(archive, out), **variables) as job:
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    assert f"train: warning: state {newest} is damaged" in errors
    assert "epoch 3" in errors
    assert what_is_left(out) == what_is_left(whole())


def test_storage_that_refuses_for_a_while_is_waited_for(
    archive: Path, whole: Callable[..., Path], variables: dict[str, object], tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    words = words_for(archive, out)
    with log.open("w") as errors, start_job("train", *words, log=errors, **variables) as job:
        board = out / "last" / "progress.json"
        second = lambda: board.is_file() and '"epoch": 2' in board.read_text()  # noqa: E731
        wait_until(lambda: second() or job.poll() is not None, "the second epoch")
        out.rename(tmp_path / "away")  # as a mount that is gone
        wait_until(lambda: "trying for" in log.read_text() or job.poll() is not None, "a refusal")
        assert not out.exists()
        (tmp_path / "away").rename(out)
        job.communicate()
    assert job.returncode == 0, log.read_text()
    assert "goes on after" in log.read_text()
    assert what_is_left(out) == what_is_left(whole())


def test_two_jobs_do_not_train_in_one_folder(
    archive: Path, variables: dict[str, object], tmp_path: Path
) -> None:
    words = words_for(archive, tmp_path / "run", epochs=500)
    with start_job("train", *words, **variables) as first:
        wait_until(lambda: epochs_done(tmp_path / "run") or first.poll() is not None, "an epoch")
        with start_job("train", *words, **variables) as second:
            _, errors = second.communicate()
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert second.returncode == 2, errors
    assert "is in use by training on" in errors
    assert f"process {first.pid}, since" in errors
    assert first.returncode == 4


# kills at each boundary between two writes


def train_and_die(words: tuple[str, ...], boundary: int | None) -> None:
    """Train in this process and end it, as kill -9 does, before or after its n-th file gets its name."""
    from jobs.train import main

    passed, rename = 0, Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        nonlocal passed
        for act in (lambda: self, lambda: rename(self, target)):
            if passed == boundary:
                os._exit(77)
            passed += 1
            act()
        return target

    Path.replace = replace_or_die  # type: ignore[method-assign]
    torch.set_num_threads(1)
    os._exit(main(words))


def run_apart(words: tuple[object, ...], boundary: int | None) -> int | None:
    """Exit code of a training in a process of its own, which has torch already."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "cluster.train"])
    process = context.Process(target=train_and_die, args=(tuple(map(str, words)), boundary))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.long)])
def test_a_kill_between_any_two_writes_loses_nothing(
    archive: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """How many writes there are hangs on the clock, by which a job reports: so until one ends whole."""
    monkeypatch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
    expected = what_is_left(whole(epochs=2))
    for boundary in itertools.count(0, stride):
        words = words_for(archive, tmp_path / str(boundary), epochs=2)
        first = run_apart(words, boundary)
        assert first in (0, 77), boundary
        assert first == 0 or run_apart(words, boundary=None) == 0, boundary
        assert what_is_left(tmp_path / str(boundary)) == expected, boundary
        if first == 0:
            break
    assert boundary > 40


# on Ray


def disturb(
    words: tuple[object, ...], out: Path, act: Callable[[list[int]], None], **variables: object
) -> tuple[int, str]:
    """Start a training on two workers, act on their processes after an epoch; exit code and what it said."""
    with start_job("train", *words, **variables) as job:
        wait_until(lambda: epochs_done(out) or job.poll() is not None, "an epoch", within_s=120)
        act(own_processes("ray::RayTrainWorker"))
        _, errors = job.communicate()
    return job.returncode, errors


@pytest.mark.ray
@pytest.mark.long
def test_a_worker_that_is_killed_is_replaced_and_the_run_is_the_same(
    archive: Path, whole: Callable[..., Path], variables: dict[str, object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = words_for(archive, out, workers=2, epochs=12)
    code, errors = disturb(words, out, lambda workers: os.kill(workers[-1], signal.SIGKILL), **variables)
    assert code == 0, errors
    assert what_is_left(out) == what_is_left(whole(workers=2, epochs=12))
    assert "worker" in (out / "failures.log").read_text()


@pytest.mark.ray
@pytest.mark.long
def test_a_worker_that_stands_still_is_named_and_replaced(
    archive: Path, whole: Callable[..., Path], variables: dict[str, object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = (*words_for(archive, out, workers=2, epochs=12), "--stall-minutes", 0.4)
    code, errors = disturb(words, out, lambda workers: os.kill(workers[-1], signal.SIGSTOP), **variables)
    assert code == 0, errors
    failures = (out / "failures.log").read_text()
    assert "waited in vain" in failures
    assert "silent, so frozen, killed or cut off: worker" in failures
    assert what_is_left(out) == what_is_left(whole(workers=2, epochs=12))


@pytest.mark.ray
@pytest.mark.long
def test_a_node_that_is_removed_leaves_the_training_to_the_others(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
    recipe = parse(Args, [*TINY_WORDS, "--epochs", "40"]).recipe
    request = TrainRequest(recipe=recipe, data=archive, out=tmp_path / "run", workers=(1, 2))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        session = Session(2, 0, 0, connected=True)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(train, request, session)
            wait_until(lambda: epochs_done(tmp_path / "run") or ended.done(), "an epoch", within_s=120)
            cluster.remove_node(node)
            summary = ended.result()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (summary.exit_code, summary.values["workers"]) == (0, (1, 2))
    journal = read_run(tmp_path / "run")
    assert journal is not None
    assert [result.epoch for result in journal.history] == list(range(1, 41))
    assert (tmp_path / "run" / "failures.log").is_file()
