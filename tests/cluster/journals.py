"""Journals of trainings that nobody trained, as state files hold them."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seg.train.state import Journal, State, write_state


def write_journal(folder: Path, journal: Journal) -> None:
    """Leave a state file in a run's folder that holds the journal alone."""
    write_state(folder, State(asdict(journal), {}))


def rows_until(epochs: int) -> list[dict[str, Any]]:
    """A journal's rows, at most 6: the third mIoU is the best, epoch k takes k seconds."""
    mious = (0.1, 0.2, 0.7, 0.4, math.nan, 0.5)
    return [
        {"epoch": epoch, "loss": 1 / epoch, "miou": mious[epoch - 1], "dice": None, "seconds": float(epoch)}
        for epoch in range(1, epochs + 1)
    ]
