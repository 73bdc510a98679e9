"""Which images a process works on, noted before it touches them, so that its death names them."""

import json
import os
import threading
import time
import warnings
import zlib
from functools import partial
from platform import node
from typing import Any, NamedTuple

from seg.errors import DataWarning
from seg.files import json_bytes, persistently
from seg.ledger.outcome import STAGES
from seg.storage import Place

READ, DECODE, MODEL, WRITE = STAGES

SUSPECTS = "suspects.json"
"""Written by the job's process: images that were in flight when a process died, and their next attempt."""
CHECKSUM = "crc32"
MOST = 99
"""Attempts that a note may tell of: an image is set aside long before."""


class Note(NamedTuple):
    """Where a process was with an image when it noted it last."""

    stage: str
    attempt: int
    """1 for the first."""
    seconds: float = 0.0
    """How long it was worked at, without the waiting for others; not in files."""
    alone: bool = False
    """Whether nothing else was in work, in any process of its job: then a death is this image's."""


class _Clock(NamedTuple):
    """A note while its image is in work."""

    note: Note
    """As of `since_s`."""
    since_s: float | None
    """By time.monotonic(); None: the image waits."""

    def read(self) -> Note:
        """The note as of now."""
        worked_s = 0.0 if self.since_s is None else time.monotonic() - self.since_s
        return self.note._replace(seconds=self.note.seconds + worked_s)


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
        self._clocks: dict[str, _Clock] = {}
        self._file, self._longest = -1, 0
        if place is not None and place.is_local:
            self._file = persistently(partial(_create, place, _file(process)), str(place))

    def begin(self, image: str, attempt: int, *, alone: bool = False) -> None:
        """An image's file will be read now. OSError: this cannot be noted, so nobody may touch the image.

        alone: whether nothing else is in work meanwhile, in any process of the job.
        """
        with self._lock:
            self._clocks[image] = _Clock(Note(READ, attempt, alone=alone), time.monotonic())
            self._write()

    def enter(self, image: str, stage: str) -> None:
        """An image is in another stage; nothing where it has not begun."""
        with self._lock:
            if image in self._clocks:
                note = self._clocks[image].read()._replace(stage=stage)
                self._clocks[image] = _Clock(note, time.monotonic())
                self._write(only_local=True)

    def wait(self, image: str) -> None:
        """An image is through with its stage and waits for the next one's thread."""
        with self._lock:
            if image in self._clocks:
                self._clocks[image] = _Clock(self._clocks[image].read(), None)

    def go_on(self, image: str, *, afresh: bool = False) -> None:
        """An image is worked at again. afresh: a step is done, and its time counts from now."""
        with self._lock:
            if image in self._clocks:
                note = self._clocks[image].read()
                self._clocks[image] = _Clock(note._replace(seconds=0.0) if afresh else note, time.monotonic())

    def end(self, image: str) -> None:
        """An image is done."""
        with self._lock:
            self._clocks.pop(image, None)
            self._write()

    def notes(self) -> dict[str, Note]:
        """Every image that this process works on."""
        with self._lock:
            return {image: clock.read() for image, clock in self._clocks.items()}

    def _write(self, *, only_local: bool = False) -> None:
        where = f"{self.place}/{_file(self.process)}"
        if self._file >= 0:
            persistently(self._overwrite, where)
        elif self.place is not None and not only_local:
            persistently(partial(self._put, self.place), where)

    def _overwrite(self) -> None:
        content = self._content()
        self._longest = max(self._longest, len(content))
        os.pwrite(self._file, content.ljust(self._longest), 0)  # blanks are nothing in JSON

    def _put(self, place: Place) -> None:
        if self._clocks:
            place.write(_file(self.process), self._content())
        else:
            place.remove(_file(self.process))

    def _content(self) -> bytes:
        notes = {image: clock.note for image, clock in self._clocks.items()}
        return json.dumps({"host": node(), "pid": os.getpid()} | _to_json(notes)).encode()


def read_notes(place: Place, process: str) -> dict[str, Note]:
    """What a process noted last; nothing where it had no image in work. ValueError: its note is damaged."""
    return _parse(place.read(_file(process)))


def forget_process(place: Place, process: str) -> None:
    """Remove the notes of a process that is gone."""
    place.remove(_file(process))


def take_over(place: Place) -> dict[str, Note]:
    """The images that earlier commands left in flight, each with its next attempt.

    Where nobody saw a process die, its whole job died, maybe of nothing to do with its images, as a machine
    that is switched off: that was an attempt of an image only if it was alone in work. All stay noted as
    suspects until `write_suspects` says otherwise. DataWarning: a note is damaged, so it names nobody.
    """
    names = [name for name in place.names() if name.endswith(".json")]
    processes = [name for name in names if name != SUSPECTS]
    suspects = _read_or_warn(place, SUSPECTS)
    for name in processes:
        for image, note in _read_or_warn(place, name).items():
            known = suspects[image].attempt if image in suspects else 1
            suspects[image] = Note(note.stage, max(known, note.attempt + note.alone))
    if processes or (SUSPECTS in names and not suspects):
        write_suspects(place, suspects)
        for name in processes:
            place.remove(name)
    return suspects


def write_suspects(place: Place, suspects: dict[str, Note]) -> None:
    """Note the images that are to be tried last and alone, each with its next attempt."""
    if suspects:
        place.write(SUSPECTS, json_bytes(_to_json(suspects)))
    else:
        place.remove(SUSPECTS)


def _read_or_warn(place: Place, name: str) -> dict[str, Note]:
    try:
        return _parse(place.read(name))
    except ValueError as error:
        text = f"{place}/{name} is damaged ({error}) and left out: what it named is tried like other images"
        warnings.warn(DataWarning(text), stacklevel=3)
        return {}


def _parse(content: bytes | None) -> dict[str, Note]:
    """The images of a note; none where there is no file, or a machine's crash has emptied it.

    ValueError: it is not what was written. Its checksum notices a note of which a crash kept one half of the
    old content and one of the new; notes from before there was one are told by their shape alone.
    """
    if not content:
        return {}
    try:
        found = json.loads(content)
        notes = {image: _to_note(values) for image, values in found["images"].items()}
        checksum = found.get(CHECKSUM)
        "".join(notes).encode()  # half a surrogate pair is no name, and cannot be written
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a note: {type(error).__name__}") from None
    if checksum is not None and checksum != _to_json(notes)[CHECKSUM]:
        raise ValueError("its content does not fit its checksum")
    return notes


def _to_note(values: Any) -> Note:
    stage, attempt, alone = values["stage"], values["attempt"], values.get("alone", False)
    if not (type(stage) is str and type(attempt) is int and 0 < attempt <= MOST and type(alone) is bool):
        raise ValueError(f"stage {stage!r:.40}, attempt {attempt!r:.40}, alone {alone!r:.40}")
    return Note(stage, attempt, alone=alone)


def _to_json(notes: dict[str, Note]) -> dict[str, Any]:
    """What a file says of images, with a checksum of that."""
    told = ("stage", "attempt", "alone")
    images = {image: {name: getattr(note, name) for name in told} for image, note in notes.items()}
    return {"images": images, CHECKSUM: zlib.crc32(json.dumps(images).encode())}


def _create(place: Place, name: str) -> int:
    path = place.local(name)
    if place.makes_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def _file(process: str) -> str:
    return f"{process}.json"
