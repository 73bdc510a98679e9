"""Keeps Ray's own bars, hints and native log lines off the screen; nothing is lost, they go to files."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; unset, each start warns of it
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own table; we print ours
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else Tune's thread, after Ctrl-C and our shutdown, starts another Ray
}


@contextmanager
def quiet_ray() -> Iterator[None]:
    """For the length of a block: Ray's Python loggers show errors alone, native output goes to a file.

    Ray's core writes straight to file descriptor 2. Our own lines keep the terminal, through a duplicate of
    the descriptor. The file lies in the temporary folder; it stays if the block fails and something is in it.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    native, log = tempfile.mkstemp(prefix=f"fringe-native-{os.getpid()}-", suffix=".log")
    screen = os.dup(2)
    python_stderr = sys.stderr
    ended_well = False
    with os.fdopen(native, "ab") as file, _open_screen(screen) as stream:
        sys.stderr = stream
        os.dup2(file.fileno(), 2)
        try:
            yield
            ended_well = True
        finally:
            os.dup2(screen, 2)
            sys.stderr = python_stderr
            if ended_well or not os.fstat(file.fileno()).st_size:
                Path(log).unlink(missing_ok=True)  # a long night's temporary files may have been cleared away


def _open_screen(descriptor: int) -> IO[str]:
    """The terminal as Python's own standard error writes to it: what its letters lack, it spells out."""
    return os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace")


def quiet_loggers() -> None:
    """Let the loggers that importing a part of Ray has set up show errors alone; their log files keep all."""
    for name in ("ray", "ray.train", "ray.tune"):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
