"""A command of the operator's that runs when a scoring has ended, however it did."""

import os
import shlex
import signal
import subprocess
import warnings

from seg.errors import DataWarning, RequestError

PATIENCE_S = 60.0
"""A command that takes longer is ended: a mail server that hangs must not keep the job from ending."""


def parse_notify(command: str) -> list[str]:
    """The words of a command, as a shell splits them. RequestError: a quote is open, or there is no word."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RequestError(f"`notify={command!r}` cannot be split into words ({error}); close it") from None
    if not words:
        raise RequestError("`notify` is empty; give a command, as `notify='mail -s scored me@lab.example'`")
    return words


def run_notify(
    command: str, summary: str, *, stopped_by: str, exit_code: int, patience_s: float = PATIENCE_S
) -> None:
    """Run a command without a shell, the summary's path or URI as its last word; wait at most `patience_s`.

    It finds FRINGE_SUMMARY, FRINGE_STOPPED_BY and FRINGE_EXIT_CODE in its environment. Whatever goes wrong
    with it is a DataWarning and changes nothing of the job.
    """
    words = [*parse_notify(command), summary]
    told = {
        "FRINGE_SUMMARY": summary,
        "FRINGE_STOPPED_BY": stopped_by,
        "FRINGE_EXIT_CODE": str(exit_code),
    }
    try:
        process = subprocess.Popen(
            words, env=os.environ | told, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        _warn(words, f"could not be started: {error.strerror}")
        return
    try:
        code = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        _end_group(process)
        _warn(words, f"had not ended after {patience_s:g} s and was killed")
    else:
        if code:
            _warn(words, f"ended with exit code {code}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the command with what it started: its own session, so none of ours."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _warn(words: list[str], what: str) -> None:
    warnings.warn(DataWarning(f"`notify={shlex.join(words)}` {what}"), stacklevel=3)
