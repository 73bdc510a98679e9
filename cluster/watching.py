"""Work in a thread, while the main thread shows how far it is and hears Ctrl-C."""

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
            while thread.is_alive():
                thread.join(POLL_S)
                show(advance)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    if failures:
        raise _cause(failures[0])
    return StoppedBy.FINISHED


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrappers: a RequestError as itself, the rest with its traceback."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    failure = next(iter(failures.values()))
    inner = getattr(failure, "_base_exc", failure)  # Ray's UserExceptionWithTraceback
    return inner if isinstance(inner, RequestError) else failure
