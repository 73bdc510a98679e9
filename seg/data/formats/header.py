"""What an image file says of itself before its pixels, and the limits that every format keeps."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seg.errors import EmptyImage, TooLargeImage

MAX_PIXELS = 2**28
"""A header that announces more is refused before anything is allocated (16384 x 16384)."""
MAX_SIDE_PX = 2**20
"""The longest side that OpenCV decodes."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""[H, W] or, in RGB order, [H, W, 3]."""


def as_pixels(array: NDArray[np.generic]) -> Pixels:
    """The same array in C order, its dtype known. It is one that a header of ours was made for."""
    if array.dtype == np.uint16:
        return np.ascontiguousarray(array, np.uint16)
    assert array.dtype == np.uint8, f"{array.dtype} should have been refused"
    return np.ascontiguousarray(array, np.uint8)


@dataclass(frozen=True, slots=True)
class Header:
    """What decoding gives: each format makes it of the same checks that its decoder begins with."""

    format: Literal["PNG", "BMP", "TIFF", "JPEG", "NPY"]
    height: int
    width: int
    channels: Literal[1, 3]
    bit_depth: Literal[8, 16]
    """Of the array; samples of fewer bits keep their values in it."""

    def __post_init__(self) -> None:
        """EmptyImage, TooLargeImage: sides outside the limits."""
        check_size(self.height, self.width)


def check_size(height: int, width: int) -> None:
    """EmptyImage: no pixels. TooLargeImage: more than we decode."""
    if height < 1 or width < 1:
        raise EmptyImage(f"the image is {width} x {height} pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE_PX:
        raise TooLargeImage(
            f"the header announces {width} x {height} pixels, over the limit of {MAX_PIXELS} "
            f"({MAX_SIDE_PX} a side)"
        )
