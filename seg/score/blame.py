"""Which images a process works on, noted before it touches them, so that its death names them."""

import json
import os
import threading
import time
import warnings
import zlib
from collections.abc import Collection, Iterable
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
    """How long it was worked at, without the waiting for others."""
    alone: bool = False
    """Whether nothing else was in work, in any process of its job: then a death is this image's."""
    cause: str = ""
    """Why the process ended itself with it; empty: it did not, or had not the time to say so."""
    timed_out: bool = False
    """Whether that was since it took too long."""
    waits: bool = False
    """Whether it waits for others, so that its seconds stand still."""


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
    """The notes of one process, or of one parcel in one of its stages; safe to use from several threads.

    A local folder gets a small file that is overwritten in place at every stage: one call to the system,
    which a kill does not cut in two, and no flush, as a process's death is all that it must outlive. An
    object store gets it when an image begins and when it ends.

    A parcel's notes have the same name in whatever process gets it. So who finds some there knows that a
    process died of it, and with which images: `dead`, which stay in the notes until these are closed.
    """

    def __init__(self, place: Place | None, name: str) -> None:
        """`name`: one that no other process uses meanwhile. place: None keeps the notes in memory alone."""
        self.place, self.name = place, name
        self._lock = threading.Lock()
        self._clocks: dict[str, _Clock] = {}
        self._file, self._longest = -1, 0
        content = None if place is None else place.read(_file(name))
        self.dead = _parse(content) if content else {}
        """What a process that died has left under this name. ValueError: it is damaged."""
        if place is not None and place.is_local:
            self._file = persistently(partial(_create, place, _file(name)), str(place))
            self._longest = len(content or b"")

    def begin(self, image: str, attempt: int, *, alone: bool = False, stage: str = READ) -> None:
        """An image's file will be read now. OSError: this cannot be noted, so nobody may touch the image.

        alone: whether nothing else is in work meanwhile, in any process of the job.
        """
        with self._lock:
            self._clocks[image] = _Clock(Note(stage, attempt, alone=alone), time.monotonic())
            self._write()

    def enter(self, image: str, stage: str) -> None:
        """An image is in another stage; nothing where it has not begun."""
        with self._lock:
            if image in self._clocks:
                note = self._clocks[image].read()._replace(stage=stage, waits=False)
                self._clocks[image] = _Clock(note, time.monotonic())
                self._write(only_local=True)

    def wait(self, image: str) -> None:
        """An image is through with its stage and waits for the next one's thread."""
        with self._lock:
            if image in self._clocks:
                self._clocks[image] = _Clock(self._clocks[image].read()._replace(waits=True), None)
                self._write(only_local=True)

    def go_on(self, image: str, *, afresh: bool = False) -> None:
        """An image is worked at again. afresh: a step is done, and its time counts from now."""
        with self._lock:
            if image in self._clocks:
                note = self._clocks[image].read()._replace(waits=False)
                self._clocks[image] = _Clock(note._replace(seconds=0.0) if afresh else note, time.monotonic())
                self._write(only_local=True)

    def end(self, image: str) -> None:
        """An image is done."""
        with self._lock:
            self._clocks.pop(image, None)
            self._write()

    def give_up(self, images: Collection[str], cause: str, *, timed_out: bool = False) -> None:
        """Note that this process ends itself now, with these of its images to blame and no other."""
        with self._lock:
            for image in list(self._clocks):
                if image in images:
                    note = self._clocks[image].read()._replace(cause=cause, timed_out=timed_out)
                    self._clocks[image] = _Clock(note, None)
                else:
                    del self._clocks[image]
            self._write()

    def close(self) -> None:
        """Whoever needed the notes has what they say: they go."""
        with self._lock:
            self._clocks.clear()
            self.dead = {}
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            if self.place is not None:
                persistently(partial(self.place.remove, _file(self.name)), f"{self.place}/{_file(self.name)}")
            self.place = None

    def notes(self) -> dict[str, Note]:
        """Every image that this process works on."""
        with self._lock:
            return {image: clock.read() for image, clock in self._clocks.items()}

    def _write(self, *, only_local: bool = False) -> None:
        where = f"{self.place}/{_file(self.name)}"
        if self._file >= 0:
            persistently(self._overwrite, where)
        elif self.place is not None and not only_local:
            persistently(partial(self._put, self.place), where)

    def _overwrite(self) -> None:
        content = self._content()
        self._longest = max(self._longest, len(content))
        os.pwrite(self._file, content.ljust(self._longest), 0)  # blanks are nothing in JSON

    def _put(self, place: Place) -> None:
        if self._clocks or self.dead:
            place.write(_file(self.name), self._content())
        else:
            place.remove(_file(self.name))

    def _content(self) -> bytes:
        dead = {image: note._replace(waits=True) for image, note in self.dead.items()}
        notes = dead | {image: clock.read() for image, clock in self._clocks.items()}
        return json.dumps({"host": node(), "pid": os.getpid()} | _to_json(notes)).encode()


def read_notes(place: Place, name: str) -> dict[str, Note]:
    """What was noted last under a name; nothing where no image was in work. ValueError: it is damaged."""
    return _parse(place.read(_file(name)))


def read_sight(place: Place, name: str) -> tuple[int, dict[str, Note]]:
    """The same, and the process that noted it; 0 and nothing where it is being written just now."""
    content = place.read(_file(name)) or b""
    try:
        notes = _parse(content)
        return (int(json.loads(content)["pid"]), notes) if notes else (0, {})
    except (ValueError, KeyError):
        return 0, {}


def find_notes(names: Iterable[str], round_name: str) -> list[str]:
    """The notes of a round among the names of files: of each parcel that is in work, in each stage."""
    ending = _file("")
    notes = (name for name in names if name.startswith(f"{round_name}-") and name.endswith(ending))
    return [name.removesuffix(ending) for name in notes]


def forget_process(place: Place, process: str) -> None:
    """Remove the notes of a process that is gone."""
    place.remove(_file(process))


def take_over(place: Place) -> dict[str, Note]:
    """The images that earlier commands left in flight, each with its next attempt; what else is there goes.

    Where nobody saw a process die, its whole job died, maybe of nothing to do with its images, as a machine
    that is switched off: that was an attempt of an image only if it was alone in work. All stay noted as
    suspects until `write_suspects` says otherwise. DataWarning: a note is damaged, so it names nobody.
    """
    found = place.names()
    names = [name for name in found if name.endswith(".json")]
    for name in found:
        if name not in names:  # marks of processes that are gone
            place.remove(name)
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
    if checksum is not None and checksum != _checksum(found["images"]):
        raise ValueError("its content does not fit its checksum")
    return notes


def _to_note(values: Any) -> Note:
    note = Note(**{name: values.get(name, default) for name, default in _DEFAULTS.items()})
    if any(type(value) is not type(_DEFAULTS[name]) for name, value in note._asdict().items()):
        raise ValueError(f"{json.dumps(values):.80} is none of an image")
    if not (0 < note.attempt <= MOST and note.stage and note.seconds >= 0):
        raise ValueError(f"stage {note.stage!r:.40}, attempt {note.attempt}, {note.seconds} s")
    return note


_DEFAULTS = Note("", 0)._asdict()
"""Fields of a note in a file: older ones have but the first few."""


def _to_json(notes: dict[str, Note]) -> dict[str, Any]:
    """What a file says of images, with a checksum of that; fields that say nothing are left out."""
    images = {
        image: {
            name: value
            for name, value in note._replace(seconds=round(note.seconds, 3))._asdict().items()
            if name in ("stage", "attempt", "alone") or value != _DEFAULTS[name]
        }
        for image, note in notes.items()
    }
    return {"images": images, CHECKSUM: _checksum(images)}


def _checksum(images: object) -> int:
    return zlib.crc32(json.dumps(images).encode())


def _create(place: Place, name: str) -> int:
    path = place.local(name)
    if place.makes_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _file(process: str) -> str:
    return f"{process}.json"
