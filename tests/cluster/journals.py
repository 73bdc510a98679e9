"""Journals of trainings that nobody trained, as state files hold them."""

import math
from dataclasses import fields
from pathlib import Path

from seg.train.state import EpochResult, Journal, State, write_state


def write_journal(folder: Path, journal: Journal) -> None:
    """Leave a state file in a run's folder that holds the journal alone."""
    write_state(folder, State(journal, {}))


def epoch_result(epoch: int, miou: float, **others: float) -> EpochResult:
    """An epoch with this mIoU; every other figure is 0, unless given."""
    zeros = {column.name: 0 for column in fields(EpochResult)}
    return EpochResult(**zeros | {"epoch": epoch, "miou": miou} | others)  # type: ignore[arg-type]


def results_until(epochs: int) -> list[EpochResult]:
    """A journal's epochs, at most 6: the third mIoU is the best, epoch k takes k seconds."""
    mious = (0.1, 0.2, 0.7, 0.4, math.nan, 0.5)
    return [
        epoch_result(epoch, mious[epoch - 1], loss=1 / epoch, seconds=float(epoch))
        for epoch in range(1, epochs + 1)
    ]
