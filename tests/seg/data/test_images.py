import io
import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.header import MAX_PIXELS
from seg.data.images import count_pages, decode_image, read_file, split_page
from seg.errors import (
    EmptyImage,
    ImageError,
    TooLargeImage,
    TruncatedImage,
    UnreadableImage,
    UnsupportedImage,
)

SEEDED = np.random.default_rng(0)
GRAY8 = SEEDED.integers(0, 256, (37, 53), dtype=np.uint8)
GRAY16 = SEEDED.integers(0, 65536, (37, 53), dtype=np.uint16)
COLOUR8 = SEEDED.integers(0, 256, (37, 53, 3), dtype=np.uint8)
COLOUR16 = SEEDED.integers(0, 65536, (37, 53, 3), dtype=np.uint16)


def encode(image: Image.Image | NDArray[np.generic], kind: str, **options: object) -> bytes:
    """Bytes that Pillow, NumPy or, for what Pillow cannot write, OpenCV makes."""
    file = io.BytesIO()
    if kind == "NPY":
        np.save(file, np.asarray(image), allow_pickle=False)
    elif isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.ndim == 3:
        return cv2.imencode(f".{kind.lower()}", image[:, :, ::-1])[1].tobytes()
    else:
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def write_png(height: int, width: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG chunk by chunk, for headers that no encoder writes (PNG, third edition, section 11)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    compressed = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def write_tiff(
    pixels: bytes, height: int, width: int, bits: int, sample_format: int = 1, *, white: int = 1
) -> bytes:
    """A TIFF of one gray strip, its directory last (TIFF 6.0, section 2). white: what that is."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, white), (273, 4, 8),
        (277, 3, 1), (278, 4, height), (279, 4, len(pixels)), (339, 3, sample_format),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<I", 8 + len(pixels))
    return b"II*\0" + start + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)


EXACT = {
    "png gray": (encode(GRAY8, "PNG"), GRAY8),
    "png colour": (encode(COLOUR8, "PNG"), COLOUR8),
    "png gray 16": (encode(GRAY16, "PNG"), GRAY16),
    "png colour 16": (encode(COLOUR16, "PNG"), COLOUR16),
    "png 1 bit": (encode(GRAY8 > 99, "PNG"), (GRAY8 > 99).astype(np.uint8)),
    "bmp gray": (encode(GRAY8, "BMP"), GRAY8),
    "bmp colour": (encode(COLOUR8, "BMP"), COLOUR8),
    "tiff gray": (encode(GRAY8, "TIFF"), GRAY8),
    "tiff colour": (encode(COLOUR8, "TIFF"), COLOUR8),
    "tiff gray 16": (encode(GRAY16, "TIFF"), GRAY16),
    "tiff gray 16 lzw": (encode(GRAY16, "TIFF", compression="tiff_lzw"), GRAY16),
    "tiff colour 16": (encode(COLOUR16, "TIFF"), COLOUR16),
    "tiff gray, 0 is white": (write_tiff(GRAY8.tobytes(), 37, 53, 8, white=0), GRAY8),
    "tiff gray 16, 0 is white": (write_tiff(GRAY16.tobytes(), 37, 53, 16, white=0), GRAY16),
    "tiff colour deflate": (encode(COLOUR8, "TIFF", compression="tiff_adobe_deflate"), COLOUR8),
    "npy gray": (encode(GRAY8, "NPY"), GRAY8),
    "npy colour 16": (encode(COLOUR16, "NPY"), COLOUR16),
    "npy big-endian": (encode(GRAY16.astype(">u2"), "NPY"), GRAY16),
    "npy by columns": (encode(np.asfortranarray(GRAY16), "NPY"), GRAY16),
    "npy one channel": (encode(GRAY8[:, :, None], "NPY"), GRAY8),
}


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_formats_give_the_values_that_were_stored(kind: str) -> None:
    data, stored = EXACT[kind]
    decoded = decode_image(data)
    assert decoded.dtype == stored.dtype
    assert decoded.dtype.isnative
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, stored)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_palette_gives_its_colours(kind: str) -> None:
    palette = Image.fromarray(COLOUR8).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(palette, kind)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("image", [GRAY8, COLOUR8], ids=["gray", "colour"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_jpeg_decodes_as_pillow_decodes_it(image: NDArray[np.uint8], options: dict[str, object]) -> None:
    data = encode(image, "JPEG", quality=90, **options)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_each_page_of_a_tiff_is_its_own_image(tmp_path: Path) -> None:
    pages = [np.roll(GRAY16, shift) for shift in range(3)]
    first, *rest = [Image.fromarray(page) for page in pages]
    data = encode(first, "TIFF", save_all=True, append_images=rest)
    for number, page in enumerate(pages):
        np.testing.assert_array_equal(decode_image(data, number), page)
    np.testing.assert_array_equal(decode_image(data), pages[0])
    with pytest.raises(UnreadableImage, match="no page 3"):
        decode_image(data, 3)
    (tmp_path / "pages.tif").write_bytes(data)
    assert count_pages(tmp_path / "pages.tif") == 3


def test_a_file_that_is_no_tiff_counts_as_one_page(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRAY8), Image.fromarray(255 - GRAY8)]
    for number, data in enumerate((b"", b"II*\0", encode(frames[0], "PNG", append_images=frames[1:]))):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(data)
        assert count_pages(path) == 1


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_file_cut_short_is_truncated(kind: str, share: float) -> None:
    data, _ = EXACT[kind]
    with pytest.raises(TruncatedImage, match="bytes") as caught:
        decode_image(data[: int(share * len(data))])
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("kept", [3, 100, 700, -2])
def test_a_jpeg_cut_short_anywhere_is_truncated(kept: int) -> None:
    with pytest.raises(TruncatedImage):
        decode_image(encode(COLOUR8, "JPEG")[:kept])


def test_zeroed_bytes_inside_a_jpeg_do_not_pass() -> None:
    data = bytearray(encode(COLOUR8, "JPEG", quality=90))
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    with pytest.raises(UnreadableImage, match="JPEG is damaged"):
        decode_image(bytes(data))


def test_zeroed_bytes_inside_a_png_do_not_pass() -> None:
    data = bytearray(EXACT["png gray 16"][0])
    data[1000:1040] = bytes(40)
    with pytest.raises(UnreadableImage, match="damaged"):
        decode_image(bytes(data))


@pytest.mark.parametrize("kind", [*EXACT, "jpeg"])
def test_damage_of_any_kind_is_an_image_error_or_an_image(kind: str) -> None:
    data = encode(COLOUR8, "JPEG") if kind == "jpeg" else EXACT[kind][0]
    random = np.random.default_rng(1)
    for round_number in range(40):
        damaged = bytearray(data)
        reach = min(len(data), 300) if round_number % 2 else len(data)  # half of them in the header
        for place in random.integers(reach, size=3):
            damaged[place] = random.integers(256)
        with suppress(ImageError):
            assert decode_image(bytes(damaged)).dtype in (np.uint8, np.uint16)


REFUSED: dict[str, tuple[bytes, type[ImageError], str]] = {
    "zero bytes": (b"", EmptyImage, "no bytes"),
    "text": (b"not an image\n" * 9, UnreadableImage, "no PNG, BMP, TIFF, JPEG or NPY"),
    "a format we do not list": (encode(GRAY8, "GIF"), UnreadableImage, "no PNG, BMP"),
    "alpha": (encode(np.dstack([COLOUR8, GRAY8]), "PNG"), UnsupportedImage, "alpha"),
    "gray and alpha": (encode(Image.fromarray(GRAY8).convert("LA"), "PNG"), UnsupportedImage, "alpha"),
    "float TIFF": (encode(GRAY8.astype(np.float32), "TIFF"), UnsupportedImage, "floating point of 32"),
    "32-bit TIFF": (encode(GRAY8.astype(np.int32), "TIFF"), UnsupportedImage, "signed integers of 32"),
    "signed TIFF": (write_tiff(GRAY16.tobytes(), 37, 53, 16, 2), UnsupportedImage, "signed integers of 16"),
    "32 bits": (write_tiff(bytes(32), 2, 4, 32), UnsupportedImage, "32 bits"),
    "float NPY": (encode(GRAY8 / 2, "NPY"), UnsupportedImage, "float64"),
    "signed NPY": (encode(GRAY8.astype(np.int16), "NPY"), UnsupportedImage, "int16"),
    "flat NPY": (encode(GRAY8[0], "NPY"), UnsupportedImage, "shape"),
    "two channels": (encode(COLOUR8[:, :, :2], "NPY"), UnsupportedImage, "shape"),
    "no pixels": (encode(GRAY8[:0], "NPY"), EmptyImage, "53 x 0 pixels"),
    "NPY of the future": (b"\x93NUMPY\x09" + encode(GRAY8, "NPY")[7:], UnreadableImage, "header"),
    "NPY header that is no literal": (
        encode(GRAY8, "NPY").replace(b"{'descr'", b"(('descr'"),
        UnreadableImage,
        "header",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_we_do_not_read_is_refused_with_its_reason(kind: str) -> None:
    data, error, text = REFUSED[kind]
    with pytest.raises(error, match=text):
        decode_image(data)


def test_an_array_of_objects_is_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedImage, match="object"):
        decode_image(file.getvalue())


def announce_npy(*shape: int) -> bytes:
    """The header of an array of that shape, and nothing behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        write_png(10**6, 10**6, 8, 0, b""),
        write_png(1, 2**20 + 1, 8, 0, bytes(2**20 + 2)),  # sound, but longer than OpenCV takes
        write_tiff(bytes(9), 10**6, 10**6, 8),
        struct.pack("<2sIIIIiiHHIIiiII", b"BM", 99, 0, 54, 40, 10**6, 10**6, 1, 24, 0, 0, 0, 0, 0, 0),
        announce_npy(10**6, 10**6),
    ],
    ids=["png", "long png", "tiff", "bmp", "npy"],
)
def test_a_header_of_too_many_pixels_is_refused_unread(data: bytes) -> None:
    with pytest.raises(TooLargeImage, match=f"limit of {MAX_PIXELS}"):
        decode_image(data)


def test_an_npy_whose_size_overflows_is_truncated() -> None:
    with pytest.raises(UnsupportedImage, match="shape"):
        decode_image(announce_npy(2**14, 2**14, 2**40))
    with pytest.raises(TruncatedImage, match="announces 268435"):
        decode_image(announce_npy(2**14, 2**14))


@pytest.mark.parametrize(
    ("name", "file", "page"),
    [
        ("s/a.tif#0", "s/a.tif", 0),
        ("s/a.TIFF#12", "s/a.TIFF", 12),
        ("s/a#1.tif", "s/a#1.tif", None),
        ("s/a#1.png", "s/a#1.png", None),
        ("s#2/a.tif", "s#2/a.tif", None),
        ("a.png#1", "a.png#1", None),
        ("a.tif#²", "a.tif#²", None),
        ("a.tif#٣", "a.tif#٣", None),
        ("a.tif#", "a.tif#", None),
    ],
)
def test_only_a_number_behind_a_tiff_is_a_page(name: str, file: str, page: int | None) -> None:
    assert split_page(name) == (file, page)


def test_a_file_is_hashed_and_dated_as_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    read = read_file(path)
    assert read.data == b"abc"
    assert read.mtime_ns == path.stat().st_mtime_ns
    assert (
        read.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, B.1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert count_pages(tmp_path / "a.tif") == 1
    with pytest.raises(OSError, match="it is no file"):
        read_file(tmp_path / "a.tif")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


def read_real(path: Path) -> NDArray[np.generic]:
    with warnings.catch_warnings(), Image.open(path) as opened:
        warnings.simplefilter("ignore")
        return np.asarray(opened)


@pytest.mark.parametrize(
    ("pattern", "dtype"),
    [
        ("holograms/*_u16.tif", np.uint16),
        ("holograms/*.png", np.uint8),
        ("holograms/*.tiff", np.uint8),
        ("holograms/*.jpg", np.uint8),
        ("nuclei16/images/*.tif", np.uint16),
        ("oxford-iiit-pet/images/*.jpg", np.uint8),
    ],
)
def test_real_images_decode_as_pillow_decodes_them(shared_data: Path, pattern: str, dtype: type) -> None:
    found = sorted(shared_data.glob(pattern))[:6]
    assert found
    for path in found:
        decoded = decode_image(path.read_bytes())
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, read_real(path), err_msg=path.name)


@pytest.mark.parametrize(
    "name",
    ["paramecium_offaxis_u16.tif", "notele_star_1200x1920.tiff", "fly_notele_1024.png", "rbc_rgb_gray.jpg"],
)
@pytest.mark.parametrize("share", [0.01, 0.6, 0.999])
def test_real_images_cut_short_are_truncated(shared_data: Path, name: str, share: float) -> None:
    data = (shared_data / "holograms" / name).read_bytes()
    with pytest.raises(TruncatedImage):
        decode_image(data[: int(share * len(data))])
