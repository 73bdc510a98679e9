import csv
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from cluster.session import Session
from cluster.train import train
from seg.errors import RequestError, StoppedBy
from seg.recipe import Crops, Preprocessing, Tiling
from seg.recipes import RECIPES
from seg.requests import TrainRequest
from seg.train.mlflow_run import connect_mlflow, flatten
from seg.train.state import Journal
from seg.train.tracking import Tracking
from tests.cluster.journals import results_until, write_journal
from tests.conftest import WriteArchive
from tests.seg.train.test_sinks import read_events
from tests.small import wait_until

TINY = replace(
    RECIPES["interferogram-small"],
    backbone="mobilenet_v2",
    preprocessing=Preprocessing(shrink=1),
    crops=Crops(size_px=(64, 64)),
    tiling=Tiling(crop_px=(64, 64), halo_px=16),
    batch=2,
    epochs=2,
    precision="float32",
)
RECIPE = replace(RECIPES["camvid-fpn-mobilenet"], epochs=6)


@dataclass
class Server:
    """A real MLflow server, in a process group of its own."""

    uri: str
    process: subprocess.Popen[bytes]

    def answers(self) -> bool:
        assert self.process.poll() is None, "the server ended"
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as response:  # noqa: S310  # ours, on the loopback
                return response.status == 200
        except URLError:
            return False

    @contextmanager
    def hung(self) -> Iterator[None]:
        """For the length of a block it takes connections and does not answer."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def ask(self, what: str, **words: object) -> Any:
        """What its own HTTP interface says, without MLflow's client."""
        query = "&".join(f"{name}={value}" for name, value in words.items())
        with urlopen(f"{self.uri}/api/2.0/mlflow/{what}?{query}", timeout=30) as response:  # noqa: S310  # ours
            return json.load(response)

    def run(self, folder: Path) -> Any:
        """The run that a training's folder names."""
        return self.ask("runs/get", run_id=self.run_id(folder))["run"]

    def run_id(self, folder: Path) -> str:
        return json.loads((folder / "mlflow.json").read_text())[self.uri]

    def epochs(self, folder: Path, metric: str) -> list[tuple[int, float]]:
        """Steps and values of one metric's history."""
        found = self.ask("metrics/get-history", run_id=self.run_id(folder), metric_key=metric)
        return sorted((int(point["step"]), float(point["value"])) for point in found["metrics"])


@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this file, which may not answer yet: others are run while it starts."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        1,
        "--artifacts-destination",
        folder / "files",
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *map(str, words)],
            env=os.environ | quiet | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/runs.sqlite"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield Server(f"http://127.0.0.1:{port}", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def server(started: Server) -> Server:
    """The server, which answers."""
    wait_until(started.answers, "MLflow's server", within_s=120)
    return started


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that tries once, and nothing of it is left after the test."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("DISABLE_TELEMETRY", "ENABLE_ARTIFACTS_PROGRESS_BAR", "SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "unset")
        monkeypatch.delenv(f"MLFLOW_{name}")


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    """What tracking reads of a plan; the folder's name is another one for each test."""
    folder = tmp_path / f"run-{secrets.token_hex(4)}"
    folder.mkdir()
    return SimpleNamespace(recipe=RECIPE, seed=7, folder=folder, data=SimpleNamespace(fingerprint="f" * 64))


def journal_until(epochs: int) -> Journal:
    return Journal(history=results_until(epochs), best_epoch=min(3, epochs), best_miou=0.7)


def fail_after(epochs: int, error: BaseException, plan: Any, server: Server) -> None:
    """A training that sends so many epochs and then fails."""
    with suppress(type(error)), Tracking(plan, connect_mlflow(server.uri)) as tracking:
        tracking.send(results_until(epochs))
        raise error


def conclude(tracking: Tracking, plan: Any, epochs: int, stopped_by: StoppedBy) -> None:
    """End a training as the job does, with a journal and a model file in its folder."""
    write_journal(plan.folder, journal_until(epochs))
    (plan.folder / "best.safetensors").write_bytes(b"weights")
    tracking.conclude(stopped_by)


def test_without_a_server_a_training_has_tensorboard(plan: Any) -> None:
    with Tracking(plan) as tracking:
        tracking.send(results_until(2))
        conclude(tracking, plan, 3, StoppedBy.FINISHED)
    assert [step for step, _ in read_events(plan.folder / "tensorboard")["loss"]] == [1, 2, 3]
    assert not (plan.folder / "mlflow.json").exists()


def test_a_sink_that_fails_is_said_once_and_gets_all_epochs_later(
    plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracking(plan) as tracking:
        blocked = plan.folder / "tensorboard"
        blocked.touch()
        tracking.send(results_until(1))
        tracking.send(results_until(2))
        assert capsys.readouterr().err.count("train: warning: tensorboard takes no epochs now: ") == 1
        conclude(tracking, plan, 2, StoppedBy.FINISHED)
        assert (
            capsys.readouterr().err
            == "train: warning: tensorboard lacks epochs; the same command sends them\n"
        )
        blocked.unlink()
        tracking.send(results_until(3))
    assert [step for step, _ in read_events(blocked)["loss"]] == [1, 2, 3]
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("environment")
def test_a_server_that_is_not_there_is_refused() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequestError) as refused:
            connect_mlflow(uri)
    cause = "it does not answer; start the server, or leave `mlflow` out"
    assert str(refused.value) == f"`mlflow={uri}` takes no runs: {cause}"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "uri", ["localhost:5000", "mlruns", "", "http://", "http://[::1", "://x", "nfs://x/y"]
)
def test_what_is_no_address_of_a_server_is_refused(uri: str) -> None:
    with pytest.raises(RequestError, match=r"no URI|takes no runs") as refused:
        connect_mlflow(uri)
    assert f"`mlflow={uri}`" in str(refused.value)


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000", "http://secret@host"])
def test_a_password_in_the_address_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        connect_mlflow(uri)
    assert "secret" not in str(refused.value)


def test_without_the_package_the_request_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RequestError, match=r"pip install 'fringe\[mlflow\]'"):
        connect_mlflow("http://localhost:5000")


def test_nested_values_are_flat_by_dotted_name() -> None:
    nested = {"a": {"b": 1e-3, "c": [[1, 2]]}, "d": None, "e": "unet", "f": True}
    assert flatten(nested) == {"a.b": "0.001", "a.c": "[[1, 2]]", "d": "null", "e": "unet", "f": "true"}


@pytest.mark.usefixtures("environment")
def test_a_server_has_the_recipe_every_epoch_and_at_the_end_the_model_file(
    server: Server, plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        assert server.run(plan.folder)["info"]["status"] == "RUNNING"
        tracking.send(results_until(2))
        assert server.epochs(plan.folder, "loss") == [(1, 1.0), (2, 0.5)]
        conclude(tracking, plan, 6, StoppedBy.FINISHED)
    run = server.run(plan.folder)
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", plan.folder.name)
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert params["optimizer.lr"] == str(RECIPE.optimizer.lr)
    assert params["crops.size_px"] == json.dumps(RECIPE.crops.size_px)
    assert (params["model"], params["seed"], params["epochs"]) == (RECIPE.model, "7", "6")
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["data_fingerprint"] == "f" * 64
    assert {"code_version", "folder"} <= set(tags)
    for metric, values in (
        ("loss", [1 / epoch for epoch in range(1, 7)]),
        ("best_miou", [0.1, 0.2, *[0.7] * 4]),
    ):
        assert server.epochs(plan.folder, metric) == list(enumerate(values, 1))
    assert str(server.epochs(plan.folder, "miou")[4]) == "(5, nan)"
    (model,) = server.ask("artifacts/list", run_id=server.run_id(plan.folder))["files"]
    assert (model["path"], model["file_size"]) == ("best.safetensors", len(b"weights"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.usefixtures("environment")
def test_a_resumed_training_continues_its_run_with_each_epoch_once(server: Server, plan: Any) -> None:
    fail_after(2, KeyboardInterrupt(), plan, server)
    first = server.run(plan.folder)["info"]
    assert first["status"] == "KILLED"
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        assert server.run(plan.folder)["info"]["status"] == "RUNNING"
        tracking.send(results_until(4))
        conclude(tracking, plan, 5, StoppedBy.INTERRUPT)
    fail_after(5, ValueError("no"), plan, server)
    assert server.run(plan.folder)["info"]["status"] == "FAILED"
    for _ in range(2):  # the same command after the end changes nothing
        with Tracking(plan, connect_mlflow(server.uri)) as tracking:
            conclude(tracking, plan, 6, StoppedBy.FINISHED)
    last = server.run(plan.folder)["info"]
    assert (last["run_id"], last["status"]) == (first["run_id"], "FINISHED")
    assert [step for step, _ in server.epochs(plan.folder, "loss")] == [1, 2, 3, 4, 5, 6]
    assert len(server.ask("artifacts/list", run_id=last["run_id"])["files"]) == 1


@pytest.mark.usefixtures("environment")
def test_a_training_of_more_epochs_than_before_has_its_number_and_its_new_model_file(
    server: Server, plan: Any
) -> None:
    plan.recipe = replace(RECIPE, epochs=2)
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        conclude(tracking, plan, 2, StoppedBy.FINISHED)
    plan.recipe = replace(RECIPE, epochs=6)  # a parameter that is there never changes
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        write_journal(plan.folder, journal_until(6))
        (plan.folder / "best.safetensors").write_bytes(b"weights of epoch 3")
        tracking.conclude(StoppedBy.FINISHED)
    data = server.run(plan.folder)["data"]
    assert {tag["key"]: tag["value"] for tag in data["tags"]}.items() >= {
        "epochs": "6",
        "best_epoch": "3",
    }.items()
    assert {param["key"]: param["value"] for param in data["params"]}["epochs"] == "2"
    assert [step for step, _ in server.epochs(plan.folder, "loss")] == [1, 2, 3, 4, 5, 6]
    (model,) = server.ask("artifacts/list", run_id=server.run_id(plan.folder))["files"]
    assert model["file_size"] == len(b"weights of epoch 3")


@pytest.mark.usefixtures("environment")
def test_a_server_that_hangs_costs_a_line_and_gets_each_epoch_once_when_it_is_back(
    server: Server, plan: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        tracking.send(results_until(1))
        with server.hung(), monkeypatch.context() as impatient:
            impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            tracking.send(
                results_until(2)
            )  # the request waits in the server's socket and is answered to nobody
            tracking.send(results_until(3))
            said = capsys.readouterr().err
        cause = "it does not answer; they will be sent later"
        assert said == f"train: warning: mlflow {server.uri} takes no epochs now: {cause}\n"
        wait_until(server.answers, "MLflow's server")
        conclude(tracking, plan, 4, StoppedBy.INTERRUPT)
    assert server.epochs(plan.folder, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 5)]
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("environment")
def test_an_epoch_whose_answer_was_lost_is_sent_again_and_is_there_once(server: Server, plan: Any) -> None:
    with Tracking(plan, connect_mlflow(server.uri)) as tracking:
        tracking.send(results_until(2))
        assert tracking.mlflow
        tracking.mlflow.there = set()
        tracking.send(results_until(3))
    assert [step for step, _ in server.epochs(plan.folder, "loss")] == [1, 2, 3]


@pytest.mark.usefixtures("environment")
def test_a_run_that_somebody_deleted_is_begun_anew_with_all_epochs(server: Server, plan: Any) -> None:
    connected = connect_mlflow(server.uri)
    with Tracking(plan, connected) as tracking:
        tracking.send(results_until(2))
    connected.client.delete_run(server.run_id(plan.folder))
    with Tracking(plan, connected) as tracking:
        tracking.send(results_until(3))
    assert server.run(plan.folder)["info"]["lifecycle_stage"] == "active"
    assert [step for step, _ in server.epochs(plan.folder, "loss")] == [1, 2, 3]


@pytest.mark.usefixtures("environment")
def test_a_training_is_tracked_as_its_history_says(
    server: Server, write_archive: WriteArchive, tmp_path: Path, idle: Session
) -> None:
    request = TrainRequest(
        recipe=TINY, data=write_archive(), out=tmp_path / "run", workers=0, mlflow=server.uri
    )
    folder = train(request, idle).folder
    train(request, idle)  # nothing is left to do
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    scalars = read_events(folder / "tensorboard")
    assert {"loss", "lr", "miou", "dice", "wait_share", "seconds"} <= set(rows[0])
    for name in set(rows[0]) - {"epoch"}:
        wanted = [(int(row["epoch"]), float(row[name])) for row in rows]
        assert server.epochs(folder, name) == wanted
        assert scalars[name] == [(epoch, float(np.float32(value))) for epoch, value in wanted]
    assert server.run(folder)["info"]["status"] == "FINISHED"
