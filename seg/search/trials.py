"""The trials of a search as their folders tell them: parameters, how far each came, how it ended.

The folders are all that a search resumes from.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

from seg.files import read_json, write_bytes, write_json
from seg.plain_data import require
from seg.recipe import Params, Recipe, as_tuples
from seg.train.state import EpochResult, Journal, read_run

PARAMETERS, FAILURES, ENDING = "trial.json", "failures.json", "ended.json"
FINISHED, PRUNED, ERRORED, RUNNING = "finished", "pruned", "errored", "running"
ATTEMPTS = 2
"""Times a trial is begun before its failure is final."""
CAUSE_LETTERS = 300
MEND = "put it back from a copy, or remove its folder: another trial is begun in its place"
OWN = 0
"""Number of the trial that tries the recipe as it stands."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """What ended.json holds."""

    status: Literal["finished", "pruned", "errored", "running"] = "running"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial that has begun."""

    number: int
    folder: Path
    params: Params
    journal: Journal
    failures: list[str]
    """One cause a failed attempt."""
    status: str
    """Finished, pruned, errored, or (until its search ends) running."""
    error: str | None
    """Why it failed for good."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def miou(self) -> float | None:
        """Its best epoch's; None before the first."""
        return self.journal.best_miou if self.journal.best_epoch else None

    @property
    def ended(self) -> bool:
        """Whether it is not run again."""
        return self.status != RUNNING


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The trial that is first, as summary.json names it."""

    trial: str
    params: Params
    miou: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFigures:
    """What summary.json holds of any search, also of one that was stopped (docs/formats.md)."""

    recipe: str
    trials: int
    """Those that are yet to begin included."""
    finished: int
    pruned: int
    errored: int
    best: BestTrial | None
    seconds: float
    """Of this command."""
    stopped_by: str


def count_trials(
    trials: Sequence[TrialRecord], *, recipe: str, asked: int, seconds: float, stopped_by: str
) -> SearchFigures:
    """The figures of trials, the best first."""
    statuses = [trial.status for trial in trials]
    miou = trials[0].miou if trials else None
    return SearchFigures(
        recipe=recipe,
        trials=max(asked, len(trials)),
        finished=statuses.count(FINISHED),
        pruned=statuses.count(PRUNED),
        errored=statuses.count(ERRORED),
        best=None if miou is None else BestTrial(trials[0].name, trials[0].params, miou),
        seconds=seconds,
        stopped_by=stopped_by,
    )


def report_of(result: EpochResult) -> dict[str, float]:
    """What Ray Tune hears of an epoch; an undefined mIoU is the worst."""
    return {"epoch": result.epoch, "miou": 0.0 if isnan(result.miou) else result.miou}


def trial_folder(trials: Path, number: int) -> Path:
    """Where a trial lives."""
    return trials / f"{number:03}"


def begin_trial(folder: Path, params: Params) -> None:
    """Note what a trial tries, before it is started."""
    write_json(folder / PARAMETERS, params)


def end_trial(folder: Path, recipe: Recipe) -> None:
    """Note that a trial has ended well: at its recipe's end, or before; what was noted first stays."""
    journal = read_run(folder)
    finished = journal is not None and journal.is_finished(recipe)
    _write_ending(folder, FINISHED if finished else PRUNED, None)


def fail_trial(folder: Path, cause: str) -> None:
    """Note that a trial failed for good."""
    _write_ending(folder, ERRORED, cause)


def _write_ending(folder: Path, status: str, error: str | None) -> None:
    if not (folder / ENDING).is_file():
        write_json(folder / ENDING, {"status": status, "error": error})


def note_failure(folder: Path, cause: str) -> None:
    """Note a failed attempt; the last one that is allowed fails the trial."""
    failures = [*read_failures(folder), cause]
    write_json(folder / FAILURES, failures)
    if len(failures) >= ATTEMPTS:
        fail_trial(folder, cause)


def read_failures(folder: Path) -> list[str]:
    """The causes of a trial's failed attempts."""
    file = folder / FAILURES
    return require(list[str], read_json(file, MEND), str(file), MEND) if file.is_file() else []


def read_params(folder: Path) -> Params:
    """What a trial tries."""
    file = folder / PARAMETERS
    values = require(dict[str, Any], read_json(file, MEND), str(file), MEND)
    return {name: as_tuples(value) for name, value in values.items()}


def describe_cause(error: BaseException) -> str:
    """An exception in one line: its type and the first line of what it says."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:CAUSE_LETTERS]


def read_trials(folder: Path) -> list[TrialRecord]:
    """Every trial that has begun, the best first, the first first among equals."""
    found = [_read_trial(parameters.parent) for parameters in folder.glob(f"*/{PARAMETERS}")]
    return sorted(found, key=lambda trial: (-trial.journal.best_miou, trial.number))


def _read_trial(folder: Path) -> TrialRecord:
    file = folder / ENDING
    ending = require(_Ending, read_json(file, MEND), str(file), MEND) if file.is_file() else _Ending()
    return TrialRecord(
        number=int(folder.name),
        folder=folder,
        params=read_params(folder),
        journal=read_run(folder) or Journal(),
        failures=read_failures(folder),
        status=ending.status,
        error=ending.error,
    )


def write_leaderboard(file: Path, trials: Sequence[TrialRecord]) -> None:
    """Write a line a trial as CSV, whole or not at all."""
    text, searched = io.StringIO(), list(trials[0].params) if trials else []
    writer = csv.writer(text, lineterminator="\n")
    figures = ("miou", "best_epoch", "epochs", "status", *searched, "seconds", "failures", "error")
    writer.writerow(["trial", *(figures if trials else ())])
    for trial in trials:
        reached = (trial.miou, trial.journal.best_epoch, trial.journal.epochs_done, trial.status)
        settings = [trial.params[name] for name in searched]
        ended = (trial.journal.seconds, len(trial.failures), trial.error)
        writer.writerow([trial.name, *reached, *settings, *ended])
    write_bytes(file, text.getvalue().encode())
