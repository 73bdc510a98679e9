"""Progress on a terminal (a rich bar) and in a log (one plain line now and then)."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seg.screen import open_console, say

LINE_EVERY_S = 60.0
"""Seconds between two plain lines in a log."""

QUICK_S = 2.0
"""What takes less leaves no line in a log."""

Advance = Callable[..., None]
"""`advance(steps=1, note="")`: so many more are done; the note stands at the line's end."""


@contextmanager
def progress(what: str, total: int, *, line_every_s: float = LINE_EVERY_S) -> Iterator[Advance]:
    """Show how far `what` is out of `total` on standard error while the block runs.

    A terminal gets a bar with counts and time left. Anything else gets a plain line every `line_every_s`
    seconds and, after QUICK_S, one at the end, since a job's log keeps every redraw of a bar.
    """
    if sys.stderr.isatty():
        with _bar(what, total) as advance:
            yield advance
    else:
        with plain_lines(what, total, line_every_s) as advance:
            yield advance


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=open_console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note or bar.tasks[task].fields["note"])

        yield advance


@contextmanager
def plain_lines(what: str, total: int, line_every_s: float, *, done: int = 0) -> Iterator[Advance]:
    """A log's part of `progress`; `done`: how many were done before."""
    started = last_line = time.monotonic()
    last_note = ""

    def tell(now: float) -> None:
        note = f"  {last_note}" if last_note else ""
        say(f"{what}: {done}/{total} in {now - started:.0f} s{note}")

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last_line, last_note
        done, last_note = done + steps, note or last_note
        now = time.monotonic()
        if now - last_line >= line_every_s:
            last_line = now
            tell(now)

    try:
        yield advance
    finally:
        if time.monotonic() - started >= QUICK_S:
            tell(time.monotonic())
