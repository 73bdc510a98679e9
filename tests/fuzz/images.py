"""Images and labels as fuzz targets."""

import io
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from seg.data.images import count_pages, decode_image, read_header
from seg.data.labels import read_label
from seg.errors import ImageError
from tests.foreign.png_truth import Damaged, NotJudged, OddChunks, decode_png
from tests.foreign.reading import digest
from tests.foreign.truths import format_of, tell_bytes
from tests.foreign.verdicts import CORPUS, files_of
from tests.fuzz.mutators import damage, damage_strips, edit_json, edit_tiff, edit_words, remake_png
from tests.fuzz.target import Target

SIZE = (37, 53)
CLASSES = tuple(f"class {number}" for number in range(254))
"""So many that a mask's id 254 is the only one that nobody knows."""
SEED_BYTES = 6000
"""The longest file of the corpus that is a seed: the shorter, the more mutants a second."""


@cache
def pictures() -> dict[str, NDArray[np.generic]]:
    """Pictures of every kind we read, [37, 53]: fringes and some noise, so that packing packs."""
    random = np.random.default_rng(0)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    waves = (0.5 + 0.4 * np.sin((rows + 2 * columns) / 5)) * 60000 + random.integers(0, 600, SIZE)
    gray16 = waves.astype(np.uint16)
    gray8 = (gray16 >> 8).astype(np.uint8)
    colour16 = np.dstack([gray16, gray16[::-1], gray16[:, ::-1]])
    return {"gray8": gray8, "gray16": gray16, "rgb8": (colour16 >> 8).astype(np.uint8), "rgb16": colour16}


def _png(pixels: NDArray[np.generic]) -> bytes:
    done, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    assert done
    return data.tobytes()


def _pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(pixels: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(file, pixels, photometric=photometric, metadata=None, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _palette() -> Image.Image:
    return Image.fromarray(pictures()["rgb8"]).quantize(16)


def _with_corpus(own: list[bytes], kind: str) -> list[bytes]:
    """Seeds of ours and, as often, short ones of other projects, where these are there; many are broken."""
    if not CORPUS.is_dir():
        return own
    files = [path for path in files_of(CORPUS) if path.stat().st_size <= SEED_BYTES]
    found = [data for data in (path.read_bytes() for path in files) if format_of(data) == kind]
    return own * max(1, len(found) // len(own)) + found


@cache
def png_seeds() -> list[bytes]:
    gray = Image.fromarray(pictures()["gray8"])
    own = [_png(pixels) for pixels in pictures().values()]
    own += [_pillow(_palette(), "PNG"), _pillow(_palette(), "PNG", bits=4), _pillow(gray.convert("1"), "PNG")]
    return _with_corpus(own, "PNG")


@cache
def bmp_seeds() -> list[bytes]:
    own = [_pillow(Image.fromarray(pictures()[name]), "BMP") for name in ("gray8", "rgb8")]
    return _with_corpus([*own, _pillow(_palette(), "BMP")], "BMP")


@cache
def jpeg_seeds() -> list[bytes]:
    images = [Image.fromarray(pictures()[name]) for name in ("gray8", "rgb8")]
    own = [_pillow(image, "JPEG", progressive=flag) for image in images for flag in (False, True)]
    return _with_corpus(own, "JPEG")


@cache
def npy_seeds() -> list[bytes]:
    arrays = [
        *pictures().values(),
        pictures()["gray16"].astype(">u2"),
        np.asfortranarray(pictures()["gray8"]),
    ]
    found = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        found.append(file.getvalue())
    return found


@cache
def tiff_seeds(compression: str) -> list[bytes]:
    """By tifffile in strips and tiles, and by libtiff where Pillow knows the compression."""
    names = ("gray8", "rgb8") if compression in ("jpeg", "jpegxl") else tuple(pictures())
    codec = None if compression == "none" else compression
    shapes: list[dict[str, object]] = [{"rowsperstrip": 10}, {"tile": (16, 32)}]
    own = [_tiff(pictures()[name], compression=codec, **shape) for name in names for shape in shapes]
    libtiff = {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate"}.get(compression, compression)
    if compression in ("lzw", "deflate", "packbits", "zstd", "lzma", "none"):
        options = {} if compression == "none" else {"compression": libtiff}
        own += [
            _pillow(Image.fromarray(pictures()[name]), "TIFF", **options)
            for name in ("gray8", "gray16", "rgb8")
        ]
    return own


@cache
def many_tiffs() -> list[bytes]:
    """Stacks, packed bits, planes, palettes, big files; and those of other projects."""
    gray, colour = pictures()["gray8"], pictures()["rgb8"]
    stack = _tiff(np.stack([gray, gray[::-1], gray]))
    planes = _tiff(np.moveaxis(colour, 2, 0), planarconfig="separate")
    own = [stack, planes, _tiff(gray, bigtiff=True), _tiff(gray, byteorder=">"), _pillow(_palette(), "TIFF")]
    return _with_corpus(own, "TIFF")


def read_image(data: bytes) -> str:
    """Both readers of an image on its first page and, of several, on its last."""
    count = count_pages(io.BytesIO(data))
    pages = [None] if count == 1 else sorted({0, count - 1})
    found = [str(count)]
    for page in pages:
        _look_at_header(data, page)
        found.append(digest(decode_image(data, page)))
    return " ".join(found[1:2] if count == 1 else found)


def _look_at_header(data: bytes, page: int | None) -> None:
    """It may refuse, as the decoder then does by itself, but must not fail."""
    try:
        read_header(io.BytesIO(data), page)
    except ImageError:
        return


def image_truth(data: bytes) -> frozenset[str] | None:
    """Of one page; None where there are several, or nobody judges."""
    truths = tell_bytes(data)
    if truths.pages != 1 or truths.found[0].says == "not judged":
        return None
    if truths.found[0].says.endswith(
        "incorrect data check"
    ):  # of zlib, around chunks whose sums fit: libpng's way
        return None
    return frozenset(truths.found[0].right)


def _label_size(data: bytes) -> tuple[int, int]:
    """Of the image that a label belongs to: its own, so that most mutants are read to their end."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return opened.height, opened.width
    except Exception:
        return SIZE


def read_mask(data: bytes) -> str:
    size = _label_size(data)
    if size[0] * size[1] > 2**22:
        size = SIZE
    return digest(read_label(data, Path("masks/a.png"), size, CLASSES).mask)


def read_boxes(ending: str, data: bytes) -> str:
    label = read_label(data, Path(f"boxes/a{ending}"), SIZE, ("background", "a", "b", "c"))
    return digest(label.mask)


def mask_truth(data: bytes) -> frozenset[str] | None:
    """The indices or gray levels of 8 bits and less, below 254 or 255, as a PNG's own reader has them."""
    if not data.startswith(b"\x89PNG"):
        return None
    try:
        found = decode_png(data)
    except (NotJudged, OddChunks):
        return None
    except Damaged:
        return frozenset()
    if found.colour_type not in (0, 3) or found.samples.dtype != np.uint8:
        return frozenset()
    return frozenset([digest(found.samples)])


@cache
def mask_seeds() -> list[bytes]:
    ids = (pictures()["gray8"] // 90).astype(np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    two = Image.fromarray(ids > 1)
    return [
        *(_png(ids), _png(np.where(ids == 2, 255, ids).astype(np.uint8)), _pillow(two, "PNG")),
        *(_pillow(palette, "PNG", bits=bits) for bits in (2, 4, 8)),
        *(_pillow(palette, kind) for kind in ("BMP", "TIFF")),
    ]


@cache
def yolo_seeds() -> list[bytes]:
    return [b"0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.1\n", b"", b"2 0.9 0.9 0.4 0.4"]


@cache
def json_seeds() -> list[bytes]:
    boxes = [[3, 4, 10, 12], [20.5, 1, 9, 9]]
    return [json.dumps(one).encode() for one in ({"boxes": boxes}, {"boxes": boxes, "classes": ["a", "b"]})]


def _seeds(compression: str) -> Callable[[], Sequence[bytes]]:
    return partial(tiff_seeds, compression)


PACKED = ("none", "packbits", "lzw", "deflate", "zstd", "lzma", "jpeg", "jpegxl", "lerc")
CHECKED = ("deflate", "lzma")
"""Compressions of TIFF whose strips carry a checksum; zstd has one, but no writer of TIFF asks for it."""

IMAGES = [
    Target("PNG", png_seeds, read_image, (damage,), (remake_png,), has_checksum=True, truth=image_truth),
    Target("BMP", bmp_seeds, read_image, truth=image_truth, truth_decides=False),
    Target("JPEG", jpeg_seeds, read_image, truth=image_truth, truth_decides=False),
    Target("NPY", npy_seeds, read_image, truth=image_truth),
    *(
        Target(f"TIFF {name}, strips", _seeds(name), read_image, (damage_strips,), (), name in CHECKED)
        for name in PACKED
    ),
    *(
        Target(
            f"TIFF {name}, anywhere",
            _seeds(name),
            read_image,
            (damage, edit_tiff),
            truth=image_truth,
            truth_decides=False,
        )
        for name in PACKED
    ),
    Target(
        "TIFF, odd ones",
        many_tiffs,
        read_image,
        (damage, edit_tiff),
        truth=image_truth,
        truth_decides=False,
    ),
    Target("mask", mask_seeds, read_mask, (damage,), (remake_png,), truth=mask_truth),
    Target("boxes, YOLO", yolo_seeds, partial(read_boxes, ".txt"), (edit_words,)),
    Target("boxes, JSON", json_seeds, partial(read_boxes, ".json"), (edit_json,)),
]
