"""How many pixels of an image are what; counted in predictor.py, and read by who has no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of an image, or of some of its pieces, as predicted; None: it has no label."""

    class_pixels: tuple[int, ...]
    confusion: tuple[int, ...] | None = None
    """C x C, row by row."""
    ignored: int | None = None

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        """Of both together; they are of one image."""
        pixels = _add(self.class_pixels, other.class_pixels)
        if self.confusion is None or other.confusion is None or self.ignored is None or other.ignored is None:
            return PixelCounts(pixels)
        return PixelCounts(pixels, _add(self.confusion, other.confusion), self.ignored + other.ignored)


def _add(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def mean_confidence(sums: Iterable[float], small: tuple[int, int]) -> float:
    """Mean top probability of an image of [h, w] working pixels from the sums of its pieces, in any order."""
    return fsum(sums) / (small[0] * small[1])
