"""Work that is shown while it runs, and that Ctrl-C ends."""

import threading
from collections.abc import Callable

from seg.errors import RequestError, StoppedBy
from seg.progress import LOOK_EVERY_S, Watched, live_view


def watch_thread(watched: Watched, work: Callable[[], object]) -> StoppedBy:
    """Run `work` in a thread and show it until it ends, or the user stops it.

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
        with live_view(watched) as show:
            thread.start()
            while thread.is_alive():
                show()
                thread.join(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    if failures:
        raise _cause(failures[0])
    return StoppedBy.FINISHED


def watch_here(watched: Watched, work: Callable[[Callable[[], None]], object]) -> StoppedBy:
    """Run `work` in this thread; it calls what it is given whenever there may be something new to show.

    Ctrl-C ends it where it is. In a thread it would go on while the interpreter ends, and torch aborts such a
    process: exit code 134, not 4.
    """
    try:
        with live_view(watched) as show:
            work(show)
    except KeyboardInterrupt:
        return StoppedBy.INTERRUPT
    return StoppedBy.FINISHED


def worker_failure(error: BaseException) -> BaseException:
    """What a worker of Ray Train raised, out of its wrappers; any other exception as it is."""
    for failure in getattr(error, "worker_failures", {}).values():
        return getattr(failure, "_base_exc", failure)  # of Ray's UserExceptionWithTraceback
    return error


def _cause(error: BaseException) -> BaseException:
    """What ended the work: a worker's RequestError as itself, the rest with its worker's traceback."""
    inner = worker_failure(error)
    if inner is error or isinstance(inner, RequestError):
        return inner
    return next(iter(error.worker_failures.values()))  # type: ignore[attr-defined]
