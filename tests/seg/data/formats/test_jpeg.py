import io

import numpy as np
import pytest
from PIL import Image

from seg.data.formats.jpeg import MAX_SCANS
from seg.data.images import decode_image, read_header
from seg.errors import EmptyImage, ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

RIPPLES = (128 + 90 * np.sin(np.add.outer(np.arange(40), np.arange(56)) / 9)).astype(np.uint8)


def by_pillow(mode: str = "L", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RIPPLES).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def scan_at(data: bytes) -> int:
    return data.index(b"\xff\xda")


def frame_at(data: bytes) -> int:
    return next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, a refinement of a few bytes, is there again and again."""
    data = by_pillow(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


def both(data: bytes, text: str) -> ImageError:
    """The error of decoder and header, which is the same."""
    with pytest.raises(ImageError, match=text) as decoded:
        decode_image(data)
    with pytest.raises(ImageError, match=text) as found:
        read_header(io.BytesIO(data))
    assert type(found.value) is type(decoded.value)
    return decoded.value


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UnsupportedImage, match=f"2000 scans, over the limit of {MAX_SCANS}"):
        decode_image(with_scans(2000))
    assert decode_image(by_pillow(progressive=True)).shape == RIPPLES.shape


def test_other_colours_depths_and_codings_say_what_they_are() -> None:
    assert isinstance(both(by_pillow("CMYK"), "4 channels"), UnsupportedImage)
    data = bytearray(by_pillow())
    start = frame_at(bytes(data))
    for place, value, text in (
        (start + 4, 12, "12 bits a sample"),
        (start + 1, 0xC3, "lossless"),
        (start + 9, 2, "2 channels"),
    ):
        copy = data.copy()
        copy[place] = value
        assert isinstance(both(bytes(copy), text), UnsupportedImage)
    data[start + 5 : start + 7] = bytes(2)
    assert isinstance(both(bytes(data), "56 x 0 pixels"), EmptyImage)


def test_a_header_is_found_behind_long_segments_and_costs_no_pixels() -> None:
    data = by_pillow("RGB")
    comments = b"".join(b"\xff\xfe\xff\xff" + bytes(65533) for _ in range(9))
    found = read_header(io.BytesIO(data[:2] + comments + data[2 : scan_at(data) + 14]))
    assert (found.height, found.width, found.channels) == (40, 56, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xd9", UnreadableImage),
        (b"\xff\xd8\xff\xe0\x00\x01", UnreadableImage),
        (b"\xff\xd8" + bytes(70_000), UnreadableImage),
        (b"\xff\xd8" + bytes(70), TruncatedImage),
        (by_pillow()[: scan_at(by_pillow())], TruncatedImage),
        (b"\xff\xd8" + by_pillow()[scan_at(by_pillow()) :], UnreadableImage),
    ],
    ids=["nothing", "short segment", "zeros", "few zeros", "no scan", "scan first"],
)
def test_a_jpeg_without_a_frame_is_damaged(data: bytes, kind: type[ImageError]) -> None:
    assert type(both(data, ".")) is kind


def test_no_flip_of_a_bit_raises_anything_but_an_image_error() -> None:
    data = by_pillow("RGB", progressive=True)
    random = np.random.default_rng(0)
    for place, bit in zip(random.integers(len(data), size=1500), random.integers(8, size=1500), strict=True):
        copy = bytearray(data)
        copy[place] ^= 1 << bit
        for read in (decode_image, lambda data: read_header(io.BytesIO(data))):
            try:
                read(bytes(copy))
            except ImageError:
                continue
