"""What the kernel says happens in folders, in one order: it counts reads whoever makes them."""

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

OPENED, CLOSED_UNWRITTEN, CREATED, MOVED_HERE = 0x20, 0x10, 0x100, 0x80  # inotify(7)
OF_FOLDER, OVERFLOW = 0x40000000, 0x4000

_LIBC = ctypes.CDLL(None, use_errno=True)
_HEADER = struct.Struct("iIII")


class Event(NamedTuple):
    """Something that happened to a file."""

    path: Path
    kind: int


class FileEvents:
    """The events of all files in some folders since they were last taken.

    Openings are watched together with closings: of two equal events in a row the kernel keeps one.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._folders: dict[int, Path] = {}

    def watch(self, folder: Path, *, below: bool = True) -> None:
        """Watch a folder, and those below it that are there."""
        kinds = OPENED | CLOSED_UNWRITTEN | CREATED | MOVED_HERE
        for path in (folder, *(path for path in folder.rglob("*") if below and path.is_dir())):
            watched = _LIBC.inotify_add_watch(self.descriptor, os.fsencode(path), kinds)
            assert watched >= 0, os.strerror(ctypes.get_errno())
            self._folders[watched] = path

    def take(self, within_s: float = 0.0) -> list[Event]:
        """What has happened; waits for it at most so long."""
        if not select.select([self.descriptor], [], [], within_s)[0]:
            return []
        data, start, events = os.read(self.descriptor, 1 << 16), 0, []
        while start < len(data):
            watched, kind, _, length = _HEADER.unpack_from(data, start)
            assert not kind & OVERFLOW, "events were lost"
            start += _HEADER.size + length
            name = os.fsdecode(data[start - length : start].rstrip(b"\0"))
            if watched in self._folders and name and not kind & OF_FOLDER:
                events.append(Event(self._folders[watched] / name, kind))
        return events

    def take_all(self) -> list[Event]:
        """Everything that has happened."""
        events = []
        while more := self.take():
            events += more
        return events


@contextmanager
def watching(*folders: Path) -> Iterator[FileEvents]:
    """The events of folders for the length of a block."""
    descriptor = _LIBC.inotify_init1(os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    try:
        events = FileEvents(descriptor)
        for folder in folders:
            events.watch(folder)
        yield events
    finally:
        os.close(descriptor)
