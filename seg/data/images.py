"""One image file, read once: bytes, hash, header, pixels."""

import errno
import hashlib
import io
import math
import os
import struct
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

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
from seg.storage import Place

EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy"})
MAX_PIXELS = 2**28
"""A header that announces more is refused before anything is allocated (16384 x 16384)."""
MAX_SIDE_PX = 2**20
"""The longest side that OpenCV decodes."""

Image.MAX_IMAGE_PIXELS = None  # Pillow only reads our headers; the limit above is ours, with our own message
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # a damaged TIFF is our error to raise
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report damage ourselves, with the file

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error)
"""What Pillow raises on a damaged header; UnidentifiedImageError is an OSError."""

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
    with open_file(path) as file:
        return FileBytes(file.read(), os.fstat(file.fileno()).st_mtime_ns)


def open_file(path: Path) -> BinaryIO:
    """A file to read. OSError: there is none, or it is a folder or a pipe, for whose writer we would wait."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to files this flag means nothing
    mode = os.fstat(handle).st_mode
    if not S_ISREG(mode):
        os.close(handle)
        number, text = (errno.EISDIR, "Is a directory") if S_ISDIR(mode) else (errno.EINVAL, "it is no file")
        raise OSError(number, text, str(path))
    return os.fdopen(handle, "rb")


def read_from(place: Place, name: str) -> FileBytes:
    """Read a file of a place whole. OSError: it is not there, or cannot be read.

    On an object store the time is taken first: should the file be replaced meanwhile, it counts as changed.
    """
    if place.is_local:
        return read_file(place.local(name))
    found, content = place.stat(name), place.read(name)
    if found is None or content is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{place}/{name}")
    return FileBytes(content, found.mtime_ns)


def split_page(image: str) -> tuple[str, int | None]:
    """The file of an image's name, and its page: 'a.tif#2' is page 2 of a.tif, 'a.tif' a file of one page."""
    name, mark, page = image.rpartition("#")
    if mark and page.isascii() and page.isdigit() and Path(name).suffix.lower() in {".tif", ".tiff"}:
        return name, int(page)
    return image, None


def count_pages(file: Path | BinaryIO) -> int:
    """Pages of a TIFF; 1 where the file cannot be read, since decoding will say so with its reason."""
    try:
        if isinstance(file, Path):
            with open_file(file) as opened_file:
                return count_pages(opened_file)
        with Image.open(file, formats=("TIFF",)) as opened:
            return getattr(opened, "n_frames", 1)
    except PILLOW_ERRORS:
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
        is_inverted = _check_header(data, page or 0)
        pixels = _decode_opencv(data, page)
        pixels = np.invert(pixels) if is_inverted else pixels
    return _check_kind(pixels)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise EmptyImage(f"the image is {width} x {height} pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE_PX:
        raise TooLargeImage(
            f"the header announces {width} x {height} pixels, over the limit of {MAX_PIXELS} "
            f"({MAX_SIDE_PX} a side)"
        )


def _check_header(data: bytes, page: int) -> bool:
    """Refuse what cannot be decoded; whether OpenCV gives its values the other way round."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "TIFF")) as opened:
            opened.seek(page)
            _check_size(opened.height, opened.width)
            return opened.format == "TIFF" and _check_tiff(opened, len(data))
    except EOFError:
        raise UnreadableImage(f"the file has no page {page}") from None
    except UnidentifiedImageError:
        raise _damage(data, "the content is no PNG, BMP, TIFF, JPEG or NPY image") from None
    except PILLOW_ERRORS as error:
        raise _damage(data, f"the header is damaged: {error}") from None


def _check_tiff(tiff: Image.Image, size: int) -> bool:
    """Refuse what OpenCV scales without a word, and find a file cut short, of which it says only 'bad'.

    Whether it turns the values over: of 8 bits where 0 is white (TIFF 6.0, PhotometricInterpretation), which
    of 16 bits it leaves as they are.
    """
    tags = tiff.tag_v2  # pyright: ignore[reportAttributeAccessIssue]  # on TiffImageFile
    bits = tags.get(258, (1,))  # BitsPerSample
    if not {1, 2, 4, 8, 16, 32, 64}.issuperset(bits):  # packed 12 bits would come back times 16
        raise UnsupportedImage(f"the pixels are packed {bits[0]} bits, wanted 8 or 16; unpack them to 16")
    for offsets, counts in ((273, 279), (324, 325)):  # TIFF 6.0: StripOffsets and -ByteCounts; tiles the same
        ends = [
            start + length for start, length in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        ]
        if ends and max(ends) > size:
            raise TruncatedImage(f"the file has {size} bytes, its image ends at byte {max(ends)}")
    return tags.get(262) == 0 and tuple(bits) == (8,)


def _decode_opencv(data: bytes, page: int | None) -> NDArray[np.generic]:
    buffer = np.frombuffer(data, np.uint8)
    try:
        if page is None:
            pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
        else:
            decoded, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
            pixels = pages[0] if decoded and pages else None
    except cv2.error:  # where Pillow and OpenCV read two sizes from one damaged header
        pixels = None
    if pixels is None:
        raise _damage(data, "the image data is damaged")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels


def _damage(data: bytes, detail: str) -> ImageError:
    """The error for bytes that do not decode: cut short, where the format lets us tell, else `detail`."""
    cut_png = data.startswith(b"\x89PNG") and b"IEND" not in data[-16:]
    cut_jpeg = data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-16:]
    cut_bmp = data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little")
    if cut_png or cut_jpeg or cut_bmp or _is_cut_tiff(data):
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage(detail)


def _is_cut_tiff(data: bytes) -> bool:
    """Whether a TIFF ends before its first directory does, or that one's values (TIFF 6.0, section 2)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return False
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        fields = [struct.unpack_from(f"{order}HHII", data, start + 2 + 12 * k) for k in range(entries)]
    except struct.error:
        return True
    sizes = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value by its type, else 1
    values = [(at, count * sizes.get(kind, 1)) for _, kind, count, at in fields]
    return any(size > 4 and at + size > len(data) for at, size in values)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    # OpenCV, Pillow and torchvision return a full array for a JPEG damaged inside; simplejpeg raises
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(int(height), int(width))
        if colours == "Gray":
            return simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        raise _damage(data, f"the JPEG is damaged: {error}") from None


def _decode_npy(data: bytes) -> NDArray[np.generic]:
    file = io.BytesIO(data)
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        found, by_columns, dtype = read(file)
    except (ValueError, tokenize.TokenError) as error:
        raise UnreadableImage(f"the NPY header is damaged: {error}") from None
    shape = tuple(int(side) for side in found)
    if major > 3:
        raise UnreadableImage(f"the NPY header is damaged: there is no format version {major}")
    if len(shape) < 2 or shape[2:] not in ((), (1,), (3,)) or dtype.kind != "u":
        raise UnsupportedImage(f"the array is {dtype} of shape {shape}, wanted uint8 or uint16 [H, W(, 3)]")
    _check_size(shape[0], shape[1])
    wanted = file.tell() + math.prod(shape) * dtype.itemsize
    if len(data) < wanted:
        raise TruncatedImage(f"the file has {len(data)} bytes, its header announces {wanted}")
    pixels = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return pixels.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="))


def _check_kind(pixels: NDArray[np.generic]) -> Pixels:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UnsupportedImage(
            f"the image has shape {pixels.shape}, wanted 1 or 3 channels; drop its alpha channel"
        )
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, np.uint8)
    if pixels.dtype == np.uint16:
        return np.ascontiguousarray(pixels, np.uint16)
    raise UnsupportedImage(f"the pixels are {pixels.dtype}, wanted 8 or 16 bits without a sign")
