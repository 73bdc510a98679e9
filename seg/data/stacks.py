"""Files of several images, held open: a page costs that page, and the file is hashed once."""

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO
from weakref import finalize

from seg.data.formats.header import Header, Pixels
from seg.data.formats.tiff import Tiff
from seg.data.images import FileBytes, open_buffered, open_file, read_file, read_from, read_header
from seg.data.orientation import read_orientation
from seg.storage import FileStat, Place

HASH_BYTES = 1 << 20
KEPT = 4
"""Stacks that stay open, those used last: readers are at two or three at a time."""


class Stack:
    """A TIFF of several pages, open; any thread may use it."""

    held_bytes = 0
    """What of the file is in memory."""

    def __init__(self, file: BinaryIO, found: FileStat, reopen: Callable[[], BinaryIO]) -> None:
        """found: size and time of the file. reopen: opens it once more, to be hashed beside its pages.

        ImageError: it has no directory that can be read.
        """
        self.num_bytes, self.mtime_ns = found
        self._reopen = reopen
        finalize(self, file.close)  # with the last thread that reads it
        self._hashing, self._sha256 = threading.Lock(), ""
        self.orientation = read_orientation(file)
        self._tiff = Tiff(file)

    @property
    def sha256(self) -> str:
        """Hash of the whole file, in hexadecimal; computed once, while other threads that ask wait."""
        with self._hashing:
            if not self._sha256:
                total = hashlib.sha256()
                with self._reopen() as file:
                    while content := file.read(HASH_BYTES):
                        total.update(content)
                self._sha256 = total.hexdigest()
            return self._sha256

    def header(self, page: int | None) -> Header:
        """What a page holds. ImageError: there is none, or it is no image of ours."""
        return self._tiff.header(page)

    def decode(self, page: int | None) -> Pixels:
        """A page's pixels, as of `decode_image`."""
        return self._tiff.decode(page)


class ImageFiles:
    """Opens the files of images: whole, once, or, of a page of a TIFF, as a stack that stays open."""

    def __init__(self, place: Place | None = None) -> None:
        """place: what names are relative to; None: they are paths of this machine."""
        self.place = place
        self._lock = threading.Lock()
        self._stacks: OrderedDict[str, Stack] = OrderedDict()

    def open(self, file: str | Path, page: int | None = None) -> FileBytes | Stack:
        """A file whose `num_bytes`, `mtime_ns`, `sha256` and pixels are asked for next.

        OSError: it is not there, or cannot be read. ImageError: it is over the limit, or no TIFF at all.
        """
        if page is not None:
            return self._stack(str(file))
        return read_file(Path(file)) if self.place is None else read_from(self.place, str(file))

    def decode(self, file: str | Path, page: int | None = None) -> Pixels:
        """An image's pixels. OSError, ImageError: as of `open` and `decode_image`."""
        return self.open(file, page).decode(page)

    def look(self, file: str | Path, page: int | None = None) -> tuple[Header, int]:
        """What decoding will give, and the orientation that it will not apply, by little of the file.

        OSError, ImageError: as of `open` and `read_header`.
        """
        if page is not None:
            stack = self._stack(str(file))
            return stack.header(page), stack.orientation
        with _open(self.place, str(file)) as opened:
            return read_header(opened), read_orientation(opened)

    def forget(self, file: str | Path) -> None:
        """Open a stack anew when it is asked for next: its storage failed."""
        with self._lock:
            self._stacks.pop(str(file), None)

    def _stack(self, name: str) -> Stack:
        with self._lock:  # one thread opens a file, the others wait for it
            if name not in self._stacks:
                self._stacks[name] = self._open_stack(name)
            self._stacks.move_to_end(name)
            while len(self._stacks) > KEPT:
                self._stacks.popitem(last=False)
            return self._stacks[name]

    def _open_stack(self, name: str) -> Stack:
        reopen = partial(_open, self.place, name)
        if self.place is None or self.place.is_local:
            file = reopen()
            state = os.fstat(file.fileno())
            return Stack(file, FileStat(state.st_size, state.st_mtime_ns), reopen)
        found = self.place.stat(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.place}/{name}")
        return Stack(reopen(), found, reopen)


def _open(place: Place | None, name: str) -> BinaryIO:
    if place is None or place.is_local:
        return open_file(Path(name) if place is None else place.local(name))
    return open_buffered(place, name)
