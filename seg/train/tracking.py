"""What others see of a training while it runs: TensorBoard always, an MLflow server where asked for."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from seg.errors import StoppedBy
from seg.train.mlflow_run import MlflowRun, MlflowServer
from seg.train.sinks import Epoch, EventFile, list_epochs
from seg.train.state import EpochResult, Journal, read_run
from seg.train.training import TrainingPlan

log = logging.getLogger(__name__)


class Tracking:
    """Keeps the sinks of one training up to date from its journal; the job's process has it, no worker does.

    A sink that fails costs a line on the screen, not the training: what it lacks is sent with the next epoch,
    at the end, or by the same command later.
    """

    def __init__(self, plan: TrainingPlan, server: MlflowServer | None = None) -> None:
        """server: see `connect_mlflow`. RequestError: it takes no run."""
        self.folder = plan.folder
        self.mlflow = MlflowRun(server, plan) if server else None
        self.tensorboard = EventFile(plan.folder / "tensorboard")
        self.sinks = [sink for sink in (self.tensorboard, self.mlflow) if sink]
        self.epochs: list[Epoch] = []
        self.failing: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell MLflow of a training that fails; the error goes on."""
        self.tensorboard.close()
        if error is not None:
            stopped = isinstance(error, KeyboardInterrupt)
            self._end(StoppedBy.INTERRUPT if stopped else StoppedBy.ERROR, None)

    def send(self, history: list[EpochResult]) -> None:
        """Send all epochs of the journal so far; each sink takes those that it lacks."""
        self.epochs += list_epochs(history)[len(self.epochs) :]
        for sink in self.sinks:
            try:
                sink.send(self.epochs)
            except OSError as error:
                if sink.name not in self.failing:
                    _warn(f"{sink.name} takes no epochs now: {error}; they will be sent later")
                self.failing.add(sink.name)
            else:
                self.failing.discard(sink.name)

    def conclude(self, stopped_by: StoppedBy) -> None:
        """Send what is left, and to MLflow how the training ended; of a finished one also the model file."""
        journal = read_run(self.folder) or Journal()
        self.send(journal.history)
        finished = stopped_by is StoppedBy.FINISHED and journal.best_epoch
        model_file = self.folder / "best.safetensors" if finished else None
        self._end(stopped_by, model_file, journal.best_epoch)
        for name in sorted(self.failing):
            _warn(f"{name} lacks epochs; the same command sends them")

    def _end(self, stopped_by: str, model_file: Path | None, epoch: int = 0) -> None:
        if self.mlflow is None:
            return
        try:
            self.mlflow.end(stopped_by, model_file, epoch)
        except OSError as error:
            _warn(f"{self.mlflow.name} was not told how the training ended: {error}")


def _warn(text: str) -> None:
    log.warning(f"train: warning: {text}")
