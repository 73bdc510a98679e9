"""Work that is shown while it runs, and that Ctrl-C ends."""

import threading
from collections.abc import Callable

from cluster.outcome import StoppedBy
from seg.errors import RequestError
from seg.progress import Advance, progress

POLL_S = 0.5
LINE_EVERY_S = 15.0
"""Seconds between two lines in a log: an epoch or a trial may take minutes."""


def run_watched(
    what: str, total: int, work: Callable[[], object], show: Callable[[Advance], None]
) -> StoppedBy:
    """Run `work` in a thread and call `show` twice a second until it ends, or the user stops it.

    In a thread, because Ray Train's fit answers Ctrl-C by ending the process with exit code 0, and Ray Tune's
    by returning as if it were done. What `work` raises is raised here, a worker's RequestError as itself.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # a SystemExit too: what did not end well is not finished
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        with progress(what, total, line_every_s=LINE_EVERY_S) as advance:
            thread.start()
            alive = True
            while alive:
                thread.join(POLL_S)
                alive = thread.is_alive()
                show(advance)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    if failures:
        raise _cause(failures[0])
    return StoppedBy.FINISHED


def run_here(
    what: str, total: int, work: Callable[[Callable[[], None]], object], show: Callable[[Advance], None]
) -> StoppedBy:
    """Run `work` in this thread; it calls what it is given whenever there may be something new to show.

    Ctrl-C ends it where it is. In a thread it would go on while the interpreter ends, and torch aborts such a
    process: exit code 134, not 4.
    """
    try:
        with progress(what, total, line_every_s=LINE_EVERY_S) as advance:
            work(lambda: show(advance))
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    return StoppedBy.FINISHED


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrappers: a RequestError as itself, the rest with its traceback."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    failure = next(iter(failures.values()))
    inner = getattr(failure, "_base_exc", failure)  # Ray's UserExceptionWithTraceback
    return inner if isinstance(inner, RequestError) else failure
