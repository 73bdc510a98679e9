"""A TIFF's pages: its chain of directories is walked and checked here, each one is read by tifffile.

TIFF 6.0 (Adobe, 1992), section 2, and BigTIFF; stacks of one directory as ImageJ and tifffile write them.
"""

import io
import json
import logging
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import BinaryIO

import tifffile

from seg.data.formats.header import FORMS, Header, Pixels
from seg.data.formats.tiff_pixels import NONE, Layout, read_layout, read_samples
from seg.errors import (
    EmptyImage,
    ImageError,
    TooLargeImage,
    TruncatedImage,
    UnreadableImage,
    UnsupportedImage,
)

MAX_PAGES = 100_000
"""Pages behind these are one image that is too large."""
MAX_ENTRIES = 4096
"""Of a directory: one that announces more is damaged."""
REQUIRED = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279),
    *(284, 317, 320, 322, 323, 324, 325, 338, 339, 347),
}
"""Tags that decide what the pixels are: a page with one that cannot be read is unreadable."""
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
VALUE_BYTES |= {16: 8, 17: 8, 18: 8}
"""By the type of a field (TIFF 6.0, section 2; BigTIFF)."""
STK_PLANES = 33629
"""Tag of MetaMorph, with a value for each plane of its stack."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # we report damage ourselves, with the file


class Tiff:
    """An open TIFF, whose pages any thread may read, each by itself. No file that it names is ever opened."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` is to stay open as long as pages are read. ImageError: no directory of it can be read."""
        self._file, self._lock = file, threading.Lock()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        form = FORMS.get(file.read(4))
        if form is None:
            raise UnreadableImage("the content is no TIFF")
        self._form = form
        self._directories, self._end = self._walk()
        if not self._directories:
            raise self._end or EmptyImage("the file has no pages")
        with _naming_damage("the first directory"):  # without what it guesses about pages by itself
            file.seek(0)  # what tifffile takes for the start of the file
            self._tiff = tifffile.TiffFile(file, name="TIFF", is_lsm=False, is_ndpi=False, is_scanimage=False)

    @cached_property
    def num_pages(self) -> int:
        """Images in the file.

        Where its directories, or the planes of its one directory, break off, there is one more, which says so
        when it is read: nothing is missing in silence.
        """
        announced, there = self._planes
        return there + (announced > there or self._end is not None)

    def header(self, page: int | None = None) -> Header:
        """What a page holds; None is the first. ImageError: there is none, or it is no image of ours."""
        return self._layout(page or 0).header

    def decode(self, page: int | None = None) -> Pixels:
        """A page's pixels, uint8 or uint16, [H, W] or RGB [H, W, 3]: its samples, or its palette's colours.

        ImageError: as of `header`; damage.
        """
        layout = self._layout(page or 0)
        samples = read_samples(layout, self._read)
        return samples if layout.colours is None else layout.colours[samples]

    def samples(self, page: int | None = None) -> Pixels:
        """The same as stored, as of `read_samples`: of a palette its indices."""
        return read_samples(self._layout(page or 0), self._read)

    def _walk(self) -> tuple[list[int], ImageError | None]:
        """Where each directory begins, and why the chain ends there, if not by its own end."""
        form, found = self._form, dict[int, None]()
        self._file.seek(struct.calcsize(form.offset))  # 4, and of a BigTIFF 8
        at = self._next(form.offset)
        while at:
            if at >= self._size:
                return list(found), self._cut(f"its directory {len(found)} does")
            if len(found) == MAX_PAGES:
                return list(found), TooLargeImage(f"the file has more than {MAX_PAGES} pages")
            self._file.seek(at)
            fields = self._next(form.number)
            if fields is not None and (at in found or not 0 < fields <= MAX_ENTRIES):
                return list(found), UnreadableImage(f"directory {len(found)} of the file is damaged")
            self._file.seek((fields or 0) * self._field_bytes, io.SEEK_CUR)
            behind = self._next(form.offset)
            if fields is None or behind is None:
                return list(found), self._cut(f"its directory {len(found)} does")
            found[at], at = None, behind
        return list(found), self._cut("its first directory does") if at is None else None

    def _cut(self, what: str) -> TruncatedImage:
        return TruncatedImage(f"the file ends after {self._size} bytes, before {what}")

    @property
    def _field_bytes(self) -> int:
        return struct.calcsize(self._form.field) + struct.calcsize(self._form.offset)

    def _next(self, kind: str) -> int | None:
        """The next number of the file; None where it has ended."""
        data = self._file.read(struct.calcsize(kind))
        return struct.unpack(kind, data)[0] if len(data) == struct.calcsize(kind) else None

    @cached_property
    def _planes(self) -> tuple[int, int]:
        """Images that the file announces, and for how many of them it has directories, or bytes."""
        num = len(self._directories)
        if num > 1:
            return num, num
        try:
            page = self._page(0)
            with self._lock, _naming_damage("the first directory"):
                announced = _announced_planes(page)
                layout = read_layout(page, self._size) if announced > 1 else None
        except ImageError:
            return 1, 1  # reading the page says why
        if layout is None or layout.compression != NONE or not layout.is_contiguous:
            return 1, 1
        return announced, max(
            1, min(announced, MAX_PAGES, (self._size - layout.offsets[0]) // layout.num_bytes)
        )

    def _layout(self, place: int) -> Layout:
        announced, there = self._planes
        if place >= there and announced > there:
            if there == MAX_PAGES:
                raise TooLargeImage(f"the file announces {announced} planes, over the limit of {MAX_PAGES}")
            raise TruncatedImage(f"the file announces {announced} planes and has bytes for {there}")
        if place >= there and self._end is not None:
            raise self._end
        if place >= there:
            raise UnreadableImage(f"the file has no page {place}")
        directory = place if len(self._directories) > 1 else 0
        page = self._page(directory)
        # tifffile reads some fields, and finds fault with some, only when they are asked for
        with self._lock, _naming_damage(f"directory {directory}"):
            planes = _announced_planes(page) if there == 1 else 1
            if planes > 1:
                raise UnsupportedImage(f"the file has {planes} planes in one page; save them as a page each")
            return read_layout(page, self._size, plane=place - directory)

    def _page(self, place: int) -> tifffile.TiffPage:
        """A directory as tifffile reads it. ImageError: a field that decides about pixels is not sound."""
        with self._lock, _naming_damage(f"directory {place}"):
            codes = self._read_codes(self._directories[place])
            if place:
                self._file.seek(self._directories[place])
                page = tifffile.TiffPage(self._tiff, index=place)
            else:
                page = self._tiff.pages.first
        lost = [code for code in codes if codes.count(code) > 1 or code not in page.tags]
        if lost:
            raise UnreadableImage(f"directory {place} is damaged: tag {lost[0]} is there twice or senseless")
        return page

    def _read_codes(self, at: int) -> list[int]:
        """A directory's REQUIRED tags. TruncatedImage: the values of one lie behind the end of the file."""
        form, room = self._form, struct.calcsize(self._form.offset)
        self._file.seek(at)
        data = self._file.read((self._next(form.number) or 0) * self._field_bytes)
        codes = []
        for start in range(0, len(data) - self._field_bytes + 1, self._field_bytes):
            code, kind, values = struct.unpack_from(form.field, data, start)
            (offset,) = struct.unpack_from(form.offset, data, start + self._field_bytes - room)
            size = values * VALUE_BYTES.get(kind, 0)
            if size > room and offset + size > self._size:
                raise TruncatedImage(f"the file has {self._size} bytes, its tag {code} ends behind them")
            if code in REQUIRED:
                codes.append(code)
        return codes

    def _read(self, offset: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)


def _announced_planes(page: tifffile.TiffPage) -> int:
    """Images that one directory stands for, as ImageJ, tifffile or MetaMorph note it; 1 without a note."""
    text = page.description
    if text.startswith("ImageJ="):
        counted = re.search(r"^images=(\d{1,9})$", text, re.MULTILINE | re.ASCII)
        return int(counted[1]) if counted else 1
    if text.startswith('{"shape":') and '"truncated": true' in text:
        shape = json.loads(text)["shape"]
        page_axes = 3 if page.samplesperpixel > 1 else 2
        return max(1, int(tifffile.product(shape[:-page_axes])))
    planes = page.tags.get(STK_PLANES)
    return max(1, int(planes.count)) if planes is not None else max(1, int(page.imagedepth))


@contextmanager
def _naming_damage(what: str) -> Iterator[None]:
    """UnreadableImage for all that tifffile raises in the block: any, as it takes fields at their word."""
    try:
        yield
    except (ImageError, OSError):  # of a file in memory there is none of the second kind
        raise
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0]
        raise UnreadableImage(f"{what} is damaged: {type(error).__name__}, {cause[:200]}") from None
