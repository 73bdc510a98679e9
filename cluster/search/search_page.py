"""search.html of a search: one file that holds all it shows, read in a browser or printed."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.outcome import StoppedBy
from cluster.pages import open_templates
from cluster.search.search_plots import (
    Coordinates,
    Curves,
    draw_coordinates,
    draw_curves,
    format_value,
    is_inside,
    kind_of,
)
from cluster.search.search_space import Axis, Choice, Params, Space
from cluster.search.study import FEWEST_JUDGED, importance
from cluster.search.trials import OWN, TrialRecord
from seg.files import write_bytes

STOPPED = {
    StoppedBy.FINISHED: "Finished",
    StoppedBy.DEADLINE: "Stopped at its deadline; the same command goes on from there",
    StoppedBy.INTERRUPT: "Interrupted; the same command goes on from there",
    StoppedBy.ERROR: "Stopped by an error; the same command goes on from there",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One trial in the leaderboard."""

    record: TrialRecord
    kind: str
    values: list[str]
    """Of the searched fields."""
    epochs: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All that search.html shows, as plain values."""

    title: str
    stopped: str
    summary: dict[str, Any]
    rows: list[Row]
    """The best trial first."""
    best: TrialRecord | None
    own: TrialRecord | None
    """The trial of the recipe as it stands, where it has an mIoU."""
    labels: list[str]
    """The searched fields, as short as they stay distinct."""
    space: list[tuple[str, str]]
    """The searched fields in full, and what each was drawn from, in words."""
    options: str
    """In what the best trial differs from its recipe, as options of a training."""
    coordinates: Coordinates
    curves: Curves
    importance: list[tuple[str, float]]
    outside: int
    """Trials with an mIoU that are no line in the coordinates."""


def write_page(folder: Path, space: Space, trials: Sequence[TrialRecord], summary: dict[str, Any]) -> Path:
    """Write search.html from the trials, the best first; the same trials give the same bytes."""
    page = folder / "search.html"
    write_bytes(page, render(gather(folder.name, space, trials, summary)).encode())
    return page


def render(page: Page) -> str:
    """The page; every text is escaped."""
    environment = open_templates()
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    environment.filters["duration"] = format_duration
    return environment.get_template("search/search.html.jinja").render(page=page, fewest=FEWEST_JUDGED)


def gather(title: str, space: Space, trials: Sequence[TrialRecord], summary: dict[str, Any]) -> Page:
    """What the page shows of trials, the best first."""
    judged = [trial for trial in trials if trial.miou is not None]
    best = judged[0] if judged else None
    own = next((trial for trial in trials if trial.number == OWN), None)
    labels = short_names(list(space))
    return Page(
        title=title,
        stopped=STOPPED[summary["stopped_by"]],
        summary=summary,
        rows=[_row(trial, space, best) for trial in trials],
        best=best,
        own=own if own and own.miou is not None else None,
        labels=labels,
        space=[(name, describe_axis(axis)) for name, axis in space.items()],
        options=as_options(best.params, own.params) if best and own else "",
        coordinates=draw_coordinates(space, labels, trials),
        curves=draw_curves(trials),
        importance=[
            (labels[list(space).index(name)], share) for name, share in importance(space, trials).items()
        ],
        outside=sum(not is_inside(space, trial) for trial in judged),
    )


def _row(trial: TrialRecord, space: Space, best: TrialRecord | None) -> Row:
    return Row(
        record=trial,
        kind=kind_of(trial, best=trial is best),
        values=[format_value(trial.params[name]) for name in space],
        epochs=trial.journal.epochs_done,
        seconds=sum(float(row["seconds"] or 0) for row in trial.journal.history),
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names without the group, but for those that would not be distinct."""
    leaves = [name.rpartition(".")[2] for name in names]
    return [leaf if leaves.count(leaf) == 1 else name for name, leaf in zip(names, leaves, strict=True)]


def describe_axis(axis: Axis) -> str:
    """What a field was drawn from, in words."""
    if isinstance(axis, Choice):
        return "one of " + ", ".join(map(format_value, axis.values))
    kind = "whole numbers " if axis.whole else ""
    return f"{kind}from {axis.low:g} to {axis.high:g}{', by logarithm' if axis.log else ''}"


def as_options(params: Params, own: Params) -> str:
    """The settings in which a trial differs from its recipe, as a user types them for a training."""
    changed = {name: value for name, value in params.items() if value != own.get(name)}
    return " ".join(_option(name, value) for name, value in changed.items())


def _option(name: str, value: Any) -> str:
    group, dot, field = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):  # a flag: there is only the one that changes the recipe
        return f"--{group}{dot}{'' if value else 'no-'}{field}"
    return " ".join([f"--{group}{dot}{field}", *(shlex.quote(word) for word in _words(value))])


def _words(value: Any) -> list[str]:
    return [word for item in value for word in _words(item)] if isinstance(value, tuple) else [str(value)]


def format_duration(seconds: float) -> str:
    """A time in the one unit or two that say it: "48 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
