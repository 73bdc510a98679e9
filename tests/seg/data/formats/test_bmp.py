import io
import struct

import numpy as np
import pytest
from PIL import Image

from seg.data.images import decode_image, read_header
from seg.errors import ImageError, TruncatedImage, UnsupportedImage

SEEDED = np.random.default_rng(0)


def os2_bmp(ids: np.ndarray, colours: np.ndarray) -> bytes:
    """OS/2 1: a header of 12 bytes, and palette entries of three (blue, green, red); rows from below."""
    height, width = ids.shape
    header = struct.pack("<IHHHH", 12, width, height, 1, 8)
    palette = colours[:, ::-1].astype(np.uint8).tobytes()
    rows = b"".join(row.astype(np.uint8).tobytes().ljust(-(-width // 4) * 4, b"\0") for row in ids[::-1])
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + header + palette + rows


def test_the_colours_of_os2_are_kept() -> None:
    ids, colours = SEEDED.integers(0, 256, (5, 7)), SEEDED.integers(0, 256, (256, 3))
    data = os2_bmp(ids, colours)
    np.testing.assert_array_equal(decode_image(data), colours[ids])
    assert read_header(io.BytesIO(data)).channels == 3


def test_a_palette_that_is_all_gray_gives_one_channel() -> None:
    ids, grays = SEEDED.integers(0, 256, (5, 7)), SEEDED.permutation(256)
    for levels in (grays, np.arange(256)):
        data = os2_bmp(ids, np.dstack([levels] * 3)[0])
        np.testing.assert_array_equal(decode_image(data), levels[ids])
        assert read_header(io.BytesIO(data)).channels == 1


def test_a_black_and_white_bmp_gives_its_two_colours() -> None:
    file, pixels = io.BytesIO(), SEEDED.integers(0, 2, (5, 7)).astype(bool)
    Image.fromarray(pixels).save(file, "BMP")
    np.testing.assert_array_equal(decode_image(file.getvalue()), pixels * 255)


@pytest.mark.parametrize("bits", [16, 32])
def test_packed_channels_are_unsupported(bits: int) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, bits, 0, 0, 0, 0, 0, 0)
    data = struct.pack("<2sIHHI", b"BM", 54 + bits, 0, 0, 54) + header + bytes(bits)
    for read in (decode_image, lambda data: read_header(io.BytesIO(data))):
        with pytest.raises(UnsupportedImage, match=f"packed into {bits} bits"):
            read(data)


def test_no_damage_raises_anything_but_an_image_error() -> None:
    data = os2_bmp(SEEDED.integers(0, 256, (5, 7)), SEEDED.integers(0, 256, (256, 3)))
    for place in [*range(30), 400, 800]:
        for bit in range(8):
            copy = bytearray(data)
            copy[place] ^= 1 << bit
            for read in (decode_image, lambda data: read_header(io.BytesIO(data))):
                try:
                    read(bytes(copy))
                except ImageError:
                    continue
    with pytest.raises(TruncatedImage):
        decode_image(data[:10])
