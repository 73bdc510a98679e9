"""One image file, read once: bytes, hash, header, pixels."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from seg.errors import (
    EmptyImage,
    ImageError,
    TooLargeImage,
    TruncatedImage,
    UnreadableImage,
    UnsupportedImage,
)

EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy"})
MAX_PIXELS = 2**28
"""A header that announces more is refused before anything is allocated (16384 x 16384)."""

Image.MAX_IMAGE_PIXELS = None  # Pillow only reads our headers; the limit above is ours, with our own message
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report damage ourselves, with the file

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""[H, W] or, in RGB order, [H, W, 3]."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A file as it was read, once: hashing and decoding share these bytes."""

    data: bytes
    mtime_ns: int

    @property
    def sha256(self) -> str:
        """Hash of the content, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def read_file(path: Path) -> FileBytes:
    """Read a file whole, with the modification time it had when it was opened."""
    with path.open("rb") as file:
        return FileBytes(file.read(), os.fstat(file.fileno()).st_mtime_ns)


def split_page(image: str) -> tuple[str, int | None]:
    """The file of an image's name, and its page: 'a.tif#2' is page 2 of a.tif, 'a.tif' a file of one page."""
    name, mark, page = image.rpartition("#")
    if mark and page.isdigit() and Path(name).suffix.lower() in {".tif", ".tiff"}:
        return name, int(page)
    return image, None


def count_pages(path: Path) -> int:
    """Pages of a TIFF; 1 where the file cannot be read, since decoding will say so with its reason."""
    try:
        with Image.open(path) as opened:
            return getattr(opened, "n_frames", 1)
    except (
        OSError,
        SyntaxError,
        ValueError,
        KeyError,
        TypeError,
    ):  # what Pillow raises on damaged directories
        return 1


def decode_image(data: bytes, page: int | None = None) -> Pixels:
    """Pixels of an encoded image: uint8 or uint16, [H, W] or RGB [H, W, 3], values as stored.

    data: a PNG, BMP, TIFF, JPEG or NPY file; the content decides, not the name.
    page: of a TIFF with several; None is the first.
    ImageError (its reason goes into the quarantine): nothing to decode, damage, or a kind we do not support.
    """
    if not data:
        raise EmptyImage("the file has no bytes")
    if data.startswith(b"\x93NUMPY"):
        pixels = _decode_npy(data)
    elif data.startswith(b"\xff\xd8"):
        pixels = _decode_jpeg(data)
    else:
        _check_header(data, page or 0)
        pixels = _decode_opencv(data, page)
    return _check_kind(pixels)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise EmptyImage(f"the image is {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise TooLargeImage(f"the header announces {width} x {height} pixels, over the limit of {MAX_PIXELS}")


def _check_header(data: bytes, page: int) -> None:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.seek(page)
            _check_size(opened.height, opened.width)
            if opened.format == "TIFF":
                _check_strips(opened, len(data))
    except UnidentifiedImageError:
        raise UnreadableImage("the content is no PNG, BMP, TIFF, JPEG or NPY image") from None
    except EOFError:
        raise UnreadableImage(f"the file has no page {page}") from None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:  # Pillow's, on a damaged header
        raise UnreadableImage(f"the header is damaged: {error}") from None


def _check_strips(tiff: Image.Image, size: int) -> None:
    """OpenCV says only that a TIFF is bad; where its strips or tiles end says whether it was cut short."""
    tags = tiff.tag_v2  # pyright: ignore[reportAttributeAccessIssue]  # on TiffImageFile
    for offsets, counts in ((273, 279), (324, 325)):  # TIFF 6.0: StripOffsets and -ByteCounts; tiles the same
        ends = [
            start + length for start, length in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        ]
        if ends and max(ends) > size:
            raise TruncatedImage(f"the file has {size} bytes, its image ends at byte {max(ends)}")


def _decode_opencv(data: bytes, page: int | None) -> NDArray[np.generic]:
    buffer = np.frombuffer(data, np.uint8)
    if page is None:
        pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    else:
        decoded, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
        pixels = pages[0] if decoded and pages else None
    if pixels is None:
        raise _damage(data)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels


def _damage(data: bytes) -> ImageError:
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data[-16:]
    cut_bmp = data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little")
    if cut_png or cut_bmp:
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage("the image data is damaged")


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    # OpenCV, Pillow and torchvision return a full array for a JPEG damaged inside; simplejpeg raises
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        if colours == "Gray":
            return simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        kind = TruncatedImage if "Premature end" in str(error) else UnreadableImage
        raise kind(f"the JPEG is damaged: {error}") from None


def _decode_npy(data: bytes) -> NDArray[np.generic]:
    file = io.BytesIO(data)
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise UnreadableImage(f"the NPY header is damaged: {error}") from None
    if len(shape) < 2 or dtype.hasobject:
        raise UnsupportedImage(f"the array is {dtype} of shape {shape}, wanted uint8 or uint16 [H, W(, 3)]")
    _check_size(int(shape[0]), int(shape[1]))
    wanted = file.tell() + int(np.prod(shape)) * dtype.itemsize
    if len(data) < wanted:
        raise TruncatedImage(f"the file has {len(data)} bytes, its header announces {wanted}")
    return np.load(io.BytesIO(data), allow_pickle=False)


def _check_kind(pixels: NDArray[np.generic]) -> Pixels:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UnsupportedImage(
            f"the image has shape {pixels.shape}, wanted 1 or 3 channels; drop its alpha channel"
        )
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, np.uint8)
    if pixels.dtype == np.uint16:  # equal too when the bytes of an NPY are big-endian
        return np.ascontiguousarray(pixels, np.uint16)
    raise UnsupportedImage(f"the pixels are {pixels.dtype}, wanted 8 or 16 bits without a sign")
