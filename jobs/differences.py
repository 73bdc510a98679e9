"""A comparison of two scorings as a table on the screen, plain where it is no terminal."""

from math import isnan

from rich.table import Table

from cluster.report.comparison import Comparison, Difference
from seg.screen import open_console


def print_differences(comparison: Comparison) -> None:
    """Print IoU by class in both scorings, their difference with its interval, then how many images."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for heading in ("A", "B", "B - A", "95 % interval"):
        table.add_column(heading, justify="right")
    for row in (*comparison.classes, comparison.miou):
        table.add_row(row.name, _ratio(row.a), _ratio(row.b), _ratio(row.change, "+"), _interval(row))
    console = open_console(soft_wrap=True)
    console.print(table)
    console.print(
        f"{comparison.images} images compared; {comparison.unlabelled} without a label, "
        f"{comparison.only_a.count} in A alone, {comparison.only_b.count} in B alone"
    )


def _interval(row: Difference) -> str:
    return f"{_ratio(row.interval.low, '+')} to {_ratio(row.interval.high, '+')}"


def _ratio(value: float, sign: str = "") -> str:
    return "-" if isnan(value) else f"{value:{sign}.4f}"
