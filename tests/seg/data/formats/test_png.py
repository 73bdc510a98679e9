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


GRAY_ROWS = zlib.compress(b"\0\x05\x06" * 2)
COLOURS = bytes(range(30))


@pytest.mark.parametrize(
    ("kind", "chunks", "text"),
    [
        (3, [(b"PLTE", COLOURS), (b"PLTE", COLOURS), (b"IDAT", GRAY_ROWS)], "not in their place"),
        (3, [(b"IDAT", GRAY_ROWS), (b"PLTE", COLOURS)], "not in their place"),
        (3, [(b"PLTE", COLOURS + b"x"), (b"IDAT", GRAY_ROWS)], "palette has 31 bytes"),
        (3, [(b"PLTE", COLOURS * 26), (b"IDAT", GRAY_ROWS)], "palette has 780 bytes"),
        (0, [(b"IDAT", GRAY_ROWS[:5]), (b"gAMA", bytes(4)), (b"IDAT", GRAY_ROWS[5:])], "damaged"),
        (0, [(b"PLTE", COLOURS), (b"IDAT", GRAY_ROWS), (b"PLTE", COLOURS)], "not in their place"),
    ],
)
def test_a_palette_or_pixels_out_of_place_are_refused_as_readers_differ_over_them(
    kind: int, chunks: list[tuple[bytes, bytes]], text: str
) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, kind, 0, 0, 0))
    body = b"".join(chunk(*one) for one in chunks)
    with pytest.raises(UnreadableImage, match=text):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


def test_a_suggested_palette_whose_checksum_does_not_fit_is_damage_and_a_text_without_effect() -> None:
    rows = b"".join(b"\0" + bytes(range(row, row + 6)) for row in range(2))
    palette, text = bytearray(chunk(b"PLTE", COLOURS)), bytearray(chunk(b"tEXt", b"Comment\0x"))
    assert decode_image(write_png(rows, 2, 2, 8, 2, bytes(palette))).shape == (2, 2, 3)
    palette[-1] ^= 1
    text[-1] ^= 1
    with pytest.raises(UnreadableImage, match="chunk 2 does not fit its checksum"):
        decode_image(write_png(rows, 2, 2, 8, 2, bytes(palette)))
    assert decode_image(write_png(rows, 2, 2, 8, 2, bytes(text)))[1, 1].tolist() == [4, 5, 6]
