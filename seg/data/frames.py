"""An image as its model sees it: without its background, preprocessed, with what normalises it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeVar

from seg.data.background import Background, Backgrounds
from seg.data.images import Pixels
from seg.data.preprocess import Statistics, choose_statistics, preprocess
from seg.recipe import Preprocessing

Item = TypeVar("Item")
Frame = tuple[Pixels, Statistics]
"""Working pixels [h, w] or [h, w, channels], uint8 or uint16, and what normalises them on the device."""


@dataclass(frozen=True, slots=True)
class FrameReader:
    """Makes frames of images alike for everybody who shows some to one model, or prepares for one."""

    preprocessing: Preprocessing
    statistics: Statistics | None
    """The model's, where its normalisation is fitted; None: each image's own."""
    backgrounds: Backgrounds

    def read(self, pixels: Pixels, sequence: str) -> Frame:
        """An image as read, of a sequence, as its model sees it. UnsupportedImage: as of `make`."""
        return self.make(pixels, self.backgrounds.find(sequence, pixels))

    def make(self, pixels: Pixels, background: Background | None) -> Frame:
        """The same with its background. UnsupportedImage: the model was fitted on another bit depth."""
        working = preprocess(pixels, self.preprocessing, background)
        return working, choose_statistics(working, self.preprocessing, self.statistics)


def as_clip(earlier: Sequence[Frame | None], frame: Frame) -> list[Frame]:
    """What a sequence model sees of an image: frames before it, oldest first, and its own last.

    In place of one that is missing (None) or of another size stands the nearest later one.
    """
    return fill_clip(earlier, frame, itemgetter(0))


def fill_clip(earlier: Sequence[Item | None], last: Item, pixels_of: Callable[[Item], Pixels]) -> list[Item]:
    """The same of anything that has pixels."""
    clip, shape = [last], pixels_of(last).shape
    for item in reversed(earlier):
        clip.append(clip[-1] if item is None or pixels_of(item).shape != shape else item)
    return clip[::-1]
