"""The trials of a search as their folders tell them: parameters, how far each came, how it ended."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback

from seg.files import read_json, write_bytes, write_json
from seg.progress import Advance
from seg.recipe import Recipe
from seg.run_folder import read_run
from seg.training_state import Journal

PARAMETERS, ENDING = "trial.json", "ended.json"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial that has begun."""

    name: str
    folder: Path
    params: dict[str, Any]
    journal: Journal
    error: str | None

    def status(self, recipe: Recipe) -> str:
        """Finished, pruned, errored, or (until its search ends) running."""
        if self.error is not None:
            return "errored"
        if self.journal.is_finished(recipe):
            return "finished"
        return "pruned" if (self.folder / ENDING).is_file() else "running"

    def row(self, recipe: Recipe) -> dict[str, Any]:
        """The trial's line in leaderboard.csv."""
        return {
            "trial": self.name,
            "miou": self.journal.best_miou if self.journal.best_epoch else None,
            "best_epoch": self.journal.best_epoch,
            "epochs": self.journal.epochs_done,
            "status": self.status(recipe),
            **self.params,
            "seconds": sum(float(row["seconds"] or 0) for row in self.journal.history),
            "error": self.error,
        }


class EndedTrials(Callback):
    """Notes in each trial's folder that it ended, and why it failed; Tune calls it in the job's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished or was pruned."""
        write_json(self.folder / trial.trial_id / ENDING, {"error": None})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial failed; its last line says of what."""
        cause = (str(trial.get_error()).strip().splitlines() or ["unknown"])[-1]
        write_json(self.folder / trial.trial_id / ENDING, {"error": cause})


def read_trials(folder: Path) -> list[TrialRecord]:
    """Every trial that has begun, the best first, the first first among equals."""
    return sorted(_records(folder), key=lambda trial: (-trial.journal.best_miou, trial.name))


def _records(folder: Path) -> Iterator[TrialRecord]:
    for parameters in folder.glob(f"*/{PARAMETERS}"):
        place = parameters.parent
        ending = read_json(place / ENDING) if (place / ENDING).is_file() else {"error": None}
        journal = read_run(place) or Journal()
        yield TrialRecord(place.name, place, read_json(parameters), journal, ending["error"])


def write_leaderboard(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write the trials' rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(file, text.getvalue().encode())


class TrialCounter:
    """Brings a display to how many trials have ended, and what the best has reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = 0

    def show(self, advance: Advance) -> None:
        """Show what is new since the last call."""
        trials = read_trials(self.folder)
        ended = sum((trial.folder / ENDING).is_file() for trial in trials)
        best = max((trial.journal.best_miou for trial in trials), default=-1.0)
        note = f"{len(trials) - ended} running" + (f"  best mIoU {best:.4f}" if best >= 0 else "")
        advance(ended - self.shown, note)
        self.shown = ended
