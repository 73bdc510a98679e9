"""How much memory reading an image takes, and whose turn it is to take it: huge images one by one."""

import threading
from collections import deque
from concurrent.futures import CancelledError

from seg.data.formats.header import Header
from seg.data.frames import FrameReader
from seg.data.images import FileBytes, Stack
from seg.data.preprocess import working_size
from seg.errors import ImageError
from seg.recipe import Preprocessing

READING_BYTES = 2**31
"""What the images that a process reads and holds may take together; one image that takes more is alone."""
LARGE_FILE_BYTES = READING_BYTES // 8
"""A larger file is only read when it is its image's turn: smaller ones are read beside each other."""
DECODING = 2.25
"""Bytes that decoding takes at its peak for each byte of pixels, with a copy in RGB order or a strip as large
as the image. Measured at 6144 x 6144: PNG, BMP, TIFF by OpenCV 2.1, by tifffile up to 2.1, JPEG, NPY 1.0."""
MASK_BYTES = 5
"""Of a label for each own pixel: the file's pixels, ids in 16 bits, the mask, and a decoder's copy."""
MEASURING_BYTES = 20
"""Of a background that is not in memory for each sample: integer sum, mean and file, at their peak."""


class ReadingMemory:
    """Bytes that several threads share, taken in the order in which turns were given; none is overtaken.

    So nobody waits for one that comes later, and whoever consumes images in that order gets each.
    """

    def __init__(self, total: int = READING_BYTES) -> None:
        self.total = total
        self._changed = threading.Condition()
        self._line: deque[Turn] = deque()
        self._held: dict[Turn, int] = {}
        self._closed = False

    def queue(self) -> "Turn":
        """A turn behind all that were given before. It must `leave` in the end, also without having taken."""
        turn = Turn(self)
        with self._changed:
            self._line.append(turn)
        return turn

    def close(self) -> None:
        """Nobody gets anything any more, and who waits is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _await(self, turn: "Turn", wanted: int, *, take: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(turn, wanted))
            if self._closed:
                raise CancelledError("closed before an image had its turn")
            if take:
                self._line.popleft()
                self._held[turn] = wanted
                self._changed.notify_all()

    def _has_room(self, turn: "Turn", wanted: int) -> bool:
        held = sum(self._held.values())
        return self._line[0] is turn and (not held or held + wanted <= self.total)

    def _keep(self, turn: "Turn", kept: int) -> None:
        with self._changed:
            if turn in self._line:
                self._line.remove(turn)
            elif turn in self._held:
                self._held[turn] = min(kept, self._held[turn])
                if not kept:
                    del self._held[turn]
            self._changed.notify_all()


class Turn:
    """One image's place in line and, once it has taken them, its bytes; a context that leaves at its end."""

    def __init__(self, memory: ReadingMemory) -> None:
        self._memory = memory

    def await_room(self, wanted: int) -> None:
        """Wait as `take` does, but take nothing yet, and let nobody else: to read a file, and then to `take`.

        CancelledError: as of `take`.
        """
        self._memory._await(self, wanted, take=False)

    def take(self, wanted: int) -> None:
        """Wait until all before us have taken theirs, and so many bytes are free, or nobody holds any; once.

        CancelledError: the memory was closed meanwhile.
        """
        self._memory._await(self, wanted, take=True)

    def keep(self, kept: int) -> None:
        """Give back all but so many of the bytes; of a turn that has not taken, its place in line."""
        self._memory._keep(self, kept)

    def leave(self) -> None:
        """Give back all bytes, or the place in line."""
        self.keep(0)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def announced_bytes(file: FileBytes | Stack, page: int | None, reader: FrameReader, sequence: str) -> int:
    """About what an image takes until its model can see it, at its peak, by its header; its file included.

    Of one whose header is refused, which decoding then refuses too, that is its file alone.
    """
    try:
        header = file.header(page)
    except ImageError:
        return file.held_bytes
    samples = header.height * header.width * header.channels
    stored = samples * header.bit_depth // 8
    measuring = 0
    if not reader.backgrounds.is_at_hand(sequence, header):
        measuring = MEASURING_BYTES * samples + round(DECODING * stored) + file.held_bytes
    preparing = max(MASK_BYTES * header.height * header.width, _preparing_bytes(header, reader.preprocessing))
    return file.held_bytes + max(round(DECODING * stored), stored + max(preparing, measuring))


def _preparing_bytes(header: Header, settings: Preprocessing) -> int:
    """What `preprocess` and an image's statistics take beside its pixels: two steps' results at a time."""
    depth, pixels = header.bit_depth // 8, header.height * header.width
    stored, seen = (pixels * depth * channels for channels in (header.channels, settings.channels))
    rows, columns = working_size(header.height, header.width, settings)
    working = rows * columns * depth * settings.channels
    steps = [0]
    steps += [stored] if settings.background_every else []
    steps += [seen] if header.channels != settings.channels else []
    steps += [seen] if settings.blur_px > 1 else []
    steps += [working] if (rows, columns) != (header.height, header.width) else []
    steps += [2 * working] if settings.clahe_clip else []
    steps += [2 * working] if settings.normalisation == "percentile" else []
    return max(sum(pair) for pair in zip(steps, [*steps[1:], 0], strict=True))
