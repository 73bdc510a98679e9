"""One job at a time for a folder: a lock that outlives neither a clean end nor, for long, a kill."""

import errno
import json
import os
import re
import secrets
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from seg.errors import RequestError
from seg.files import TEMPORARY

BEAT_S = 2.0
"""Seconds between two signs of life."""
SILENT_S = 60.0
"""After so long without one, the lock of a process that we cannot look for counts as left behind."""

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_NAME = re.compile(r"lock-(\d+)\.json")


class LostLock(Exception):
    """Another job has taken the folder over: what works for the job before it must not write there."""


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


class FolderLock:
    """Holds a folder for this process, as a context; a missing folder is made.

    RequestError, on entering: another job holds it. A lock is taken over at once where its process is gone;
    where we cannot look for that, on another machine or in another container, after SILENT_S without a sign
    of life. A job that so loses its folder finds out by `check_owner`.
    """

    def __init__(self, folder: Path, *, what: str) -> None:
        """what: the kind of job, for people."""
        self.folder, self.what = folder, what
        self.token = ""
        """For `check_owner`, also in other processes; empty until the lock is held."""
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="folder lock", daemon=True)

    def __enter__(self) -> "FolderLock":
        self.folder.mkdir(parents=True, exist_ok=True)
        while not self.token:
            self.token = _try_to_take(self.folder, self.what)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        with suppress(LostLock, OSError):  # storage that is away: our process's end frees the lock too
            check_owner(self.folder, self.token)
            _lock_file(self.folder, self.token).unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):  # the same: what has to be written waits by itself, we beat again later
                os.utime(_lock_file(self.folder, self.token))


def check_owner(folder: Path, token: str) -> None:
    """Make sure that the lock with this token still holds a folder: one small read.

    LostLock: it does not. FileNotFoundError: nothing does, as when the folder's storage is not there.
    """
    file = _lock_file(folder, token)
    try:
        held = json.loads(file.read_bytes())["token"] == token and not _next_file(file).exists()
    except FileNotFoundError:
        if not _next_file(file).exists():
            raise
        held = False
    if not held:
        raise LostLock(f"another job has taken {folder} over; this one ends without writing to it")


def _try_to_take(folder: Path, what: str) -> str:
    """Put a lock of ours after the newest in a folder and return its token; empty: others came between.

    Locks are numbered: who takes one over makes the next number, in which one alone succeeds, and only then
    removes the old one.
    """
    before = max(_numbers(folder), default=0)
    holder = _describe_ourselves(f"{before + 1}-{secrets.token_hex(8)}", what)
    ours = _lock_file(folder, holder.token)
    left_behind = _link(ours, holder, folder / f"lock-{before}.json")
    if left_behind is None:
        return ""
    there = _numbers(folder)
    if max(there, default=0) != before + 1 or (before and before not in there):
        ours.unlink(missing_ok=True)  # we were so slow that the old one has had another successor
        return ""
    for number in there - {before + 1}:
        (folder / f"lock-{number}.json").unlink(missing_ok=True)
    if left_behind:
        print(f"{folder}: taken over from {left_behind}", file=sys.stderr, flush=True)
    return holder.token


def _link(ours: Path, holder: Holder, before: Path) -> str | None:
    """Make a lock's file, whole and only if it is not there: None if it is; else whose lock was before it.

    By a hard link, as that is one step on network file systems too. RequestError: the one before is in use.
    """
    offer = ours.with_name(f".{ours.name}.{holder.token}{TEMPORARY}")
    try:
        offer.write_text(json.dumps(asdict(holder), indent=2) + "\n", encoding="utf-8")
        left_behind = _refuse_living(before, now_s=offer.stat().st_mtime)
        os.link(offer, ours)
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise RequestError(
            f"{ours.parent} is on storage without hard links, by which jobs keep apart; give another --out"
        ) from None
    finally:
        offer.unlink(missing_ok=True)
    return left_behind


def _refuse_living(file: Path, now_s: float) -> str:
    """Whose lock a file was and why it is left behind, in words; empty without a file.

    now_s: by the clock of the storage. RequestError: it is in use.
    """
    try:
        with file.open("rb") as opened:  # opened first: that is when a network file system looks again
            silent_s = now_s - os.fstat(opened.fileno()).st_mtime
            holder = _parse(opened.read())
    except FileNotFoundError:
        return ""
    who = "a job" if holder is None else _describe(holder)
    if holder is not None and holder.pid_space == _pid_space():
        if not _is_alive(holder.pid, holder.started):
            return f"{who}: its process is gone"
        mend = f"wait for it, stop it (kill {holder.pid}), or give another --out"
    else:
        if silent_s >= SILENT_S:
            return f"{who}: it has given no sign of life for {silent_s:.0f} s"
        mend = "wait for it, stop it there, or give another --out; should it be dead, try again in "
        mend += f"{SILENT_S - silent_s:.0f} s"
    raise RequestError(f"{file.parent} is in use by {who}; {mend}")


def _parse(content: bytes) -> Holder | None:
    """Who holds a lock; None for a file that a machine's crash has emptied."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _describe(holder: Holder) -> str:
    return f"{holder.what} on {holder.host}, process {holder.pid}, since {holder.since}"


def _describe_ourselves(token: str, what: str) -> Holder:
    return Holder(
        token=token,
        what=what,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_space=_pid_space(),
        started=_read_stat(os.getpid())[1],
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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


def _lock_file(folder: Path, token: str) -> Path:
    return folder / f"lock-{token.partition('-')[0]}.json"


def _next_file(file: Path) -> Path:
    (number,) = _numbers_of([file.name])
    return file.with_name(f"lock-{number + 1}.json")


def _numbers(folder: Path) -> set[int]:
    return _numbers_of([path.name for path in folder.iterdir()])


def _numbers_of(names: list[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
