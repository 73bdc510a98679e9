"""search.html of a search: one file that holds all it shows, read in a browser or printed."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seg.figures.pages import TICKS, Tick, nice_ticks, open_templates, share
from seg.files import write_bytes
from seg.recipe import Params
from seg.search.space import Axis, Space, ends, is_inside
from seg.search.study import FEWEST_JUDGED, importance
from seg.search.trials import OWN, SearchFigures, TrialRecord
from seg.words import ENDINGS, time_span


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis of the parallel coordinates."""

    name: str
    ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class Line:
    """One trial in a plot; places go from left or bottom to right or top."""

    trial: str
    kind: str
    """How it is drawn: best, own, or the trial's status."""
    title: str
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Parallel coordinates: the searched fields, then mIoU."""

    scales: list[Scale]
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Curves:
    """mIoU by epoch."""

    across: list[Tick]
    up: list[Tick]
    lines: list[Line]


def draw_coordinates(space: Space, labels: Sequence[str], trials: Sequence[TrialRecord]) -> Coordinates:
    """The trials, the best first, on an axis for each field that has several values; the best is drawn last.

    Trials without an mIoU, or outside the space as the recipe's own may be, have no line.
    """
    axes = {name: axis for name, axis in space.items() if len(ends(axis)) > 1}
    names = dict(zip(space, labels, strict=True))
    shown = [trial for trial in trials if is_inside(space, trial.params) and trial.miou is not None]
    heights = nice_ticks([trial.miou for trial in shown if trial.miou is not None])
    scales = [Scale(names[name], axis_ticks(axis)) for name, axis in axes.items()]
    scales.append(Scale("mIoU", [(share(tick, heights), f"{tick:.6g}") for tick in heights]))
    lines = [_line(trial, axes, heights, best=trial is trials[0]) for trial in reversed(shown)]
    return Coordinates(scales, lines)


def _line(trial: TrialRecord, axes: Space, heights: list[float], *, best: bool) -> Line:
    places = [place(axis, trial.params[name]) for name, axis in axes.items()]
    places.append(share(trial.miou or 0.0, heights))
    across = [index / max(1, len(places) - 1) for index in range(len(places))]
    points = list(zip(across, places, strict=True))
    return Line(trial.name, kind_of(trial, best=best), title_of(trial), points)


def draw_curves(trials: Sequence[TrialRecord]) -> Curves:
    """The mIoU of each trial's epochs, the best trial drawn last."""
    shown = [trial for trial in trials if trial.miou is not None]
    histories = {trial.number: _history(trial) for trial in shown}
    heights = nice_ticks([miou for history in histories.values() for _, miou in history])
    epochs = nice_epochs(max((history[-1][0] for history in histories.values() if history), default=1))
    lines = [
        Line(
            trial.name,
            kind_of(trial, best=trial is trials[0]),
            title_of(trial),
            [(share(epoch, epochs), share(miou, heights)) for epoch, miou in histories[trial.number]],
        )
        for trial in reversed(shown)
    ]
    across = [(share(epoch, epochs), f"{epoch}") for epoch in epochs]
    return Curves(across, [(share(tick, heights), f"{tick:.6g}") for tick in heights], lines)


def _history(trial: TrialRecord) -> list[tuple[int, float]]:
    history = trial.journal.history
    return [(result.epoch, result.miou) for result in history if not math.isnan(result.miou)]


def kind_of(trial: TrialRecord, *, best: bool) -> str:
    """How a trial is marked: as the best, as the recipe's own, or by how it ended."""
    return "best" if best else "own" if trial.number == OWN else trial.status


def title_of(trial: TrialRecord) -> str:
    """What a trial's line says when it is pointed at."""
    settings = ", ".join(f"{name} {format_value(value)}" for name, value in trial.params.items())
    reached = "no mIoU" if trial.miou is None else f"mIoU {trial.miou:.4f}"
    return f"{trial.name}: {reached}, {trial.status} after {trial.journal.epochs_done} epochs; {settings}"


def place(axis: Axis, value: Any) -> float:
    """Where a value lies on its axis."""
    if isinstance(axis, CategoricalDistribution):
        return share(axis.choices.index(value), [0, len(axis.choices) - 1])
    if axis.log:
        return share(math.log(value), [math.log(axis.low), math.log(axis.high)])
    return share(value, [axis.low, axis.high])


def axis_ticks(axis: Axis) -> list[Tick]:
    """An axis' labels: every choice; of a range its ends, and powers of ten or the middle between them."""
    values = ends(axis)
    if not isinstance(axis, CategoricalDistribution):
        values = (axis.low, *_between(axis), axis.high)
    return [(place(axis, value), format_value(value)) for value in values]


def _between(axis: FloatDistribution | IntDistribution) -> list[float]:
    if not axis.log:
        middle = (axis.low + axis.high) / 2
        return [middle] if not axis.step or middle == int(middle) else []
    first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    decades = [10.0**power for power in range(first, last + 1)][:: max(1, (last - first) // TICKS)]
    return [decade for decade in decades if 0.06 < place(axis, decade) < 0.94]  # not on top of an end


def nice_epochs(last: int) -> list[int]:
    """The first and the last epoch, and round ones between them."""
    step = max(1, math.ceil((last - 1) / TICKS))
    step = next(size for size in (1, 2, 5, 10, 20, 25, 50, 100, step) if size >= step)
    between = [epoch for epoch in range(step, last, step) if epoch > 1 and last - epoch >= step / 2]
    return sorted({1, *between, last})


def format_value(value: Any) -> str:
    """A recipe's value in short."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return " ".join(map(format_value, value)) if value else "none"
    return str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One trial in the leaderboard."""

    record: TrialRecord
    kind: str
    values: list[str]
    """Of the searched fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All that search.html shows, as plain values."""

    title: str
    stopped: str
    summary: SearchFigures
    alarms: Sequence[str]
    """What the best trial's predictions alarm of."""
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


def write_page(
    folder: Path, space: Space, trials: Sequence[TrialRecord], summary: SearchFigures, alarms: Sequence[str]
) -> Path:
    """Write search.html from the trials, the best first; the same trials give the same bytes.

    Every text in it is escaped.
    """
    file, environment = folder / "search.html", open_templates()
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    environment.filters["duration"] = time_span
    template = environment.get_template("search/search.html.jinja")
    page = _gather(space, trials, title=folder.name, summary=summary, alarms=alarms)
    write_bytes(file, template.render(page=page, fewest=FEWEST_JUDGED).encode())
    return file


def _gather(
    space: Space, trials: Sequence[TrialRecord], *, title: str, summary: SearchFigures, alarms: Sequence[str]
) -> Page:
    judged = [trial for trial in trials if trial.miou is not None]
    best = judged[0] if judged else None
    own = next((trial for trial in trials if trial.number == OWN), None)
    labels = short_names(list(space))
    return Page(
        title=title,
        stopped=ENDINGS[summary.stopped_by],
        summary=summary,
        alarms=alarms,
        rows=[
            Row(
                trial,
                kind_of(trial, best=trial is best),
                [format_value(trial.params[name]) for name in space],
            )
            for trial in trials
        ],
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
        outside=sum(not is_inside(space, trial.params) for trial in judged),
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names without the group, but for those that would not be distinct."""
    leaves = [name.rpartition(".")[2] for name in names]
    return [leaf if leaves.count(leaf) == 1 else name for name, leaf in zip(names, leaves, strict=True)]


def describe_axis(axis: Axis) -> str:
    """What a field was drawn from, in words."""
    if isinstance(axis, CategoricalDistribution):
        return "one of " + ", ".join(map(format_value, axis.choices))
    kind = "whole numbers " if axis.step else ""
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
