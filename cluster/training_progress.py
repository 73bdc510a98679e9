"""How far a training is: rank 0 leaves it in the run's folder, the job shows it."""

import json
import time
from pathlib import Path

from seg.files import without_nan, write_bytes
from seg.progress import Advance
from seg.run_folder import read_run
from seg.training import Training, TrainingPlan


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


class BoardReader:
    """Brings a display to where the board says the training is."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        journal = read_run(plan.folder)
        self.shown = journal.epochs_done if journal else 0
        _progress_file(plan).unlink(missing_ok=True)

    @property
    def epochs_left(self) -> int:
        """Epochs that are not shown as done."""
        return self.plan.recipe.epochs - self.shown

    def show(self, advance: Advance) -> None:
        """Show what is new since the last call."""
        file = _progress_file(self.plan)
        if not file.is_file():
            return
        state = json.loads(file.read_text(encoding="utf-8"))
        miou = "" if state["miou"] is None else f"  mIoU {state['miou']:.3f}"
        loss = "nan" if state["loss"] is None else f"{state['loss']:.4f}"  # a training that diverged
        note = f"epoch {state['epoch']} step {state['step']}/{state['steps']}  loss {loss}{miou}"
        advance(state["epochs_done"] - self.shown, note)
        self.shown = state["epochs_done"]
