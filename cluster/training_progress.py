"""How far a training is: rank 0 leaves it in the run's folder, the job shows it and hears Ctrl-C meanwhile."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster.outcome import StoppedBy
from seg.errors import RequestError
from seg.files import without_nan, write_bytes
from seg.progress import Advance, progress
from seg.run_folder import read_run
from seg.training import Training, TrainingPlan

POLL_S = 0.5
LINE_EVERY_S = 15.0
"""Seconds between two lines in a log: an epoch may take minutes."""


def _progress_file(plan: TrainingPlan) -> Path:
    return plan.folder / "last" / "progress.json"


class Board:
    """Leaves in the run's folder, about once a second, how far rank 0 is; other ranks' boards stay blank."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.last = 0.0

    def on_step(self, epoch: int, step: int, loss: float) -> None:
        """Publish, unless it was done a moment ago."""
        if time.monotonic() - self.last >= 1:
            self.publish(epoch, step, loss)

    def publish(self, epoch: int, step: int, loss: float) -> None:
        """Write the epoch and step (both from 1), the loss, and the last validated mIoU."""
        if self.training.rank:
            return
        self.last = time.monotonic()
        history = self.training.journal.history
        state = {
            "epoch": epoch,
            "step": step,
            "steps": self.training.sampler.steps_per_epoch,
            "loss": loss,
            "miou": history[-1]["miou"] if history else None,
            "epochs_done": len(history),
        }
        write_bytes(_progress_file(self.training.plan), json.dumps(without_nan(state)).encode())


def watch(plan: TrainingPlan, train: Callable[[], None]) -> StoppedBy:
    """Run `train` in a thread and show how far it is, until it ends or the user stops it.

    In a thread, because Ray Train's fit answers Ctrl-C by ending the process with exit code 0.
    What `train` raises is raised here, a worker's RequestError as itself.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            train()
        except Exception as error:
            failures.append(error)

    _progress_file(plan).unlink(missing_ok=True)
    journal = read_run(plan.folder)
    first = journal.epochs_done if journal else 0
    thread = threading.Thread(target=run, daemon=True)
    try:
        with progress(
            f"training {plan.recipe.name}", plan.recipe.epochs - first, line_every_s=LINE_EVERY_S
        ) as advance:
            thread.start()
            shown = first
            while thread.is_alive():
                thread.join(POLL_S)
                shown = _show(plan, advance, shown)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    if failures:
        raise _cause(failures[0])
    return StoppedBy.FINISHED


def _show(plan: TrainingPlan, advance: Advance, shown: int) -> int:
    """Bring the display to where the workers are; returns the epochs shown as done."""
    file = _progress_file(plan)
    if not file.is_file():
        return shown
    state = json.loads(file.read_text(encoding="utf-8"))
    miou = "" if state["miou"] is None else f"  mIoU {state['miou']:.3f}"
    note = f"epoch {state['epoch']} step {state['step']}/{state['steps']}  loss {state['loss']:.4f}{miou}"
    advance(state["epochs_done"] - shown, note)
    return state["epochs_done"]


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrappers: a RequestError as itself, the rest with its traceback."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    failure = next(iter(failures.values()))
    inner = getattr(failure, "_base_exc", failure)  # Ray's UserExceptionWithTraceback
    return inner if isinstance(inner, RequestError) else failure
