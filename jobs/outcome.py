"""Exit codes of every job, and the one place where an error becomes a line on the screen."""

import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from seg.errors import DamagedFile, DataWarning, RequestError


def run_job(name: str, job: Callable[[], int]) -> int:
    """Run a job and return its exit code: its own, 2 where the request is wrong, 1 where we failed.

    SIGTERM becomes Ctrl-C: a job that can stop half-way ends with 4 itself; here, before it began, 4 as well.
    The traceback of a failure goes to a file, whose name is printed beside the cause.
    """
    warnings.showwarning = partial(_show_warning, name, warnings.showwarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with `&`
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return job()
    except RequestError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except DamagedFile as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from here", file=sys.stderr)
        return 4
    except Exception as error:
        log = Path(tempfile.mkstemp(prefix=f"fringe-{name}-", suffix=".log")[1])
        log.write_text(traceback.format_exc(), encoding="utf-8")
        cause = (str(error).strip().splitlines() or [""])[-1]
        print(f"{name}: failed: {type(error).__name__}: {cause} (traceback: {log})", file=sys.stderr)
        return 1


def _show_warning(
    name: str, show: Callable[..., None], message: Warning | str, kind: type[Warning], *where: Any
) -> None:
    """A warning about data as a line on the screen; others, which are about code, as Python shows them."""
    if issubclass(kind, DataWarning):
        print(f"{name}: warning: {message}", file=sys.stderr)
    else:
        show(message, kind, *where)
