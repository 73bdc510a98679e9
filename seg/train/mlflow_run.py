"""A training as a run on an MLflow server: recipe, epochs, model file; continued where the training is."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from seg.errors import RequestError, StoppedBy
from seg.files import read_json, write_json
from seg.model_file import code_version
from seg.plain_data import require
from seg.storage import shown_uri, without_secrets
from seg.train.sinks import Epoch
from seg.train.training import TrainingPlan

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "fringe"
"""Where $MLFLOW_EXPERIMENT_NAME names no other."""

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # its own 120 s, seven times, would hold up a screen and Ctrl-C
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

EPOCHS_A_REQUEST = 50
"""A request may hold 1000 numbers."""
PARAMS_A_REQUEST, LONGEST_PARAM = 100, 6000
"""What MLflow takes."""

STATUSES: dict[str, str] = {
    StoppedBy.FINISHED: "FINISHED",
    StoppedBy.INTERRUPT: "KILLED",
    StoppedBy.DEADLINE: "KILLED",
    StoppedBy.ERROR: "FAILED",
}


@dataclass(frozen=True, slots=True)
class MlflowServer:
    """A server that answers, and the experiment there that takes our runs."""

    uri: str
    client: "MlflowClient"
    experiment: str
    """Its id."""


def connect_mlflow(uri: str) -> MlflowServer:
    """Find or make our experiment. RequestError: no MLflow here, no URI, or nobody there who takes runs."""
    _check_uri(uri)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the import
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it announces each retry
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise RequestError("`mlflow` wants a package more; pip install 'fringe[mlflow]'") from error
    with _refusing(uri):
        client = MlflowClient(uri)
        return MlflowServer(uri, client, _find_experiment(client))


@contextmanager
def _refusing(uri: str) -> Iterator[None]:
    """For the length of a block: what the server does not do is the request's fault."""
    try:
        with _plain_errors():
            yield
    except OSError as error:
        why = without_secrets(str(error), uri)
        raise RequestError(
            f"`mlflow={shown_uri(uri)}` takes no runs: {why}; start the server, or leave `mlflow` out"
        ) from error


@contextmanager
def _plain_errors() -> Iterator[None]:
    """For the length of a block: MLflow's and its transport's errors as OSError, of one line."""
    from mlflow.exceptions import MlflowException
    from requests import ConnectionError as Unconnected
    from requests import Timeout

    try:
        yield
    except (MlflowException, OSError, ImportError) as error:  # a store of files may want a package of its own
        chain = (error, error.__cause__, error.__context__)
        silent = any(isinstance(link, Unconnected | Timeout) for link in chain)
        text = str(error).strip().partition("\n")[0]
        raise OSError("it does not answer" if silent else text) from error


def _check_uri(uri: str) -> None:
    try:
        address = urlsplit(uri)
    except ValueError:  # half an IPv6 address
        address = urlsplit("")
    web = address.scheme in ("http", "https")
    if uri != "databricks" and ("://" not in uri or not address.scheme or (web and not address.hostname)):
        raise RequestError(f"`mlflow={shown_uri(uri)}` is no URI; try `mlflow=http://localhost:5000`")
    if address.username or address.password:  # it would stand in files and on screens
        raise RequestError(
            "`mlflow` holds a user or a password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _find_experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another job may just have made it
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise OSError(f"its experiment {name!r} is deleted")
    return found.experiment_id


class MlflowRun:
    """The run of one training; its id is kept in the training's folder, for each server."""

    def __init__(self, server: MlflowServer, plan: TrainingPlan) -> None:
        """Go on with the run that the folder names, or begin one. RequestError: the server takes none."""
        self.name, self.client = f"mlflow {shown_uri(server.uri)}", server.client
        with _refusing(server.uri):
            self.run_id = self._open(server, plan)
        self.there: set[int] | None = None  # epochs that the server has; None: it must be asked

    def _open(self, server: MlflowServer, plan: TrainingPlan) -> str:
        file = plan.folder / "mlflow.json"
        mend = "remove it, and the server gets another run of this training"
        runs = require(dict[str, str], read_json(file, mend), str(file), mend) if file.is_file() else {}
        run = self._find(runs.get(server.uri))
        if run is None:
            tags = {
                "code_version": code_version(),
                "data_fingerprint": plan.data.fingerprint,
                "folder": str(plan.folder),
            }
            run = self.client.create_run(server.experiment, run_name=plan.folder.name, tags=tags)
            write_json(file, runs | {server.uri: run.info.run_id})
        elif run.info.status != "FINISHED":
            self.client.update_run(run.info.run_id, status="RUNNING")
        self._send_params(run.info.run_id, plan, run.data.params)
        return run.info.run_id

    def _find(self, run_id: str | None) -> "Run | None":
        """The run that was begun before; None: none was, or somebody deleted it."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _send_params(self, run_id: str, plan: TrainingPlan, there: dict[str, str]) -> None:
        """Send what of the recipe is not there: a kill may have come before.

        A parameter never changes on a server, so epochs that grow are in a tag.
        """
        from mlflow.entities import Param

        values = flatten(asdict(plan.recipe)) | {"seed": str(plan.seed)}
        self.client.set_tag(run_id, "epochs", values["epochs"])
        params = [Param(name, value[:LONGEST_PARAM]) for name, value in values.items() if name not in there]
        for start in range(0, len(params), PARAMS_A_REQUEST):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_REQUEST])

    def send(self, epochs: list[Epoch]) -> None:
        """Send the epochs that the server lacks. OSError: it does not take them now."""
        there, self.there = self.there, None  # a request that fails may have come through all the same
        with _plain_errors():
            if there is None:
                there = {metric.step for metric in self.client.get_metric_history(self.run_id, "epoch")}
            missing = [epoch for epoch in epochs if epoch.number not in there]
            for start in range(0, len(missing), EPOCHS_A_REQUEST):
                metrics = _metrics(missing[start : start + EPOCHS_A_REQUEST])
                self.client.log_batch(self.run_id, metrics=metrics)
        self.there = there | {epoch.number for epoch in missing}

    def end(self, stopped_by: str, model_file: Path | None, epoch: int = 0) -> None:
        """Say how the training ended, and upload the model file, of the best epoch, unless it is there.

        OSError: it failed.
        """
        with _plain_errors():
            self.client.set_terminated(self.run_id, STATUSES[stopped_by])
            there = {file.path for file in self.client.list_artifacts(self.run_id)}
            tags = self.client.get_run(self.run_id).data.tags
            if model_file and (model_file.name not in there or tags.get("best_epoch") != str(epoch)):
                self.client.log_artifact(self.run_id, str(model_file))
                self.client.set_tag(self.run_id, "best_epoch", str(epoch))


def flatten(value: Any, name: str = "") -> dict[str, str]:
    """Nested plain data as text by dotted name; a list is one value."""
    if isinstance(value, dict):
        return {
            path: text
            for key, item in value.items()
            for path, text in flatten(item, f"{name}.{key}" if name else key).items()
        }
    return {name: value if isinstance(value, str) else json.dumps(value)}


def _metrics(epochs: list[Epoch]) -> list["Metric"]:
    from mlflow.entities import Metric

    return [
        Metric(name, value, timestamp=round(epoch.ended_s * 1000), step=epoch.number)
        for epoch in epochs
        for name, value in epoch.values.items()
    ]
