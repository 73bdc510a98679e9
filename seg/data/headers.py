"""What an image file says of itself before its pixels: format, size, channels, depth."""

import tokenize
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from seg.data.images import MAX_PIXELS, MAX_SIDE_PX, PILLOW_ERRORS
from seg.errors import EmptyImage, TooLargeImage, UnreadableImage, UnsupportedImage

PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""By colour type (PNG specification, section 11.2.2); a palette becomes colours."""
MODE_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "CMYK": 3, "RGBA": 4}
"""Of a BMP or JPEG by Pillow's mode."""
SAMPLES, BITS, SAMPLE_FORMAT, PHOTOMETRIC = 277, 258, 339, 262
"""Tags of a TIFF (TIFF 6.0, section 8 and 19)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What decoding will give, as far as the header tells."""

    format: str
    height: int
    width: int
    channels: int
    bit_depth: int


def read_header(file: BinaryIO, page: int | None = None) -> Header:
    """Read the header of an image file, or of one page of a TIFF, and little else of it.

    ImageError: decoding would refuse the file for this; what is damaged behind the header is not seen.
    """
    start = file.read(32)
    file.seek(0)
    if not start:
        raise EmptyImage("the file has no bytes")
    header = _npy(file) if start.startswith(b"\x93NUMPY") else _pillow(file, start, page or 0)
    if header.height < 1 or header.width < 1:
        raise EmptyImage(f"the image is {header.width} x {header.height} pixels")
    if header.height * header.width > MAX_PIXELS or max(header.height, header.width) > MAX_SIDE_PX:
        raise TooLargeImage(f"the header announces {header.width} x {header.height} pixels")
    if header.channels not in (1, 3):
        raise UnsupportedImage(f"the image has {header.channels} channels, wanted 1 or 3")
    if header.bit_depth not in (8, 16):
        raise UnsupportedImage(f"the pixels are of {header.bit_depth} bits, wanted 8 or 16 without a sign")
    return header


def _pillow(file: BinaryIO, start: bytes, page: int) -> Header:
    try:
        with Image.open(file, formats=("PNG", "BMP", "TIFF", "JPEG")) as opened:
            opened.seek(page)
            channels, depth = _kind(opened, start)
            return Header(opened.format or "", opened.height, opened.width, channels, depth)
    except EOFError:
        raise UnreadableImage(f"the file has no page {page}") from None
    except UnidentifiedImageError:
        raise UnreadableImage("the content is no PNG, BMP, TIFF, JPEG or NPY image") from None
    except PILLOW_ERRORS as error:
        raise UnreadableImage(f"the header is damaged: {error}") from None


def _kind(opened: Image.Image, start: bytes) -> tuple[int, int]:
    """Channels and bit depth as OpenCV gives them, which keeps 16 bits where Pillow does not."""
    if opened.format == "PNG":
        return PNG_CHANNELS.get(start[25], 0), max(8, start[24])
    if opened.format != "TIFF":
        return MODE_CHANNELS.get(opened.mode, 0), 8
    tags = opened.tag_v2  # pyright: ignore[reportAttributeAccessIssue]  # on TiffImageFile
    bits = tags.get(BITS, (1,))[0]
    unsigned = set(tags.get(SAMPLE_FORMAT, (1,))) == {1}
    channels = 3 if tags.get(PHOTOMETRIC) == 3 else tags.get(SAMPLES, 1)  # 3: a palette
    return channels, (8 if bits in (1, 2, 4) else bits) if unsigned else 0


def _npy(file: BinaryIO) -> Header:
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, tokenize.TokenError) as error:
        raise UnreadableImage(f"the NPY header is damaged: {error}") from None
    if len(shape) not in (2, 3) or dtype.kind != "u":
        raise UnsupportedImage(f"the array is {dtype} of shape {shape}, wanted uint8 or uint16 [H, W(, 3)]")
    return Header("NPY", shape[0], shape[1], shape[2] if len(shape) == 3 else 1, 8 * dtype.itemsize)
