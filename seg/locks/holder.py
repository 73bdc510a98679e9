"""Who holds a folder, in words, and whether that job still lives."""

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from seg.errors import RequestError
from seg.files import json_bytes
from seg.plain_data import parse_json, require

SILENT_S = 60.0
"""After so long without a sign of life, the lock of a process we cannot look for counts as left behind."""


class LostLock(Exception):
    """Another job has taken the folder over: what works for the job before it must not write there."""

    @classmethod
    def of(cls, folder: object) -> "LostLock":
        """The error for a folder."""
        return cls(f"another job has taken {folder} over; this one ends without writing to it")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as its file says."""

    token: str
    """NUMBER-RANDOM; the lock's number is one above that of the lock it took over."""
    what: str
    host: str
    pid: int
    pid_space: str
    """Where the pid means something: one start of one machine, one namespace of process ids on it."""
    started: str
    """Of the process, in clock ticks after the machine's start: a pid may be given out again."""
    since: str

    def to_json(self) -> bytes:
        """The content of a lock."""
        return json_bytes(asdict(self))


def describe_ourselves(number: int, what: str) -> Holder:
    """Who we are, with a new token. what: the kind of job, for people."""
    return Holder(
        token=f"{number}-{secrets.token_hex(8)}",
        what=what,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_space=_pid_space(),
        started=_read_stat(os.getpid())[1],
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def refuse_living(folder: object, lock: bytes, silent_s: float) -> str:
    """Whose lock this is and why it is left behind, in words.

    lock: its content. silent_s: since its last sign of life, by the clock of the storage. RequestError: the
    lock is in use.
    """
    holder = _parse(lock)
    who = "a job" if holder is None else _describe(holder)
    if holder is not None and holder.pid_space == _pid_space():
        if not _is_alive(holder.pid, holder.started):
            return f"{who}: its process is gone"
        mend = f"wait for it, stop it (kill {holder.pid}), or give another `out`"
    else:
        if silent_s >= SILENT_S:
            return f"{who}: it has given no sign of life for {silent_s:.0f} s"
        mend = "wait for it, stop it there, or give another `out`; should it be dead, try again in "
        mend += f"{SILENT_S - silent_s:.0f} s"
    raise RequestError(f"{folder} is in use by {who}; {mend}")


def _parse(content: bytes) -> Holder | None:
    """Who holds a lock; None for a file that a machine's crash has emptied."""
    try:
        return require(Holder, parse_json(content, "a lock"), "a lock")
    except RequestError:
        return None


def _describe(holder: Holder) -> str:
    return f"{holder.what} on {holder.host}, process {holder.pid}, since {holder.since}"


def _pid_space() -> str:
    """Equal in two processes if, and only if, a pid means the same to both, as long as one of them lives."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _is_alive(pid: int, started: str) -> bool:
    """Whether the process of that start runs; one that ended and was not waited for does not."""
    try:
        state, found = _read_stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return _is_hidden(pid)
    return state not in "ZX" and found == started


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show us (mounted with hidepid): another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False  # it has begun since we looked


def _read_stat(pid: int) -> tuple[str, str]:
    """State of a process and when it started, fields 3 and 22 of proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # its name, field 2, may hold blanks and brackets
    return fields[0], fields[19]
