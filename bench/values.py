"""Lines of a table for what is measured without a contender."""

from dataclasses import dataclass
from statistics import median

from bench.table import spread


@dataclass(frozen=True, slots=True)
class Value:
    """A measured quantity, once or several times."""

    what: str
    found: list[float]
    unit: str
    limit: float | None = None
    """What its median may be at most; None: it is told, not judged."""

    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.limit is None or median(self.found) <= self.limit

    def line(self) -> str:
        """The row of the table."""
        line = f"{self.what:60}{spread(self.found):>30} {self.unit}"
        if self.limit is None:
            return line
        return f"{line}  at most {self.limit:g}: {'yes' if self.holds() else 'NO'}"
