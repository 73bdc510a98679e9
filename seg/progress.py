"""Progress on the screen: bars of known length, and views of work that is drawn again while it runs."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf, isfinite
from types import FrameType
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seg.errors import StoppedBy
from seg.screen import open_console, say, visible

log = logging.getLogger(__name__)

LINE_EVERY_S = 60.0
"""Seconds between two plain lines in a log."""

QUICK_S = 2.0
"""What takes less leaves no line in a log."""

Advance = Callable[..., None]
"""`advance(steps=1, note="")`: so many more are done; the note stands at the line's end."""
LOOK_EVERY_S = 0.5
VIEW_LINE_EVERY_S = 15.0
"""Seconds between two lines in a log, unless asked otherwise: an epoch or a trial may take minutes."""

BLOCKS = "▁▂▃▄▅▆▇█"


@contextmanager
def progress(what: str, total: int, *, line_every_s: float = LINE_EVERY_S) -> Iterator[Advance]:
    """Show how far `what` is out of `total` on standard error while the block runs.

    A terminal gets a bar with counts and time left, which folds away at the end. Anything else gets a plain
    line every `line_every_s` seconds, since a job's log keeps every redraw of a bar. What took QUICK_S or
    more leaves one line on both.
    """
    if not sys.stderr.isatty():
        with plain_lines(what, total, line_every_s) as advance:
            yield advance
        return
    with plain_lines(what, total, inf) as tell, _bar(what, total) as draw:

        def advance(steps: int = 1, note: str = "") -> None:
            draw(steps, note)
            tell(steps, note)

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
    with Progress(*columns, console=open_console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note or bar.tasks[task].fields["note"])

        yield advance


@contextmanager
def plain_lines(what: str, total: int, line_every_s: float, *, done: int = 0) -> Iterator[Advance]:
    """A log's part of `progress`; `done`: how many were done before."""
    started = last_line = time.monotonic()
    last_note, told = "", None

    def tell(now: float) -> None:
        nonlocal told
        told = done, last_note
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
        if time.monotonic() - started >= QUICK_S and told != (done, last_note):
            tell(time.monotonic())


class Wait:
    """A wait for workers, explained in a line of the log once it has lasted QUICK_S."""

    def __init__(self, workers: int, then: str) -> None:
        """`then`: what each of them does once its process runs."""
        alone = workers == 1
        self._for = "a worker" if alone else f"{workers} workers"
        self._why = f"Ray starts {'its process, which' if alone else 'their processes, each'} {then}"
        self._began, self._told = time.monotonic(), False

    def look(self) -> None:
        """Say it, if it is time; to be called while the wait lasts."""
        if not self._told and time.monotonic() - self._began >= QUICK_S:
            self._told = True
            log.info(f"waiting for {self._for}: {self._why}")

    def __str__(self) -> str:
        return f"waiting {time.monotonic() - self._began:.0f} s for {self._for}: {self._why}"


class Watched(Protocol):
    """Work in progress."""

    title: str
    total: int
    """Epochs, trials or images in all."""

    @property
    def done(self) -> int:
        """How many of them are over."""
        ...

    @property
    def note(self) -> str:
        """The rest of a log's line."""
        ...

    def look(self) -> None:
        """See what is new."""
        ...

    def picture(self, height: int) -> RenderableType:
        """What a terminal of so many lines shows."""
        ...


@contextmanager
def live_view(watched: Watched, *, line_every_s: float = VIEW_LINE_EVERY_S) -> Iterator[Callable[[], None]]:
    """Show `watched` on standard error while the block runs; call what this gives whenever there may be news.

    A terminal gets a picture that is drawn over itself, and keeps the last one. Anything else gets plain
    lines, one every `line_every_s` seconds. It is looked at no more than twice a second, however often news
    are announced.
    """
    console = open_console(stderr=True)
    drawn = sys.stderr.isatty() and not console.is_dumb_terminal
    with _picture(watched, console) if drawn else _lines(watched, line_every_s) as show:
        show()
        looked = time.monotonic()

        def show_now_and_then() -> None:
            nonlocal looked
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                show()

        try:
            yield show_now_and_then
        finally:
            show()


def watch_thread(watched: Watched, work: Callable[[], object]) -> StoppedBy:
    """Run `work` in a thread and show it until it ends, or the user stops it.

    In a thread, because Ray Train's fit answers Ctrl-C by ending the process with exit code 0, and Ray Tune's
    by returning as if it were done. What `work` raises is raised here.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # a SystemExit too: what did not end well is not finished
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        with _keeping_ctrl_c() as heed, live_view(watched) as show:
            thread.start()
            while thread.is_alive():
                heed()
                show()
                thread.join(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    if failures:
        raise failures[0]
    return StoppedBy.FINISHED


def watch_here(watched: Watched, work: Callable[[Callable[[], None]], object]) -> StoppedBy:
    """Run `work` in this thread; it calls what it is given whenever there may be something new to show.

    Ctrl-C ends it where it is. In a thread it would go on while the interpreter ends, and torch aborts such a
    process: exit code 134, not 4.
    """

    def heed_and_show() -> None:
        heed()
        show()

    try:
        with _keeping_ctrl_c() as heed, live_view(watched) as show:
            work(heed_and_show)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    return StoppedBy.FINISHED


@contextmanager
def _keeping_ctrl_c() -> Iterator[Callable[[], None]]:
    """While the block runs no Ctrl-C is lost: one that ended nothing is raised again by what this gives.

    Python only prints what is raised in a finaliser or a callback of its garbage collection, and goes on. A
    handler of somebody else stays as it is; outside the main thread signals are not heard.
    """
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        raise KeyboardInterrupt

    def heed() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield heed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _picture(watched: Watched, console: Console) -> Iterator[Callable[[], None]]:
    # no thread that draws, and standard output left alone: a debugger's prompt goes there
    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:

        def show() -> None:
            watched.look()
            width = console.width - len("^C")  # which a terminal writes behind the picture, and would wrap
            live.update(Constrain(watched.picture(console.height), width), refresh=True)

        yield show


@contextmanager
def _lines(watched: Watched, line_every_s: float) -> Iterator[Callable[[], None]]:
    shown = watched.done
    with plain_lines(watched.title, watched.total, line_every_s, done=shown) as advance:

        def show() -> None:
            nonlocal shown
            watched.look()
            advance(watched.done - shown, watched.note)
            shown = watched.done

        yield show


class Line:
    """A line of a picture: cut at the terminal's edge, not wrapped, so that the picture keeps its height."""

    def __init__(self, text: str, style: str = "") -> None:
        self.text, self.style = visible(text), style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        overflow = "crop" if options.ascii_only else "ellipsis"
        text = self.text.encode("ascii", "ignore").decode() if options.ascii_only else self.text
        yield Text(text, self.style, no_wrap=True, overflow=overflow)


def heading(title: str, share: float, count: str, seconds_left: str) -> RenderableType:
    """A picture's first line: what is done, a bar of the share that is over, a count, the time left."""
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(no_wrap=True, overflow="crop")
    row.add_column(ratio=1, min_width=8)
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_row(Text(visible(title), "bold"), ProgressBar(total=1.0, completed=share), count, seconds_left)
    return row


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as blocks from the lowest to the highest; a gap where one is not finite."""
    shown = [value if value is not None and isfinite(value) else None for value in values[-width:]]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    top = len(BLOCKS) - 1
    return "".join(" " if value is None else BLOCKS[round((value - low) / span * top)] for value in shown)
