"""The trials of a search as their folders tell them: parameters, how far each came, how it ended.

The folders are all that a search resumes from.
"""

import csv
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType

from seg.files import read_json, write_bytes, write_json
from seg.plain_data import Kind, require, to_plain
from seg.progress import Line, heading
from seg.recipe import Params, Recipe, as_tuples, short_value
from seg.train.state import EpochResult, Journal, read_run, state_file
from seg.words import ratio, time_left

PARAMETERS, FAILURES, ENDING = "trial.json", "failures.json", "ended.json"
FINISHED, PRUNED, ERRORED, RUNNING = "finished", "pruned", "errored", "running"
ATTEMPTS = 2
"""Times a trial is begun before its failure is final."""
CAUSE_LETTERS = 300
MEND = "put it back from a copy, or remove its folder: another trial is begun in its place"
OWN = 0
"""Number of the trial that tries the recipe as it stands."""
LINES_AROUND = 6
"""Lines of a terminal that running trials leave free: heading, counts, best, the rest's number, a prompt."""


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
    def last_miou(self) -> float | None:
        """Its last epoch's."""
        return self.journal.history[-1].miou if self.journal.history else None

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
    """What summary.json holds of any search, also of one that was stopped (docs/reference/searches.md)."""

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


@dataclass(frozen=True, slots=True)
class TrialFolder:
    """Where a trial lives, and what is noted there of it: what it tries, how it failed, how it ended."""

    path: Path

    @property
    def has_ended(self) -> bool:
        """Whether an end is noted, a good or a bad one."""
        return (self.path / ENDING).is_file()

    def begin(self, params: Params) -> None:
        """Note what the trial tries, before it is started."""
        write_json(self.path / PARAMETERS, params)

    def end(self, recipe: Recipe) -> None:
        """Note that it has ended well: at its recipe's end, or before; what was noted first stays."""
        journal = read_run(self.path)
        finished = journal is not None and journal.is_finished(recipe)
        self._note_end(_Ending(FINISHED if finished else PRUNED))

    def fail(self, cause: str) -> None:
        """Note that it failed for good."""
        self._note_end(_Ending(ERRORED, cause))

    def _note_end(self, ending: _Ending) -> None:
        if not self.has_ended:
            write_json(self.path / ENDING, to_plain(ending))

    def note_failure(self, cause: str) -> None:
        """Note a failed attempt; the last one that is allowed fails the trial."""
        failures = [*self.failures(), cause]
        write_json(self.path / FAILURES, failures)
        if len(failures) >= ATTEMPTS:
            self.fail(cause)

    def failures(self) -> list[str]:
        """The causes of its failed attempts."""
        return self._read(FAILURES, list[str], [])

    def params(self) -> Params:
        """What it tries."""
        values = self._read(PARAMETERS, dict[str, Any])
        return {name: as_tuples(value) for name, value in values.items()}

    def record(self) -> TrialRecord:
        """All of it."""
        ending = self._read(ENDING, _Ending, _Ending())
        return TrialRecord(
            number=int(self.path.name),
            folder=self.path,
            params=self.params(),
            journal=read_run(self.path) or Journal(),
            failures=self.failures(),
            status=ending.status,
            error=ending.error,
        )

    def _read(self, name: str, kind: type[Kind], absent: Kind | None = None) -> Kind:
        file = self.path / name
        if absent is not None and not file.is_file():
            return absent
        return require(kind, read_json(file, MEND), str(file), MEND)


def trial_folder(trials: Path, number: int) -> TrialFolder:
    """The folder of a trial."""
    return TrialFolder(trials / f"{number:03}")


def describe_cause(error: BaseException) -> str:
    """An exception in one line: its type and the first line of what it says."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:CAUSE_LETTERS]


def read_trials(folder: Path) -> list[TrialRecord]:
    """Every trial that has begun, the best first, the first first among equals."""
    found = [TrialFolder(parameters.parent).record() for parameters in folder.glob(f"*/{PARAMETERS}")]
    return sorted(found, key=lambda trial: (-trial.journal.best_miou, trial.number))


def begins_fused(trials: Iterable[TrialRecord]) -> bool:
    """Whether the next trial has fused kernels (see `Journal`): not in a search that began without them.

    Else trials of one search would be rounded in two ways, and one that is stopped and goes on would end
    otherwise than one that is not.
    """
    return all(trial.journal.fused for trial in trials if trial.journal.history)


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


class TrialsReader:
    """A search as its trials' folders tell it: how each came along, and what the best has reached."""

    def __init__(self, folder: Path, recipe: Recipe, trials: int) -> None:
        """folder: of the trials. trials: how many the search has in all."""
        self.folder, self.epochs = folder, recipe.epochs
        self.title, self.total = f"searching {recipe.name}", trials
        self.trials: list[TrialRecord] = []
        self.stamps: list[tuple[Path, int]] = []
        self.look()
        self.opened, self.work_before = time.monotonic(), self.work_done

    @property
    def done(self) -> int:
        """Trials that have ended, well or not."""
        return sum(trial.ended for trial in self.trials)

    @property
    def note(self) -> str:
        """How many run, and the best mIoU so far."""
        best = self._best()
        reached = f"  best mIoU {ratio(best.miou)}" if best else ""
        return f"{len(self._running())} running{reached}"

    @property
    def work_done(self) -> float:
        """Trials that are over, with the share of their epochs of those that run."""
        return self.done + sum(trial.journal.epochs_done / self.epochs for trial in self._running())

    @property
    def seconds_left(self) -> float | None:
        """Time until all have ended, at the pace since this job began; None before any epoch."""
        gained, left = self.work_done - self.work_before, self.total - self.work_done
        return (time.monotonic() - self.opened) * left / gained if gained > 0 else None

    def look(self) -> None:
        """Read the trials if a file of theirs is new; a hundred journals twice a second would cost a core."""
        try:
            stamps = sorted(self._stamps())
            if stamps != self.stamps:
                self.trials, self.stamps = read_trials(self.folder), stamps
        except OSError:  # storage that is away: what was seen last stands
            return

    def picture(self, height: int) -> RenderableType:
        """The search, its counts, its best, and the trials that run: as many as a terminal has lines for."""
        counts = f"{self.done}/{self.total} trials"
        first = heading(self.title, self.work_done / self.total, counts, time_left(self.seconds_left))
        statuses = [trial.status for trial in self.trials]
        each = (f"{statuses.count(status)} {status}" for status in (FINISHED, PRUNED, ERRORED, RUNNING))
        best, running, room = self._best(), self._running(), max(1, height - LINES_AROUND)
        lines = [Line("  " + "   ".join(each))]
        if best:
            lines.append(Line(f"  best     {self._describe(best, best.miou)}", "bold"))
        lines += [Line(f"  running  {self._describe(trial, trial.last_miou)}") for trial in running[:room]]
        if len(running) > room:
            lines.append(Line(f"  and {len(running) - room} more"))
        return Group(first, *lines)

    def _running(self) -> list[TrialRecord]:
        """By number, so that lines keep their places."""
        return sorted((trial for trial in self.trials if not trial.ended), key=lambda trial: trial.number)

    def _best(self) -> TrialRecord | None:
        reached = (trial for trial in self.trials if trial.miou is not None)
        return next(reached, None)  # they are sorted: the best first

    def _describe(self, trial: TrialRecord, miou: float | None) -> str:
        whole = f"{self.epochs}/{self.epochs}"
        epoch = f"{trial.journal.epochs_done}/{self.epochs}".ljust(len(whole))
        leaves = ((name.rpartition(".")[2], value) for name, value in trial.params.items())
        params = "  ".join(f"{leaf} {short_value(value)}" for leaf, value in leaves)
        return f"{trial.name}  mIoU {ratio(miou):<6}  epoch {epoch}  {params}"

    def _stamps(self) -> Iterator[tuple[Path, int]]:
        for parameters in self.folder.glob(f"*/{PARAMETERS}"):
            trial = parameters.parent
            for file in (parameters, trial / FAILURES, trial / ENDING, state_file(trial)):
                if file.exists():
                    yield file, file.stat().st_mtime_ns
