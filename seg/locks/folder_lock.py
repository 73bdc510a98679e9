"""One job at a time for a folder: a lock that outlives neither a clean end nor, for long, a kill."""

import errno
import logging
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from seg.errors import RequestError
from seg.files import TEMPORARY, read_json
from seg.locks.holder import Holder, LostLock, describe_ourselves, refuse_living
from seg.storage import SECOND_NS, Place, as_place, refusing

log = logging.getLogger(__name__)

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
SETTLE_S = 3.0
"""In this time a request that another job has sent to an object store is through."""
LOCAL_NAME = re.compile(r"lock-(\d+)\.json")
STORE_NAME = re.compile(r"(?:ask|lock)-(\d+)-[0-9a-f]+\.json")


def is_lock(name: str) -> bool:
    """Whether a file is one by which jobs keep apart."""
    return (LOCAL_NAME.fullmatch(name) or STORE_NAME.fullmatch(name)) is not None


class FolderLock:
    """Holds a folder for this process, as a context; a missing folder is made.

    RequestError, on entering: another job holds it. A lock is taken over at once where its process is gone;
    where we cannot look for that, on another machine or in another container, after SILENT_S without a sign
    of life. A job that so loses its folder finds out by `check`.
    """

    def __init__(self, folder: Place | Path, *, what: str) -> None:
        """what: the kind of job, for people."""
        self.what, self._lock = what, _lock_of(folder)
        self.token = ""
        """For `check_owner`, in other processes; empty until the lock is held."""
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="folder lock", daemon=True)

    def __enter__(self) -> "FolderLock":
        while not self.token:
            self.token = self._lock.try_to_take(self.what)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        with suppress(OSError):  # storage that is away: our process's end frees the lock too
            self._lock.release(self.token)

    def check(self) -> None:
        """Make sure that we still hold the folder; errors as of `check_owner`."""
        self._lock.check(self.token)

    def _beat(self) -> None:
        while not self._ended.wait(self._lock.BEAT_S):
            with suppress(OSError):  # the same: what has to be written waits by itself, we beat again later
                self._lock.beat(self.token)


def check_owner(folder: Place | Path, token: str) -> None:
    """Make sure that the lock with this token still holds a folder: one small read.

    LostLock: it does not. FileNotFoundError: nothing does, as when the folder's storage is not there.
    """
    _lock_of(folder).check(token)


def _lock_of(folder: Place | Path) -> "LocalLock | StoreLock":
    place = as_place(folder)
    return LocalLock(place) if place.is_local else StoreLock(place)


class LocalLock:
    """On this machine or a mounted disk: a numbered file, which one job alone can make."""

    BEAT_S = 2.0
    """Seconds between two signs of life."""

    def __init__(self, place: Place) -> None:
        self.place, self.folder = place, place.local()

    def try_to_take(self, what: str) -> str:
        """Put a lock of ours after the newest and return its token; empty: others came between.

        Locks are numbered: who takes one over makes the next number, in which one alone succeeds, and only
        then removes the old one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = max(self._numbers(), default=0)
        holder = describe_ourselves(before + 1, what)
        left_behind = self._link(holder, before)
        if left_behind is None:
            return ""
        there = self._numbers()
        if max(there, default=0) != before + 1 or (before and before not in there):
            self._file(before + 1).unlink(missing_ok=True)  # we were so slow that the old one has had another
            return ""
        for number in there - {before + 1}:
            self._file(number).unlink(missing_ok=True)
        if left_behind:
            log.info(f"{self.folder}: taken over from {left_behind}")
        return holder.token

    def beat(self, token: str) -> None:
        """Give a sign of life."""
        os.utime(self._file(_number(token)))

    def check(self, token: str) -> None:
        """Make sure that the lock with this token holds the folder; errors as of `check_owner`."""
        file, later = self._file(_number(token)), self._file(_number(token) + 1)
        try:
            held = read_json(file)["token"] == token and not later.exists()
        except FileNotFoundError:
            if not later.exists():
                raise
            held = False
        if not held:
            raise LostLock.of(self.place)

    def release(self, token: str) -> None:
        """Remove the lock with this token, if it still holds the folder."""
        with suppress(LostLock):
            self.check(token)
            self._file(_number(token)).unlink()

    def _link(self, holder: Holder, before: int) -> str | None:
        """Make a lock's file, whole and only if it is not there. None: it is; else whose lock was before it.

        By a hard link, as that is one step on network file systems too. RequestError: the one before is in
        use.
        """
        ours = self._file(before + 1)
        offer = ours.with_name(f".{ours.name}.{holder.token}{TEMPORARY}")
        try:
            offer.write_bytes(holder.to_json())
            left_behind = self._refuse_living(self._file(before), now_s=offer.stat().st_mtime)
            os.link(offer, ours)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            raise RequestError(
                f"{self.folder} is on storage without hard links, by which jobs keep apart; "
                "give another `out`"
            ) from None
        finally:
            offer.unlink(missing_ok=True)
        return left_behind

    def _refuse_living(self, file: Path, now_s: float) -> str:
        """Whose lock a file was and why it is left behind, in words; empty without a file.

        now_s: by the clock of the storage. RequestError: it is in use.
        """
        try:
            with file.open("rb") as opened:  # opened first: that is when a network file system looks again
                silent_s = now_s - os.fstat(opened.fileno()).st_mtime
                content = opened.read()
        except FileNotFoundError:
            return ""
        return refuse_living(self.folder, content, silent_s)

    def _file(self, number: int) -> Path:
        return self.folder / f"lock-{number}.json"

    def _numbers(self) -> set[int]:
        names = (path.name for path in self.folder.iterdir())
        return {int(match[1]) for name in names if (match := LOCAL_NAME.fullmatch(name))}


class StoreLock:
    """On an object store, where nothing can be made only if it is not there: best effort.

    Who wants the folder puts `ask-NUMBER-RANDOM.json`, waits for SETTLE_S, and gives way to everybody who
    asked with a lower name or holds it; else puts `lock-NUMBER-RANDOM.json`. Two jobs may both hold a folder
    where a request of one takes longer than SETTLE_S: pyarrow has no way to make an object only where there
    is none. Numbers grow: who takes a lock over has the next.
    """

    BEAT_S = 10.0
    """Seconds between two signs of life; each is a request."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def try_to_take(self, what: str) -> str:
        """Take the folder, and return the token.

        RequestError: another job holds it, or asked for it just now; the store refuses.
        """
        with refusing(self.place.uri):
            return self._take(what)

    def beat(self, token: str) -> None:
        """Give a sign of life, unless the lock is gone."""
        name = f"lock-{token}.json"
        content = self.place.read(name)
        if content is not None:
            self.place.write(name, content)

    def check(self, token: str) -> None:
        """Make sure that the lock with this token holds the folder; errors as of `check_owner`."""
        held = [name for name in self._names() if name.startswith("lock-")]
        if not held:
            raise FileNotFoundError(f"{self.place} holds no lock any more")
        if f"lock-{token}.json" not in held or max(map(_number, held)) > _number(token):
            raise LostLock.of(self.place)

    def release(self, token: str) -> None:
        """Remove the lock with this token."""
        self.place.remove(f"lock-{token}.json")

    def _take(self, what: str) -> str:
        holder = describe_ourselves(max(map(_number, self._names()), default=0) + 1, what)
        ask, lock = f"ask-{holder.token}.json", f"lock-{holder.token}.json"
        self.place.write(ask, holder.to_json())
        try:
            self._refuse_others(ask, "lock-")
            time.sleep(SETTLE_S)
            left_behind = self._refuse_others(ask)
            self.place.write(lock, holder.to_json())
        finally:
            self.place.remove(ask)
        for name, whose in left_behind.items():
            self.place.remove(name)
            log.info(f"{self.place}: taken over from {whose}")
        return holder.token

    def _refuse_others(self, ask: str, kind: str = "") -> dict[str, str]:
        """What others left behind, by the name of its object, in words. RequestError: they live."""
        left_behind: dict[str, str] = {}
        for name in self._names():
            if name == ask or not name.startswith(kind) or _asks_after(name, ask):
                continue
            found, ours, content = self.place.stat(name), self.place.stat(ask), self.place.read(name)
            if ours is None:
                raise FileNotFoundError(f"somebody removed {ask}")
            if found is None or content is None:
                return self._refuse_others(ask, kind)  # it went meanwhile; it may have become a lock before
            silent_s = (ours.mtime_ns - found.mtime_ns) / SECOND_NS
            left_behind[name] = refuse_living(self.place, content, silent_s)
        return left_behind

    def _names(self) -> list[str]:
        return [name for name in self.place.names() if STORE_NAME.fullmatch(name)]


def _asks_after(name: str, ask: str) -> bool:
    return name.startswith("ask-") and (_number(name), name) > (_number(ask), ask)


def _number(name: str) -> int:
    """Of a token, NUMBER-RANDOM, or of a file that has it in its name."""
    return int(name.removeprefix("ask-").removeprefix("lock-").partition("-")[0])
