"""Sequences of an archive, and the windows of frames in which a sequence model sees them."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from seg.data.listing import sequence_of

Item = TypeVar("Item")


def sequence_key(sequence: str) -> str:
    """A name for files about a sequence: 16 hexadecimal digits of its name's sha256."""
    return hashlib.sha256(sequence.encode()).hexdigest()[:16]


class Sequences:
    """An archive's images by sequence, in the archive's order."""

    def __init__(self, images: Iterable[str], pattern: str = "") -> None:
        """`pattern`: a model's regular expression. RequestError: it does not match one of the images."""
        self._frames: dict[str, list[str]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        for image in images:
            sequence = sequence_of(image, pattern)
            frames = self._frames.setdefault(sequence, [])
            self._places[image] = sequence, len(frames)
            frames.append(image)

    def sequence(self, image: str) -> str:
        """The sequence an image belongs to."""
        return self._places[image][0]

    def frames(self, sequence: str) -> list[str]:
        """The images of a sequence."""
        return self._frames[sequence]

    def window(self, image: str, frames: int) -> list[str]:
        """The `frames` images that end with this one; the sequence's first repeats at its start."""
        sequence, place = self._places[image]
        return [self._frames[sequence][k] for k in window_places(place, frames)]


def window_places(place: int, frames: int) -> list[int]:
    """Places i-K+1 .. i of the window of K `frames` that ends at `place`; none is below 0."""
    return [max(0, place - back) for back in range(frames - 1, -1, -1)]


def fill_window(window: Sequence[Item | None]) -> list[Item]:
    """A window in which each missing frame (None) is replaced by the nearest later one; the last is there."""
    filled: list[Item] = []
    later = window[-1]
    for item in reversed(window):
        later = later if item is None else item
        assert later is not None, "a window's last frame is the image itself"
        filled.append(later)
    return filled[::-1]
