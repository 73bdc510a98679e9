"""What a file's pixels are by readers that share nothing with ours; called in a process that may die of it.

The rule of each format, where several arrays are right any one will do:

- PNG: our own strict reader, zlib alone; of a palette its colours; alpha is to be refused.
- TIFF: our own strict reader, whose results have the checksums that image-tiff's names carry; where it does
  not know a compression, Pillow (libtiff) for JPEG of 8 bits, tifffile for the rest.
- BMP: Pillow; 5 bits a colour and alpha are to be refused.
- JPEG: Pillow's libjpeg-turbo: gray or RGB, as stored and never turned; CMYK is to be refused. Lossless ones,
  which Pillow does not know, by the libjpeg-turbo of imagecodecs.
- NPY: numpy.load.
- All else is to be refused.
"""

import io
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.foreign.png_truth import CHANNELS, Damaged, NotJudged, decode_png
from tests.foreign.reading import PAGES, digest
from tests.foreign.tiff_truth import Tiff, decode_tiff, read_directories

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
Arrays = list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Truth:
    """What reading one page may give."""

    right: tuple[str, ...]
    """Digests; none: it is to be refused."""
    says: str
    """'sound', or why not: damaged, unsupported; 'not judged': nobody knows."""
    oracle: str


@dataclass(frozen=True, slots=True)
class Truths:
    """Of one file."""

    format: str
    pages: int | None
    """None: not judged."""
    found: tuple[Truth, ...]


def format_of(data: bytes) -> str:
    """The format that content begins as."""
    starts = {b"\x89PNG": "PNG", b"BM": "BMP", b"\xff\xd8": "JPEG", b"\x93NUMPY": "NPY"}
    starts |= dict.fromkeys(TIFF_STARTS, "TIFF")
    return next((name for start, name in starts.items() if data.startswith(start)), "none")


def tell_file(path: Path) -> Truths:
    """The truths of a file's pages."""
    warnings.simplefilter("ignore")
    return tell_bytes(path.read_bytes())


def tell_bytes(data: bytes) -> Truths:
    """The truths of a file's content."""
    kind = format_of(data)
    if kind != "TIFF":
        return Truths(kind, 1, (_judge(kind, data, 0),))
    pages = _count_directories(data)
    numbers = range(min(pages or 1, PAGES))
    return Truths(kind, pages, tuple(_judge(kind, data, page) for page in numbers))


def _judge(kind: str, data: bytes, page: int) -> Truth:
    says = "damaged"
    for name, oracle in ORACLES[kind]:
        try:
            arrays = oracle(data, page)
        except Damaged as error:
            return Truth((), f"damaged: {error}", name)
        except Unsupported as error:
            return Truth((), f"unsupported: {error}", name)
        except NotJudged:
            says = "not judged"
            continue
        return Truth(tuple(digest(array) for array in arrays), "sound", name)
    return Truth((), says, "nobody")


class Unsupported(Exception):
    """Sound, but of a kind that is to be refused."""


def _count_directories(data: bytes) -> int | None:
    count = 0
    with suppress(Damaged):
        while count < 1000:
            read_directories(data, count)
            count += 1
        return None  # a loop, or more than this slow reader counts
    return count or None


def png(data: bytes, page: int) -> Arrays:
    found = decode_png(data)
    if CHANNELS[found.colour_type] in (2, 4):
        raise Unsupported("alpha")
    if found.palette is None:
        return [found.samples]
    if found.samples.max() >= len(found.palette):
        raise Damaged("an index beyond the palette")
    return [found.palette[found.samples], *_gray(found.palette[found.samples])]


def tiff(data: bytes, page: int) -> Arrays:
    found = decode_tiff(data, page)
    if read_directories(data, page).one(32997, 1) > 1:
        raise Unsupported("several slices in one directory")
    return arrays_of(found)


def arrays_of(found: Tiff) -> Arrays:
    """What a page of those samples may be read as."""
    if found.photometric not in (0, 1, 2, 3) or found.extra:
        raise Unsupported(f"photometric {found.photometric}, {found.extra} extra samples")
    if found.colours is None:
        return [found.samples]
    colours = found.colours[found.samples]
    return [colours, (colours >> 8).astype(np.uint8), *_gray((colours >> 8).astype(np.uint8))]


def tiff_by_pillow(data: bytes, page: int) -> Arrays:
    """For JPEG in TIFF, which `tiff` does not know."""
    if read_directories(data, page).one(259, 1) != 7:
        raise NotJudged("another compression")
    _refuse_kinds(data, page)
    with _opened(data, "TIFF") as image:
        image.seek(page)
        if image.mode not in ("L", "RGB", "P"):
            raise NotJudged(image.mode)
        return _plain(image)


def tiff_by_tifffile(data: bytes, page: int) -> Arrays:
    """For the rest."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pixels = file.pages[page].asarray()  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        raise Damaged(f"tifffile: {error}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise Unsupported(str(pixels.dtype))
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise Unsupported(str(pixels.shape))
    return [pixels]


def _refuse_kinds(data: bytes, page: int) -> None:
    """Unsupported, by the tags alone: what `arrays_of` and the format of samples would refuse."""
    tags = read_directories(data, page)
    bits, kinds = tags.values.get(258, (1,)), tags.values.get(339, (1,))
    photometric, samples = tags.one(262, -1), tags.one(277, 1)
    wanted = {0: 1, 1: 1, 2: 3, 3: 1, 6: 3}.get(photometric, 0)
    if samples != wanted or set(kinds) != {1} or max(bits) > 16 or tags.one(32997, 1) > 1:
        raise Unsupported(f"photometric {photometric}, {samples} samples, format {kinds}, {bits} bits")
    if photometric == 6 and tags.one(259, 1) != 7:
        raise Unsupported("YCbCr that is no JPEG")


def bmp(data: bytes, page: int) -> Arrays:
    with _opened(data, "BMP") as image:
        core = struct.unpack_from("<I", data, 14)[0] == 12
        bits = struct.unpack_from("<H", data, 24 if core else 28)[0]
        if bits == 16 or image.mode not in ("1", "L", "P", "RGB"):
            raise Unsupported(f"{bits} bits, {image.mode}")
        return _plain(image)


def jpeg(data: bytes, page: int) -> Arrays:
    if b"\xff\xc3" in data[:1000]:  # start of a lossless frame
        raise NotJudged("lossless")
    with _opened(data, "JPEG") as image:
        if image.mode not in ("L", "RGB"):
            raise Unsupported(image.mode)
        return _plain(image)


def lossless_jpeg(data: bytes, page: int) -> Arrays:
    try:
        pixels = imagecodecs.jpeg8_decode(data)
    except Exception as error:
        raise Damaged(f"imagecodecs: {error}") from None
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)):
        raise Unsupported(f"{pixels.dtype} {pixels.shape}")
    return [pixels]


def npy(data: bytes, page: int) -> Arrays:
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise Damaged(f"numpy: {error}") from None
    if pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise Unsupported(str(pixels.dtype))
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise Unsupported(str(pixels.shape))
    return [pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels]


def _opened(data: bytes, kind: str) -> Image.Image:
    """An image that Pillow has read to its end. Damaged: it does not."""
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except Exception as error:
        raise Damaged(f"Pillow: {error}") from None


def _plain(image: Image.Image) -> Arrays:
    """Of a palette its colours, and where these are grays, one channel as well."""
    try:
        if image.mode in ("1", "P"):
            colours = np.asarray(image.convert("RGB"))
            return [colours, *_gray(colours)]
        return [np.asarray(image)]
    except Exception as error:
        raise Damaged(f"Pillow: {error}") from None


def _gray(colours: NDArray[np.uint8]) -> Arrays:
    same = (colours == colours[:, :, :1]).all()
    return [colours[:, :, 0]] if same else []


def nobody(data: bytes, page: int) -> Arrays:
    raise Unsupported("no format of ours")


ORACLES: dict[str, list[tuple[str, Callable[[bytes, int], Arrays]]]] = {
    "PNG": [("png_truth", png)],
    "TIFF": [
        ("tiff_truth", tiff),
        ("Pillow", tiff_by_pillow),
        ("tifffile", tiff_by_tifffile),
    ],
    "BMP": [("Pillow", bmp)],
    "JPEG": [("Pillow", jpeg), ("imagecodecs", lossless_jpeg)],
    "NPY": [("numpy", npy)],
    "none": [("nobody", nobody)],
}
