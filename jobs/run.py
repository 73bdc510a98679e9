"""Exit codes of every job, and the one place where an error becomes a line on the screen."""

import io
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from seg.errors import DamagedFile, DataWarning, RequestError
from seg.screen import say, visible


def run_job(name: str, job: Callable[[], int]) -> int:
    """Run a job and return its exit code: its own, 2 where the request is wrong, 1 where we failed.

    SIGTERM becomes Ctrl-C: a job that can stop half-way ends with 4 itself; here, before it began, 4 as well.
    The traceback of a failure goes to a file, whose name is printed beside the cause.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without the letters of a name
    warnings.showwarning = partial(_show_warning, name, warnings.showwarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with `&`
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return job()
    except RequestError as error:
        say(f"{name}: {error}")
        return 2
    except DamagedFile as error:
        say(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"{name}: stopped; the same command goes on from here")
        return 4
    except Exception as error:
        log = Path(tempfile.mkstemp(prefix=f"fringe-{name}-", suffix=".log")[1])
        lines = traceback.format_exc().splitlines()  # of a name that holds a line break, two
        log.write_text("".join(f"{visible(line)}\n" for line in lines), encoding="utf-8")
        cause = (str(error).strip().splitlines() or [""])[-1]
        say(f"{name}: failed: {type(error).__name__}: {cause} (traceback: {log})")
        return 1


def parse_words(kind: Any, argv: Sequence[str] | None, **options: Any) -> Any:
    """The options of a command line, as a `kind`; options: of `tyro.cli`. SystemExit: they are wrong.

    What tyro then says repeats words, which a shell may have made of the names in a folder.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if all(visible(word) == word for word in words):
        return tyro.cli(kind, args=words, **options)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=words, **options)
    except SystemExit:
        for line in said.getvalue().splitlines():
            say(line)
        raise


def _show_warning(
    name: str, show: Callable[..., None], message: Warning | str, kind: type[Warning], *where: Any
) -> None:
    """A warning about data as a line on the screen; others, which are about code, as Python shows them."""
    if issubclass(kind, DataWarning):
        say(f"{name}: warning: {message}")
    else:
        show(visible(str(message)), kind, *where)
