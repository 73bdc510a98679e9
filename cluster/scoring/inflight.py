"""Which images a process works on, noted before it touches them, so that its death names them."""

import json
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from platform import node
from typing import Any, NamedTuple

from seg.files import persistently
from seg.storage import Place

READ, DECODE, MODEL, WRITE = "read", "decode", "model", "write"
"""Stages of an image."""

SUSPECTS = "suspects.json"
"""Written by the job's process: images that were in flight when a process died, and their next attempt."""


class Note(NamedTuple):
    """Where a process was with an image when it noted it last."""

    stage: str
    attempt: int
    """1 for the first."""
    seconds: float = 0.0
    """How long it was worked at, without the waiting for others; 0 in files."""


class _Clock(NamedTuple):
    """A note while its image is in work."""

    stage: str
    attempt: int
    before_s: float
    """Worked at before `since_s`."""
    since_s: float | None
    """By time.monotonic(); None: it waits."""

    def seconds(self) -> float:
        """Worked at the image so far, without waiting for the model."""
        return self.before_s + (0.0 if self.since_s is None else time.monotonic() - self.since_s)


class InFlight:
    """The notes of one process; safe to use from several threads.

    A local folder gets a small file that is overwritten in place at every stage: one call to the system,
    which a kill does not cut in two, and no flush, as a process's death is all that it must outlive. An
    object store gets it when an image begins and when it ends.
    """

    def __init__(self, place: Place | None, process: str) -> None:
        """`process`: a name that nobody else has. place: None keeps the notes in memory alone."""
        self.place, self.process = place, process
        self._lock = threading.Lock()
        self._notes: dict[str, _Clock] = {}
        self._file, self._longest = -1, 0
        if place is not None and place.is_local:
            self._file = persistently(partial(_create, place.local(_file(process))), str(place))

    def begin(self, image: str, attempt: int) -> None:
        """An image's file will be read now. OSError: this cannot be noted, so nobody may touch the image."""
        self._change(lambda: self._notes.update({image: _Clock(READ, attempt, 0.0, time.monotonic())}))

    def enter(self, image: str, stage: str) -> None:
        """An image is in another stage; nothing where it has not begun."""
        if image in self._notes:
            clock = self._notes[image]
            changed = _Clock(stage, clock.attempt, clock.seconds(), time.monotonic())
            self._change(lambda: self._notes.update({image: changed}), only_local=True)

    def wait(self, image: str) -> None:
        """An image is through with its stage and waits for the next one's thread."""
        with self._lock:
            if image in self._notes:
                clock = self._notes[image]
                self._notes[image] = clock._replace(before_s=clock.seconds(), since_s=None)

    def go_on(self, image: str, *, afresh: bool = False) -> None:
        """An image is worked at again. afresh: a step is done, and its time counts from now."""
        with self._lock:
            if image in self._notes:
                clock = self._notes[image]
                before_s = 0.0 if afresh else clock.seconds()
                self._notes[image] = clock._replace(before_s=before_s, since_s=time.monotonic())

    def end(self, image: str) -> None:
        """An image is done."""
        self._change(lambda: self._notes.pop(image, None))

    def notes(self) -> dict[str, Note]:
        """Every image that this process works on."""
        with self._lock:
            return {
                image: Note(clock.stage, clock.attempt, clock.seconds())
                for image, clock in self._notes.items()
            }

    def _change(self, change: Callable[[], Any], *, only_local: bool = False) -> None:
        with self._lock:
            change()
            if self._file >= 0:
                persistently(self._overwrite, f"{self.place}/{_file(self.process)}")
            elif self.place is not None and not only_local:
                persistently(partial(self._put, self.place), f"{self.place}/{_file(self.process)}")

    def _overwrite(self) -> None:
        content = self._content()
        self._longest = max(self._longest, len(content))
        os.pwrite(self._file, content.ljust(self._longest), 0)  # blanks are nothing in JSON

    def _put(self, place: Place) -> None:
        if self._notes:
            place.write(_file(self.process), self._content())
        else:
            place.remove(_file(self.process))

    def _content(self) -> bytes:
        images = {image: _to_json(clock.stage, clock.attempt) for image, clock in self._notes.items()}
        return json.dumps({"host": node(), "pid": os.getpid(), "images": images}).encode()


def read_notes(place: Place, process: str) -> dict[str, Note]:
    """What a process noted last; nothing where it had no image in work."""
    return _read(place, _file(process))


def forget_process(place: Place, process: str) -> None:
    """Remove the notes of a process that is gone."""
    place.remove(_file(process))


def take_over(place: Place) -> dict[str, Note]:
    """The images that earlier commands left in flight, each with its next attempt.

    What was in flight when a process died that nobody saw dying has had one attempt more. All stay noted as
    suspects until `write_suspects` says otherwise.
    """
    suspects = _read(place, SUSPECTS)
    processes = [name for name in place.names() if name.endswith(".json") and name != SUSPECTS]
    for name in processes:
        for image, note in _read(place, name).items():
            suspects[image] = note._replace(attempt=note.attempt + 1)
    if processes:
        write_suspects(place, suspects)
        for name in processes:
            place.remove(name)
    return suspects


def write_suspects(place: Place, suspects: dict[str, Note]) -> None:
    """Note the images that are to be tried last and alone, each with its next attempt."""
    if not suspects:
        place.remove(SUSPECTS)
        return
    images = {image: _to_json(note.stage, note.attempt) for image, note in suspects.items()}
    place.write_json(SUSPECTS, {"images": images})


def _read(place: Place, name: str) -> dict[str, Note]:
    content = place.read(name)
    if not content:  # a machine's crash may empty a file that was not flushed
        return {}
    images = json.loads(content)["images"]
    return {image: Note(note["stage"], note["attempt"]) for image, note in images.items()}


def _create(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def _to_json(stage: str, attempt: int) -> dict[str, Any]:
    return {"stage": stage, "attempt": attempt}


def _file(process: str) -> str:
    return f"{process}.json"
