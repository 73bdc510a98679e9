"""How long an image may be worked at, and how long nothing may move; who is ended when it is too long."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seg.score.blame import InFlight

LOOK_EVERY_S = 0.5
"""How often a process looks at its own images."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a process is ended, or, where it cannot be, an image named; None: never."""

    image_s: float | None = None
    stall_s: float | None = None


class Sentinel:
    """Ends its own process when an image is worked at for too long, having noted which.

    A thread: it does not run while C code holds Python's lock, or the whole process is stopped. Then the job
    sees that nothing moves (Watchdog), or that the notes of an image stand still, and ends the process.
    """

    def __init__(self, limit_s: float | None, end: Callable[[], None] = lambda: os._exit(1)) -> None:
        self.limit_s, self._end = limit_s, end
        self._lock = threading.Lock()
        self._watched: set[InFlight] = set()
        if limit_s is not None:
            threading.Thread(target=self._watch, daemon=True, name="sentinel").start()

    def watch(self, notes: InFlight) -> None:
        """Look at these notes until they are left."""
        with self._lock:
            self._watched.add(notes)

    def leave(self, notes: InFlight) -> None:
        """Look at them no more."""
        with self._lock:
            self._watched.discard(notes)

    def look(self) -> None:
        """End the process if an image is overdue."""
        assert self.limit_s is not None, "else nobody looks"
        with self._lock:
            watched = list(self._watched)
        for notes in watched:
            overdue = [image for image, note in notes.notes().items() if note.seconds > self.limit_s]
            if overdue:
                for others in watched:
                    cause = f"{', '.join(overdue)} took longer than {self.limit_s:g} s"
                    others.give_up(overdue, cause, timed_out=True)
                self._end()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_EVERY_S):
            self.look()


class Watchdog:
    """Notices that nothing moves: no image was finished, and no stage has changed, for so long."""

    def __init__(self, limit_s: float, now_s: float) -> None:
        self.limit_s = limit_s
        self._seen: Any = None
        self._since_s = now_s

    def look(self, sight: Any, now_s: float) -> bool:
        """Whether what there is to see has been the same for too long; then the clock starts again."""
        if sight != self._seen:
            self._seen, self._since_s = sight, now_s
        if now_s - self._since_s < self.limit_s:
            return False
        self._since_s = now_s
        return True
