"""How far a search is, as its trials' folders tell it."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType

from seg.progress import Line, duration, heading, ratio
from seg.recipe import Recipe, short_value
from seg.search.trials import (
    ENDING,
    ERRORED,
    FAILURES,
    FINISHED,
    PARAMETERS,
    PRUNED,
    RUNNING,
    TrialRecord,
    read_trials,
)
from seg.train.state import state_file

LINES_AROUND = 6
"""Lines of a terminal that running trials leave free: heading, counts, best, the rest's number, a prompt."""


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
        first = heading(self.title, self.work_done / self.total, counts, duration(self.seconds_left))
        statuses = [trial.status for trial in self.trials]
        each = (f"{statuses.count(status)} {status}" for status in (FINISHED, PRUNED, ERRORED, RUNNING))
        best, running, room = self._best(), self._running(), max(1, height - LINES_AROUND)
        lines = [Line("  " + "   ".join(each))]
        if best:
            lines.append(Line(f"  best     {self._describe(best, best.miou)}", "bold"))
        lines += [Line(f"  running  {self._describe(trial, _last_miou(trial))}") for trial in running[:room]]
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


def _last_miou(trial: TrialRecord) -> float | None:
    return trial.journal.history[-1].miou if trial.journal.history else None
