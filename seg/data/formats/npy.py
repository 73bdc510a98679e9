"""NPY arrays as images: never unpickled, each length checked (numpy.lib.format, versions 1 to 3)."""

import io
import math
import tokenize
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seg.data.formats.header import Header
from seg.errors import TruncatedImage, UnreadableImage, UnsupportedImage

MAGIC = b"\x93NUMPY"
VERSIONS = (1, 2, 3)
DAMAGE = (ValueError, TypeError, KeyError, SyntaxError, AttributeError, tokenize.TokenError, OverflowError)
"""What numpy raises on a header that is no literal, or one of other things: it evaluates what it finds."""
DEPTHS: dict[str, Literal[8, 16]] = {"|u1": 8, "<u2": 16, ">u2": 16}


class _Array(NamedTuple):
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[np.generic]
    start: int
    """Where in the file its values begin."""


def read_header(file: BinaryIO) -> Header:
    """What an NPY file holds, by its header. ImageError: damaged, or no image of ours."""
    return _check(parse(file))


def decode(data: bytes) -> NDArray[np.generic]:
    """The array as stored, in native byte order, uint8 or uint16 [H, W] or [H, W, 3].

    ImageError: as of `read_header`; fewer bytes than it announces.
    """
    array = parse(io.BytesIO(data))
    header = _check(array)
    count = math.prod(array.shape)
    wanted = array.start + count * array.dtype.itemsize
    if len(data) < wanted:
        raise TruncatedImage(f"the file has {len(data)} bytes, its header announces {wanted}")
    values = np.frombuffer(data, array.dtype, count, array.start)
    pixels = values.reshape(array.shape, order="F" if array.by_columns else "C")
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and header.channels == 1 else pixels
    return pixels.astype(array.dtype.newbyteorder("="), order="C")


def parse(file: BinaryIO) -> _Array:
    """Shape and dtype of any NPY array, whether an image or not. UnreadableImage: its header is damaged."""
    try:
        major, minor = np.lib.format.read_magic(file)
        if major not in VERSIONS or minor:
            raise UnreadableImage(f"the NPY header is damaged: there is no format version {major}.{minor}")
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
        return _Array(tuple(int(side) for side in shape), by_columns, dtype, file.tell())
    except DAMAGE as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableImage(f"the NPY header is damaged: {cause}") from None


def _check(array: _Array) -> Header:
    depth, shape = DEPTHS.get(array.dtype.str), array.shape
    if depth is None or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise UnsupportedImage(
            f"the array is {array.dtype} of shape {shape}, wanted uint8 or uint16 [H, W(, 3)]"
        )
    return Header("NPY", shape[0], shape[1], 3 if shape[2:] == (3,) else 1, depth)
