import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from seg.data.formats.header import Header
from seg.data.images import decode_image, read_header
from seg.data.preprocess import bit_depth
from seg.errors import ImageError
from tests.small import write_odd_archive

GRAY = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90)


def by_opencv(ending: str, pixels: Any) -> bytes:
    done, data = cv2.imencode(ending, pixels)
    assert done
    return data.tobytes()


def by_pillow(kind: str, mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray((GRAY % 256).astype(np.uint8)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def as_npy(pixels: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


COLOUR = np.dstack([GRAY, GRAY, 2 * GRAY])
SOUND: dict[str, Callable[[], bytes]] = {
    "png gray": lambda: by_opencv(".png", GRAY.astype(np.uint8)),
    "png gray 16": lambda: by_opencv(".png", GRAY),
    "png colour": lambda: by_opencv(".png", COLOUR.astype(np.uint8)),
    "png colour 16": lambda: by_opencv(".png", COLOUR),
    "png palette": lambda: by_pillow("PNG", "P"),
    "png 1 bit": lambda: by_pillow("PNG", "1"),
    "tiff gray 16": lambda: by_opencv(".tif", GRAY),
    "tiff colour 16": lambda: by_opencv(".tif", COLOUR),
    "tiff lzw": lambda: by_pillow("TIFF", "RGB", compression="tiff_lzw"),
    "bmp gray": lambda: by_pillow("BMP", "L"),
    "bmp colour": lambda: by_pillow("BMP", "RGB"),
    "jpeg gray": lambda: by_pillow("JPEG", "L"),
    "jpeg colour": lambda: by_pillow("JPEG", "RGB"),
    "npy gray": lambda: as_npy(GRAY),
    "npy colour": lambda: as_npy(COLOUR.astype(np.uint8)),
    "npy one channel": lambda: as_npy(GRAY[:, :, None]),
}
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"no image\n" * 9,
    "pickle": lambda: b"\x80\x02}q\x00.",
    "png alpha": lambda: by_pillow("PNG", "RGBA"),
    "png gray and alpha": lambda: by_pillow("PNG", "LA"),
    "tiff float": lambda: by_opencv(".tif", GRAY.astype(np.float32)),
    "tiff signed": lambda: by_opencv(".tif", GRAY.astype(np.int16)),
    "npy float": lambda: as_npy(GRAY.astype(float)),
    "npy 32 bit": lambda: as_npy(GRAY.astype(np.uint32)),
    "npy two channels": lambda: as_npy(COLOUR[:, :, :2]),
    "npy no rows": lambda: as_npy(GRAY[:0]),
    "npy line": lambda: as_npy(GRAY[0]),
    "npy header cut": lambda: as_npy(GRAY)[:20],
    "png header cut": lambda: by_opencv(".png", GRAY)[:20],
    "npy too large": lambda: as_npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(99999, 99999)")[:128],
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_header_says_what_decoding_gives(kind: str) -> None:
    data = SOUND[kind]()
    pixels = decode_image(data)
    found = read_header(io.BytesIO(data))
    assert (found.height, found.width) == pixels.shape[:2]
    assert found.channels == (1 if pixels.ndim == 2 else 3)
    assert found.bit_depth == bit_depth(pixels)
    assert found.format.lower() == kind.split(maxsplit=1)[0]


@pytest.mark.parametrize("kind", BAD)
def test_what_a_header_refuses_decoding_refuses_too(kind: str) -> None:
    data = BAD[kind]()
    with pytest.raises(ImageError) as decoded:
        decode_image(data)
    with pytest.raises(ImageError) as found:
        read_header(io.BytesIO(data))
    if "cut" not in kind:  # the bytes' end is not looked for
        assert found.value.reason == decoded.value.reason


def test_each_page_of_a_tiff_has_a_header_of_its_own(tmp_path: Any) -> None:
    write_odd_archive(tmp_path)
    data = (tmp_path / "images" / "pages.tif").read_bytes()
    assert [read_header(io.BytesIO(data), page).height for page in range(3)] == [97, 97, 70]
    with pytest.raises(ImageError, match="has no page 3"):
        read_header(io.BytesIO(data), 3)


class Counted(io.BytesIO):
    """A file that counts the bytes that were read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_header_costs_little_of_a_large_file(ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8)
    file = Counted(by_opencv(ending, noise))
    assert read_header(file) == Header({".tif": "TIFF"}.get(ending, ending[1:].upper()), 2000, 2000, 1, 8)
    assert file.taken < 70_000
