"""What our readers make of one file; called in a process that may die of it."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.data.images import count_pages, decode_image, read_header
from seg.errors import ImageError

PAGES = 6
"""Pages of a file that are looked at."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page as the decoder and the header's reader see it."""

    refused: str
    """The reason; '' where it was read."""
    says: str
    """The decoder's message, or the array's shape and kind."""
    digest: str
    """Of the pixels."""
    kind: tuple[int, int, int, int] | None
    """Height, width, channels and bits of the pixels."""
    header: tuple[int, int, int, int] | None
    """As the header's reader promises them."""
    header_refused: str
    header_says: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One file."""

    pages: int
    """As counted."""
    found: tuple[Page, ...]
    """The first PAGES of them."""


def digest(pixels: NDArray[np.generic]) -> str:
    """Of values, kind and shape."""
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    return f"{native.dtype.name} {native.shape} {hashlib.sha256(native.tobytes()).hexdigest()}"


def read_file(path: Path) -> Reading:
    """Every page of a file."""
    return read_bytes(path.read_bytes())


def read_bytes(data: bytes, pages: int = PAGES) -> Reading:
    """Every page of a file's content, at most so many."""
    count = count_pages(BytesIO(data))
    numbers = [None] if count == 1 else range(min(count, pages))
    return Reading(count, tuple(read_page(data, number) for number in numbers))


def read_page(data: bytes, page: int | None) -> Page:
    """One page, by both readers; what is no ImageError is raised."""
    header, header_refused, header_says = None, "", ""
    try:
        found = read_header(BytesIO(data), page)
        header = (found.height, found.width, found.channels, found.bit_depth)
    except ImageError as error:
        header_refused, header_says = error.reason, str(error)
    try:
        pixels = decode_image(data, page)
    except ImageError as error:
        return Page(error.reason, str(error), "", None, header, header_refused, header_says)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = (*pixels.shape[:2], channels, 8 * pixels.dtype.itemsize)
    says = f"{pixels.dtype} {pixels.shape}"
    return Page("", says, digest(pixels), kind, header, header_refused, header_says)
