"""What a cluster does to a training: each time it ends with what an undisturbed one leaves, bit for bit."""

import itertools
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.session import Session
from cluster.train import train
from jobs.options import parse
from jobs.train import Args
from seg.errors import STOPPED_EARLY
from seg.requests import TrainRequest
from seg.train.state import read_run
from tests.conftest import write_discs
from tests.forked import DieAt, Disturb, Job, fork_job
from tests.small import TINY_WORDS, own_processes, start_job, wait_until, what_is_left


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences of two frames of 96 x 128 pixels."""
    return write_discs(tmp_path_factory.mktemp("faults") / "archive", sequences=3, frames=2, size=(96, 128))


def words_for(archive: Path, out: Path, *, workers: int = 0, epochs: int = 2) -> tuple[object, ...]:
    return (*TINY_WORDS, "--data", archive, "--out", out, "--workers", workers, "--epochs", epochs)


@pytest.fixture(scope="module")
def variables(archive: Path) -> dict[str, object]:
    """The environment of jobs: a Ray of their own, packs that all tests share."""
    return {"RAY_ADDRESS": "local", "FRINGE_CACHE": archive.parent / "cache", "OMP_NUM_THREADS": 1}


StartTraining = Callable[..., Job]


@pytest.fixture
def start_training(archive: Path, variables: dict[str, object], tmp_path: Path) -> StartTraining:
    """Starts a training in this machine's memory alone, into a folder."""

    def start(out: Path, *, disturb: Disturb | None = None, **asked: int) -> Job:
        log = tmp_path / f"{out.name}-{secrets.token_hex(4)}.log"
        return fork_job("train", *words_for(archive, out, **asked), log=log, disturb=disturb, **variables)

    return start


@pytest.fixture(scope="module")
def whole(archive: Path, variables: dict[str, object]) -> Callable[..., Path]:
    """The folder of a run that nothing disturbed, for a number of workers and epochs; trained once."""
    done: dict[tuple[int, int], Path] = {}

    def find(workers: int = 0, epochs: int = 2) -> Path:
        out = archive.parent / f"whole-{workers}-{epochs}"
        if (workers, epochs) not in done:
            words = words_for(archive, out, workers=workers, epochs=epochs)
            if workers:
                with start_job("train", *words, **variables) as job:
                    _, errors = job.communicate()
                assert job.returncode == 0, errors
            else:
                alone = fork_job("train", *words, log=archive.parent / "log", **variables)
                assert alone.wait() == 0, alone.said
        return done.setdefault((workers, epochs), out)

    return find


def epochs_done(folder: Path) -> int:
    history = folder / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.is_file() else 0


def test_a_half_written_state_is_left_out_and_its_epoch_trained_again(
    whole: Callable[..., Path], start_training: StartTraining, tmp_path: Path
) -> None:
    out = shutil.copytree(whole(), tmp_path / "run")
    newest = max((out / "last").glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    job = start_training(out)
    assert job.wait() == 0, job.said
    assert f"train: warning: state {newest} is damaged" in job.said
    assert load_file(newest).keys() == load_file(whole() / "last" / newest.name).keys()  # whole again
    assert what_is_left(out) == what_is_left(whole())


def test_storage_that_refuses_for_a_while_is_waited_for(
    whole: Callable[..., Path], start_training: StartTraining, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = start_training(out)
    board = out / "last" / "progress.json"
    second = lambda: board.is_file() and '"epoch": 2' in board.read_text()  # noqa: E731
    wait_until(lambda: second() or not job.is_alive, "the second epoch")
    out.rename(tmp_path / "away")  # as a mount that is gone
    wait_until(lambda: "trying for" in job.said or not job.is_alive, "a refusal")
    assert not out.exists()
    (tmp_path / "away").rename(out)
    assert job.wait() == 0, job.said
    assert "goes on after" in job.said
    assert what_is_left(out) == what_is_left(whole())


def test_two_jobs_do_not_train_in_one_folder_and_sigterm_ends_one_with_4_and_how_far_it_came(
    start_training: StartTraining, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start_training(out, epochs=500)
    wait_until(lambda: epochs_done(out) or not first.is_alive, "an epoch")
    second = start_training(out, epochs=500)
    assert second.wait() == 2, second.said
    assert "is in use by training on" in second.said
    assert f"process {first.process.pid}, since" in second.said
    first.process.terminate()
    assert first.wait() == STOPPED_EARLY
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped_by"] == "interrupt"
    assert 0 < summary["epochs_run"] < 500


# kills at each boundary between two writes


@pytest.mark.long
def test_a_kill_between_any_two_writes_loses_nothing(
    whole: Callable[..., Path], start_training: StartTraining, tmp_path: Path
) -> None:
    """How many writes there are hangs on the clock, by which a job reports: so until one ends whole."""
    expected = what_is_left(whole())
    for boundary in itertools.count():
        out = tmp_path / str(boundary)
        first = start_training(out, disturb=DieAt(boundary)).wait()
        assert first in (0, 77), boundary
        assert first == 0 or start_training(out).wait() == 0, boundary
        assert what_is_left(out) == expected, boundary
        if first == 0:
            break
    assert boundary > 30  # 38 on a quick machine


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
    # whoever is first: the worker that waits for it, or Ray, whose own calls it does not answer
    named = r"waited in vain.*silent, so frozen, killed or cut off: worker|worker 1: answers no more"
    assert re.search(named, failures), failures
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
