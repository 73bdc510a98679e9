"""One job at a time for a folder: a lock that outlives neither a clean end nor, for long, a kill."""

import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType

from seg.locks import local_lock, store_lock
from seg.locks.holder import LostLock
from seg.storage import Place, as_place

__all__ = ["FolderLock", "LostLock", "check_owner"]


class FolderLock:
    """Holds a folder for this process, as a context; a missing folder is made.

    RequestError, on entering: another job holds it. A lock is taken over at once where its process is gone;
    where we cannot look for that, on another machine or in another container, after SILENT_S without a sign
    of life. A job that so loses its folder finds out by `check`.
    """

    def __init__(self, folder: Place | Path, *, what: str) -> None:
        """what: the kind of job, for people."""
        self.place, self.what = as_place(folder), what
        self._lock = _lock_of(self.place)
        self.token = ""
        """For `check_owner`, in other processes; empty until the lock is held."""
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="folder lock", daemon=True)

    def __enter__(self) -> "FolderLock":
        while not self.token:
            self.token = self._lock.try_to_take(self.place, self.what)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        with suppress(OSError):  # storage that is away: our process's end frees the lock too
            self._lock.release(self.place, self.token)

    def check(self) -> None:
        """Make sure that we still hold the folder; errors as of `check_owner`."""
        self._lock.check(self.place, self.token)

    def _beat(self) -> None:
        while not self._ended.wait(self._lock.BEAT_S):
            with suppress(OSError):  # the same: what has to be written waits by itself, we beat again later
                self._lock.beat(self.place, self.token)


def check_owner(folder: Place | Path, token: str) -> None:
    """Make sure that the lock with this token still holds a folder: one small read.

    LostLock: it does not. FileNotFoundError: nothing does, as when the folder's storage is not there.
    """
    place = as_place(folder)
    _lock_of(place).check(place, token)


def _lock_of(place: Place) -> ModuleType:
    return local_lock if place.is_local else store_lock
