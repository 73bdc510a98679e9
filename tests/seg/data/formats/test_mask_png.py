import io
import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.labels import decode_label
from seg.errors import LabelMismatch
from tests.seg.data.test_images import encode

MASK = Path("m/a.png")
NAMES = tuple(f"class {number}" for number in range(255))
SEEDED = np.random.default_rng(3)
GRAY, PALETTE = 0, 3


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pack_rows(ids: NDArray[np.uint8], bits: int) -> bytes:
    """Samples side by side from the highest bit on, each row a whole number of bytes behind filter 0."""
    rows = b""
    for row in ids.tolist():
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
    return rows


def interlace(ids: NDArray[np.uint8], bits: int) -> bytes:
    """Adam7: the pass of a pixel stands in a square of 8 x 8 (PNG specification, section 8.1)."""
    square = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    rows = b""
    for number in "1234567":
        for row in range(ids.shape[0]):
            columns = [column for column in range(ids.shape[1]) if square[row % 8][column % 8] == number]
            rows += pack_rows(ids[row : row + 1, columns], bits) if columns else b""
    return rows


def write_png(
    ids: NDArray[np.uint8],
    bits: int,
    colour: int = GRAY,
    *,
    interlaced: bool = False,
    rows: bytes | None = None,
    before: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A PNG by hand. rows: other than those of the ids; before, after: chunks beside its rows."""
    if rows is None:
        rows = interlace(ids, bits) if interlaced else pack_rows(ids, bits)
    if before is None:
        before = chunk(b"PLTE", (bytes(range(256)) * 3)[: 3 * 2**bits]) if colour == PALETTE else b""
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, colour, 0, 0, interlaced)
    data = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def draw_ids(size: tuple[int, int], bits: int) -> NDArray[np.uint8]:
    return SEEDED.integers(0, min(2**bits, 255), size, dtype=np.uint8)


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("colour", [GRAY, PALETTE], ids=["gray", "palette"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_png_of_any_depth_gives_the_ids_that_it_stores(bits: int, colour: int, interlaced: bool) -> None:
    for size in [(1, 1), (1, 9), (9, 1), (3, 5), (17, 23)]:
        ids = draw_ids(size, bits)
        mask = decode_label(write_png(ids, bits, colour, interlaced=interlaced), MASK, size, NAMES)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, ids)


def write_bmp(ids: NDArray[np.uint8], bits: int, grays: list[int]) -> bytes:
    """A BMP by hand, its rows from below, each of whole words of 32 bits; its palette of grays."""
    rows = b""
    for row in ids[::-1]:
        packed = pack_rows(row[None], bits)[1:]
        rows += packed + bytes(-len(packed) % 4)
    palette = b"".join(bytes([gray, gray, gray, 0]) for gray in grays)
    start = 54 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, ids.shape[1], ids.shape[0], 1, bits, 0, len(rows), 0, 0, len(grays), 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def write_tiff(bits: NDArray[np.bool_], kind: str) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, bits, photometric=kind)
    return file.getvalue()


BITS = SEEDED.random((13, 21)) < 0.3
BILEVEL = {
    "Pillow's mode 1": encode(Image.fromarray(BITS), "PNG"),
    "OpenCV": cv2.imencode(".png", BITS * np.uint8(255), (cv2.IMWRITE_PNG_BILEVEL, 1))[1].tobytes(),
    "TIFF, 1 is white": write_tiff(BITS, "minisblack"),
    "TIFF, 0 is white": write_tiff(BITS, "miniswhite"),
    "BMP, 1 is white": write_bmp(BITS.astype(np.uint8), 1, [0, 255]),
    "BMP, 0 is white": write_bmp(BITS.astype(np.uint8), 1, [255, 0]),
}


@pytest.mark.parametrize("writer", BILEVEL)
def test_a_mask_of_one_bit_holds_ids_0_and_1_whoever_wrote_it(writer: str) -> None:
    np.testing.assert_array_equal(decode_label(BILEVEL[writer], MASK, BITS.shape, NAMES[:2]), BITS)


def test_a_bmp_of_8_bits_whose_ids_pillow_does_not_tell_is_refused_with_what_it_is() -> None:
    data = write_bmp(BITS.astype(np.uint8), 8, [0, 255])
    with pytest.raises(
        LabelMismatch, match=r"label m/a.png cannot be read: it is a BMP of 8 bits in two colours"
    ):
        decode_label(data, MASK, BITS.shape, NAMES)


SMALL = draw_ids((5, 7), 2)
TEXT = chunk(b"tEXt", b"Software\0Fiji")
WHOLE = {
    "palette": write_png(
        SMALL, 8, PALETTE, before=chunk(b"PLTE", bytes(12)) + chunk(b"tRNS", b"\0\xff"), after=TEXT
    ),
    "palette of 2 bits": write_png(SMALL, 2, PALETTE, after=TEXT),
    "gray": write_png(SMALL, 8, before=TEXT),
    "gray of 2 bits": write_png(SMALL, 2, before=TEXT),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_mask_with_any_one_bit_flipped_is_refused_or_the_same_truth(kind: str) -> None:
    data, refused = WHOLE[kind], 0
    for at, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        try:
            mask = decode_label(bytes(flipped), MASK, SMALL.shape, NAMES)
        except LabelMismatch:
            refused += 1
        else:
            np.testing.assert_array_equal(mask, SMALL, f"byte {at}, bit {bit}")
    assert refused == 8 * len(data)  # the file's every byte is its signature, or under a checksum


@pytest.mark.parametrize("kind", WHOLE)
def test_a_mask_cut_short_anywhere_is_refused(kind: str) -> None:
    for kept in range(len(WHOLE[kind])):
        with pytest.raises(LabelMismatch):
            decode_label(WHOLE[kind][:kept], MASK, SMALL.shape, NAMES)


ROWS = pack_rows(SMALL, 8)
WRONG_SUM = zlib.compress(ROWS)[:-1] + bytes([zlib.compress(ROWS)[-1] ^ 1])
NO_HEADER = write_png(SMALL, 8)[:8]
BROKEN = {
    "rows too few": (write_png(SMALL, 8, PALETTE, rows=ROWS[:-8]), "its rows are not as many"),
    "rows too many": (write_png(SMALL, 8, PALETTE, rows=ROWS + ROWS), "its rows are not as many"),
    "a filter that is none": (write_png(SMALL, 8, PALETTE, rows=b"\x09" + ROWS[1:]), "its rows do not"),
    "no palette": (write_png(SMALL, 8, PALETTE, before=b""), "it has no palette"),
    "a second header": (write_png(SMALL, 8, before=write_png(SMALL.T, 8)[8:33]), "not those of an image"),
    "a chunk that is demanded and unknown": (write_png(SMALL, 8, after=chunk(b"OddX", b"")), "not those of"),
    "no header": (NO_HEADER + chunk(b"IEND", b""), "not those of an image"),
    "a header of another length": (NO_HEADER + chunk(b"IHDR", b"") + chunk(b"IEND", b""), "not those of"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_mask_whose_sums_fit_and_whose_content_does_not_is_refused(kind: str) -> None:
    data, text = BROKEN[kind]
    with pytest.raises(LabelMismatch, match=f"label m/a.png cannot be read: the PNG is damaged: .*{text}"):
        decode_label(data, MASK, SMALL.shape, NAMES)


def test_rows_whose_own_checksum_is_wrong_are_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SMALL.shape[1], SMALL.shape[0], 8, PALETTE, 0, 0, 0))
    for rows in (WRONG_SUM, zlib.compress(ROWS)[:-4]):
        data = (
            b"\x89PNG\r\n\x1a\n"
            + header
            + chunk(b"PLTE", bytes(768))
            + chunk(b"IDAT", rows)
            + chunk(b"IEND", b"")
        )
        with pytest.raises(LabelMismatch, match="the PNG is damaged: its rows"):
            decode_label(data, MASK, SMALL.shape, NAMES)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 254), st.booleans())
def test_large_masks_and_those_of_one_value_are_whole(
    height: int, width: int, value: int, noisy: bool
) -> None:
    ids = draw_ids((height, width), 8) if noisy else np.full((height, width), value, np.uint8)
    image = Image.fromarray(ids).convert("P")
    np.testing.assert_array_equal(decode_label(encode(image, "PNG"), MASK, ids.shape, NAMES), ids)
