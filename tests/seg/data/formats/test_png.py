import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seg.data.images import decode_image, read_header
from seg.errors import ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

SEEDED = np.random.default_rng(0)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(rows: bytes, height: int, width: int, bits: int, colour: int, *before: bytes) -> bytes:
    """A PNG chunk by chunk; before: chunks ahead of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + chunk(b"IEND", b"")


def gray(bits: int, *before: bytes) -> tuple[bytes, np.ndarray]:
    """A gray image of so many bits, each row without a filter, packed highest first; and its samples."""
    stored = SEEDED.integers(0, 1 << bits, (7, 11))
    digits = (stored[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(digits.reshape(7, -1).astype(np.uint8), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return write_png(rows, 7, 11, bits, 0, *before), stored


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_of_any_depth_keeps_its_stored_values(bits: int) -> None:
    data, stored = gray(bits)
    found = decode_image(data)
    assert found.dtype == (np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(found, stored)
    assert read_header(io.BytesIO(data)).bit_depth == 8 * found.itemsize


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (gray(8, chunk(b"tRNS", b"\0\7"))[0], "transparent values"),
        (gray(8, chunk(b"acTL", struct.pack(">II", 2, 0)))[0], "animation"),
        (write_png(bytes(9), 2, 2, 8, 4), "2 channels"),
        (write_png(bytes(18), 2, 2, 8, 6), "4 channels"),
    ],
    ids=["transparent gray", "animation", "gray and alpha", "colour and alpha"],
)
def test_what_would_be_dropped_is_unsupported(data: bytes, text: str) -> None:
    for read in (decode_image, lambda data: read_header(io.BytesIO(data))):
        with pytest.raises(UnsupportedImage, match=text):
            read(data)


def test_a_header_that_its_checksum_contradicts_is_damage() -> None:
    data = bytearray(gray(8)[0])
    data[19] ^= 1  # the width
    with pytest.raises(UnreadableImage, match="checksum"):
        decode_image(bytes(data))
    with pytest.raises(UnreadableImage, match="colour type 2 of 4 bits"):
        decode_image(write_png(bytes(9), 1, 1, 4, 2))
    with pytest.raises(TruncatedImage):
        read_header(io.BytesIO(gray(8)[0][:40]))


def test_every_flip_of_a_bit_is_refused_or_without_effect() -> None:
    data, stored = gray(8)
    for place in range(len(data)):
        for bit in range(8):
            copy = bytearray(data)
            copy[place] ^= 1 << bit
            try:
                np.testing.assert_array_equal(decode_image(bytes(copy)), stored)
            except ImageError:
                continue


def test_an_orientation_is_not_applied() -> None:
    file, stored = io.BytesIO(), SEEDED.integers(0, 256, (5, 9), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    for kind in ("PNG", "JPEG"):
        Image.fromarray(stored).save(file, kind, exif=exif, quality=100)
        assert decode_image(file.getvalue()).shape == (5, 9)
        file.seek(0)
        file.truncate()
