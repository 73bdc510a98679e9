"""A table of two contenders' times a row, with what the row claims of them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row says of two times, ours and another's, and which way is better."""

    text: str
    compute: Callable[[float, float], float]
    at_least: bool


FIGURES = {
    "times": Figure("{:.1f} x as fast", lambda ours, other: other / ours, at_least=True),
    "rate": Figure("{:.2f} of its rate", lambda ours, other: other / ours, at_least=True),
    "above": Figure("{:+.1f} %", lambda ours, other: 100 * (ours / other - 1), at_least=False),
    "below": Figure("{:.1f} % slower", lambda ours, other: 100 * (1 - other / ours), at_least=False),
    "share": Figure("{:.2f} % of it", lambda ours, other: 100 * ours / other, at_least=False),
    "filled": Figure("{:.1f} % of it", lambda ours, other: 100 * ours / other, at_least=True),
    "apart": Figure("{:.0f} ms more", lambda ours, other: ours - other, at_least=False),
}
"""`above` compares times, `below` rates, which are their inverse."""


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement of two contenders in ms, turn by turn."""

    what: str
    ours: list[float]
    against: str
    other: list[float]
    figure: str
    """Key in FIGURES."""
    limit: float | None = None
    """What the figure's median has to keep; None: it is told, not judged."""

    @property
    def found(self) -> list[float]:
        """The figure by turn."""
        pairs = zip(self.ours, self.other, strict=True)
        return [FIGURES[self.figure].compute(*pair) for pair in pairs]

    def holds(self) -> bool:
        """Whether the limit is kept."""
        middle = median(self.found)
        if self.limit is None:
            return True
        return middle >= self.limit if FIGURES[self.figure].at_least else middle <= self.limit

    def line(self) -> str:
        """The row of the table."""
        figure = FIGURES[self.figure]
        found = f"{figure.text.format(median(self.found))} ({min(self.found):.3g} to {max(self.found):.3g})"
        line = f"{self.what:34}{spread(self.ours):>25}  {self.against:34}{spread(self.other):>25}  {found:34}"
        if self.limit is None:
            return line.rstrip()
        wanted = "at least" if figure.at_least else "at most"
        return f"{line}{wanted} {self.limit:g}: {'yes' if self.holds() else 'NO'}"


Reason = Callable[[str], str | None]
"""Why a measurement is left out, by its name; None: it can be made."""

HEADER = f"{'':34}{'ms, median (range)':>25}  {'against':34}{'ms, median (range)':>25}  by turn"


def spread(times_ms: list[float]) -> str:
    """Median and range."""
    return f"{median(times_ms):.4g} ({min(times_ms):.4g}-{max(times_ms):.4g})"


def print_table(
    about: str, measurements: Iterable[tuple[str, Callable[[], Iterable[Any]]]], reason_to_skip: Reason
) -> None:
    """Print what the numbers belong to, a line a row as it is measured, then all as one JSON line.

    measurements: the name of each, and what yields its rows, dataclasses with a `line()`.
    """
    print(f"{about}\n{HEADER}", flush=True)
    found = []
    for name, measure in measurements:
        if reason := reason_to_skip(name):
            print(f"{name}: left out, {reason}", flush=True)
            continue
        for row in measure():
            print(row.line(), flush=True)
            found.append(row)
    print(json.dumps([asdict(row) for row in found]))
