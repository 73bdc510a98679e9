"""What a training tells while it runs: where it is, each step, each epoch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg import metrics


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step of training that is done."""

    epoch: int
    step: int
    """In the epoch; both from 1."""
    steps: int
    """In an epoch."""
    loss: float
    """The whole batch's, over all workers."""
    rate: float
    crops_per_second: float
    """Over all workers, of the epoch so far."""
    wait_share: float
    """Share of the epoch's time so far that this rank waited for crops."""
    skipped: int
    """Steps of the epoch so far that were left out, their loss not being finite."""


OnStep = Callable[[StepReport], None]

STAGES = ("loading", "computing", "validating")
"""What a rank does in a step, in this order; it validates after an epoch's last."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a training a rank is."""

    epoch: int
    step: int
    """In the epoch; both from 1, 0 before they begin."""
    stage: str
    """One of STAGES."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Rises as the training goes on."""
        return self.epoch, self.step, STAGES.index(self.stage)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch, trained and validated: the same on every rank, but for times and memory."""

    trained: StepReport
    """Its last step; `loss` here is the mean of the steps that were not left out, NaN without any."""
    confusion: NDArray[np.int64]
    seconds: float
    validation_seconds: float
    memory_bytes: int
    """The most that the process has held."""

    @property
    def epoch(self) -> int:
        """From 1."""
        return self.trained.epoch

    @property
    def loss(self) -> float:
        """Mean over the epoch's steps."""
        return self.trained.loss

    @property
    def miou(self) -> float:
        """Mean IoU over the validation images, all pixels together; NaN without any truth."""
        return metrics.mean_present(metrics.iou(self.confusion))

    def row(self) -> dict[str, float | int | None]:
        """The epoch's line in history.csv."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "lr": self.trained.rate,
            "miou": self.miou,
            "dice": metrics.mean_present(metrics.dice(self.confusion)),
            "pixel_accuracy": metrics.pixel_accuracy(self.confusion),
            "skipped_steps": self.trained.skipped,
            "crops_per_second": self.trained.crops_per_second,
            "wait_share": self.trained.wait_share,
            "memory_bytes": self.memory_bytes,
            "validation_seconds": self.validation_seconds,
            "seconds": self.seconds,
        }
