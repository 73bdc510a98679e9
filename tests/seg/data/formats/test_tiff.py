import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zstandard
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.tiff import MAX_PAGES
from seg.data.images import count_pages, decode_image, read_header
from seg.data.listing import list_images
from seg.errors import ImageError, TooLargeImage, TruncatedImage, UnreadableImage, UnsupportedImage
from tests.seg.data.formats.hand_tiff import gray_tags, write_tiff

SEEDED = np.random.default_rng(0)
RIPPLES = (128 + 90 * np.sin(np.add.outer(np.arange(70) ** 1.3, np.arange(90)) / 9)).astype(np.uint8)
IMAGES: dict[str, NDArray[Any]] = {
    "gray": RIPPLES,
    "gray 16": RIPPLES.astype(np.uint16) * 251 + SEEDED.integers(0, 99, RIPPLES.shape, dtype=np.uint16),
    "colour": np.dstack([RIPPLES, RIPPLES[::-1], 255 - RIPPLES]),
    "colour 16": np.dstack([RIPPLES.astype(np.uint16) * k for k in (1, 99, 257)]),
}
BYTE_COMPRESSIONS = ["none", "lzw", "adobe_deflate", "packbits", "zstd", "lzma"]


def by_tifffile(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    options["compression"] = None if options.get("compression") == "none" else options.get("compression")
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def by_pillow(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", **options)
    return file.getvalue()


def refuses(data: bytes, page: int | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, page)
    with pytest.raises(ImageError) as by_header:
        read_header(io.BytesIO(data), page)
    assert str(by_header.value) == str(caught.value)
    return caught.value


@pytest.mark.parametrize("field", [14, 18, 22])
def test_a_lerc_strip_that_announces_another_size_gets_no_memory_for_it(field: int) -> None:
    """Rows, columns and samples in the header of Lerc 2.4; a quarter of a terabyte each."""
    data = bytearray(by_tifffile(RIPPLES, compression="lerc", rowsperstrip=33))
    strip = data.index(b"Lerc2 ")
    data[strip + field : strip + field + 4] = (1 << 28).to_bytes(4, "little")
    with pytest.raises(UnreadableImage, match="strip 0 is damaged"):
        decode_image(bytes(data))


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("compression", [*BYTE_COMPRESSIONS, "jpegxl", "lerc"])
def test_every_compression_of_the_list_gives_the_samples_that_were_stored(
    kind: str, compression: str
) -> None:
    pixels = IMAGES[kind]
    layouts: list[dict[str, Any]] = [
        {"rowsperstrip": 33},
        {"tile": (32, 48)},
        {"byteorder": ">"},
        {"bigtiff": True},
    ]
    if compression in ("lzw", "adobe_deflate", "zstd", "lzma"):
        layouts += [{"predictor": True, "rowsperstrip": 7}, {"predictor": True, "byteorder": ">"}]
    if compression in ("jpegxl", "lerc"):
        layouts = [layout for layout in layouts if "byteorder" not in layout]  # no writer turns them
    if compression == "jpegxl":
        layouts = [layout | {"compressionargs": {"lossless": True}} for layout in layouts]
    for layout in layouts:
        data = by_tifffile(pixels, compression=compression, **layout)
        np.testing.assert_array_equal(decode_image(data), pixels, err_msg=str(layout))
        found = read_header(io.BytesIO(data))
        assert (found.height, found.width, found.bit_depth) == (*pixels.shape[:2], 8 * pixels.itemsize)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("kind", ["gray", "gray 16", "colour"])
def test_what_libtiff_writes_is_read_as_it_was_given(kind: str, compression: str | None) -> None:
    np.testing.assert_array_equal(
        decode_image(by_pillow(IMAGES[kind], compression=compression)), IMAGES[kind]
    )


@pytest.mark.parametrize("kind", ["colour", "colour 16"])
@pytest.mark.parametrize("compression", BYTE_COMPRESSIONS)
def test_planes_of_their_own_are_not_scrambled(kind: str, compression: str) -> None:
    planes = np.moveaxis(IMAGES[kind], -1, 0)
    for layout in ({"rowsperstrip": 9}, {"tile": (32, 32)}):
        data = by_tifffile(
            planes, photometric="rgb", planarconfig="separate", compression=compression, **layout
        )
        np.testing.assert_array_equal(decode_image(data), IMAGES[kind])


@pytest.mark.parametrize("kind", ["gray", "colour"])
def test_a_jpeg_within_gives_the_rgb_of_libjpeg_turbo(kind: str) -> None:
    pixels = IMAGES[kind].repeat(2, 0).repeat(2, 1)
    tiled, with_tables = (
        by_tifffile(pixels, compression="jpeg", tile=(64, 64)),
        by_pillow(pixels, compression="jpeg"),
    )
    np.testing.assert_array_equal(decode_image(tiled), tifffile.imread(io.BytesIO(tiled)))
    np.testing.assert_array_equal(decode_image(with_tables), np.asarray(Image.open(io.BytesIO(with_tables))))


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_of_any_width_keep_their_values(bits: int, order: str) -> None:
    """Cameras pack 10, 12 and 14 bits, highest first (TIFF 6.0, section 1, FillOrder)."""
    stored = SEEDED.integers(0, 1 << bits, (9, 13))
    if bits in (8, 16):
        packed = stored.astype(f"{order}u{bits // 8}").tobytes()
    else:
        digits = (stored[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(digits.reshape(9, -1).astype(np.uint8), axis=1).tobytes()
    found = decode_image(write_tiff(packed, gray_tags(9, 13, bits), order=order))
    assert found.dtype == (np.uint8 if bits <= 8 else np.uint16)
    np.testing.assert_array_equal(found, stored)


def test_bits_that_come_lowest_first_are_turned() -> None:
    stored = SEEDED.integers(0, 2, (5, 16), dtype=np.uint8)
    packed = np.packbits(stored, axis=1, bitorder="little").tobytes()
    np.testing.assert_array_equal(decode_image(write_tiff(packed, gray_tags(5, 16, 1, tag266=2))), stored)


def test_a_palette_gives_its_colours() -> None:
    ids, colours = SEEDED.integers(0, 16, (4, 6)), SEEDED.integers(0, 256, (16, 3))
    packed = ((ids[:, ::2] << 4) | ids[:, 1::2]).astype(np.uint8).tobytes()
    for spread in (257, 256):  # as the specification has it, and as some write it
        tags = gray_tags(4, 6, 4, tag262=3) | {320: (colours * spread).T.ravel().tolist()}
        np.testing.assert_array_equal(decode_image(write_tiff(packed, tags)), colours[ids])
    finer = gray_tags(4, 6, 4, tag262=3) | {320: (colours * 257 // 3).T.ravel().tolist()}
    assert "colours of the palette" in str(refuses(write_tiff(packed, finer)))


def test_no_orientation_is_applied() -> None:
    stored = RIPPLES[:9, :13]
    for orientation in range(1, 9):
        data = write_tiff(stored.tobytes(), gray_tags(9, 13, 8, tag274=orientation))
        np.testing.assert_array_equal(decode_image(data), stored)


def layers(count: int, **options: Any) -> bytes:
    """Samples of one pixel behind each other, `count` of them."""
    return by_tifffile(np.dstack([RIPPLES] * count), planarconfig="contig", **options)


UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "two samples": (
        by_tifffile(IMAGES["colour 16"][:, :, :2], photometric="minisblack", planarconfig="contig"),
        "2",
    ),
    "gray and alpha": (layers(2, photometric="minisblack", extrasamples=[2]), "2 samples"),
    "colours and alpha": (layers(4, photometric="rgb"), "4 samples"),
    "five channels": (layers(5, photometric="minisblack"), "5 samples"),
    "CIELab": (layers(3, photometric="cielab"), "CIELab"),
    "CMYK": (layers(4, photometric="separated"), "CMYK"),
    "a mosaic": (by_tifffile(RIPPLES, photometric=32803), "colour filter"),
    "float": (by_tifffile(RIPPLES.astype(np.float32)), "floating point of 32 bits"),
    "half float": (by_tifffile(RIPPLES.astype(np.float16)), "floating point of 16 bits"),
    "signed": (by_tifffile(RIPPLES.astype(np.int16)), "signed integers of 16 bits"),
    "complex": (by_tifffile(RIPPLES.astype(np.complex64)), "complex"),
    "32 bits": (by_tifffile(RIPPLES.astype(np.uint32)), "32 bits"),
    "fax": (by_pillow(RIPPLES > 99, compression="group4"), "CCITT"),
    "old JPEG": (write_tiff(bytes(9), gray_tags(3, 3, 8, tag259=6)), "compressed by"),
    "5-6-5": (write_tiff(bytes(18), gray_tags(3, 3, 16, tag262=2, tag277=3) | {258: [5, 6, 5]}), "have"),
    "a volume": (by_tifffile(np.stack([RIPPLES] * 16), volumetric=True, tile=(16, 16, 16)), "16 planes"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_no_image_of_ours_says_what_it_holds(kind: str) -> None:
    data, text = UNSUPPORTED[kind]
    error = refuses(data)
    assert isinstance(error, UnsupportedImage)
    assert text in str(error)


def stack_of_one_directory(planes: NDArray[np.uint8], announced: int) -> bytes:
    """As ImageJ saves what is over 4 GB: one directory, and its planes behind each other."""
    text = f"ImageJ=1.54f\nimages={announced}\nslices={announced}\nloop=false\n".encode()
    return write_tiff(planes.tobytes(), gray_tags(*planes.shape[1:], 8) | {270: text})


def test_a_stack_of_one_directory_has_all_its_slices(tmp_path: Path) -> None:
    planes = SEEDED.integers(0, 256, (5, 8, 11), dtype=np.uint8)
    data = stack_of_one_directory(planes, 5)
    assert count_pages(io.BytesIO(data)) == 5
    for number, plane in enumerate(planes):
        np.testing.assert_array_equal(decode_image(data, number), plane)
    assert "no page 5" in str(refuses(data, 5))
    (tmp_path / "s.tif").write_bytes(data)
    assert list_images(tmp_path).images == [f"s.tif#{k}" for k in range(5)]
    truncated = by_tifffile(planes, photometric="minisblack", truncate=True)
    assert [decode_image(truncated, k).tolist() for k in range(5)] == planes.tolist()


def test_slices_that_are_announced_and_not_there_are_told() -> None:
    planes = SEEDED.integers(0, 256, (5, 8, 11), dtype=np.uint8)
    data = stack_of_one_directory(planes, 9)
    cut = data[: len(data) - 20]  # the directory lies behind the planes here: move on to a real cut
    assert isinstance(refuses(cut), TruncatedImage)
    there = count_pages(io.BytesIO(data))
    assert there < 9
    assert isinstance(refuses(data, there - 1), TruncatedImage)
    np.testing.assert_array_equal(decode_image(data, 4), planes[4])


def test_pages_behind_a_broken_chain_are_told_by_one_more() -> None:
    pages = [gray_tags(3, 4, 8) for _ in range(3)]
    data = write_tiff(bytes(range(12)), *pages)
    assert count_pages(io.BytesIO(data)) == 3
    beyond, circular = (write_tiff(bytes(range(12)), *pages, behind_last=at) for at in (10**6, 8 + 12))
    for broken, kind in ((beyond, TruncatedImage), (circular, UnreadableImage)):
        assert count_pages(io.BytesIO(broken)) == 4
        assert decode_image(broken, 2).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        assert isinstance(refuses(broken, 3), kind)


def test_pages_beyond_the_limit_are_one_that_is_too_large() -> None:
    data = bytearray(write_tiff(bytes(1), gray_tags(1, 1, 8)))
    directory = data[9:-4]
    link = len(data) - 4
    for _ in range(MAX_PAGES + 5):
        data[link : link + 4] = len(data).to_bytes(4, "little")
        data += directory + bytes(4)
        link = len(data) - 4
    assert count_pages(io.BytesIO(data)) == MAX_PAGES + 1
    assert decode_image(bytes(data), MAX_PAGES - 1).tolist() == [[0]]
    assert isinstance(refuses(bytes(data), MAX_PAGES), TooLargeImage)


def test_a_strip_that_is_missing_or_of_another_length_is_damage() -> None:
    tags = gray_tags(4, 4, 8)
    two = tags | {278: 2, 273: [8, 16], 279: [8, 8]}
    pixels = bytes(range(16))
    assert decode_image(write_tiff(pixels, two)).ravel().tolist() == list(range(16))
    sparse = two | {273: [8, 0]}, two | {279: [8, 0]}, two | {273: [8], 279: [8]}
    for broken in sparse:
        assert "of its 2 strips" in str(refuses(write_tiff(pixels, broken)))
    with pytest.raises(UnreadableImage, match="strip 1 is damaged: it decodes to 7 bytes, not 8"):
        decode_image(write_tiff(pixels, two | {279: [8, 7]}))
    with pytest.raises(TruncatedImage):
        decode_image(write_tiff(pixels, two | {279: [8, 10**6]}))
    with pytest.raises(UnreadableImage, match="strip 0 is damaged"):  # PackBits: one byte too many
        decode_image(write_tiff(b"\x04abcde", gray_tags(1, 4, 8, tag259=32773) | {279: 6}))


def test_a_tag_that_decides_about_pixels_is_not_guessed() -> None:
    """tifffile leaves out a tag whose values it cannot reach, and goes on as if it had not been there."""
    data = bytearray(
        write_tiff(bytes(48), gray_tags(4, 4, 8, tag262=2, tag277=3) | {258: [8, 8, 8], 279: 48})
    )
    at = data.index((258).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at + 8 : at + 12] = (10**6).to_bytes(4, "little")
    assert isinstance(refuses(bytes(data)), TruncatedImage)
    data[at : at + 2] = (257).to_bytes(2, "little")
    data[at + 8 : at + 12] = (8).to_bytes(4, "little")
    assert "there twice" in str(refuses(bytes(data)))


def with_zstd_checksums(pixels: NDArray[np.uint8]) -> bytes:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(pixels.tobytes())
    return write_tiff(packed, gray_tags(*pixels.shape, 8, tag259=50000) | {279: len(packed)})


CHECKED = {
    "deflate": by_tifffile(RIPPLES, compression="adobe_deflate", rowsperstrip=16),
    "deflate 16": by_tifffile(IMAGES["gray 16"], compression="adobe_deflate", predictor=True, tile=(32, 32)),
    "LZMA": by_tifffile(RIPPLES, compression="lzma", rowsperstrip=16),
    "JPEG XL": by_tifffile(RIPPLES, compression="jpegxl", compressionargs={"lossless": True}),
    "LERC": by_tifffile(RIPPLES, compression="lerc"),
    "zstd with a checksum": with_zstd_checksums(RIPPLES),
}
UNCHECKED = {
    "LZW": by_tifffile(RIPPLES, compression="lzw", rowsperstrip=16),
    "LZW 16": by_tifffile(IMAGES["gray 16"], compression="lzw", predictor=True, tile=(32, 32)),
    "PackBits": by_tifffile(RIPPLES // 32, compression="packbits", rowsperstrip=16),
    "zstd": by_tifffile(RIPPLES, compression="zstd", rowsperstrip=16),
    "JPEG": by_tifffile(RIPPLES, compression="jpeg", rowsperstrip=16),
}


def damaged(data: bytes, rounds: int) -> list[bytes]:
    """A bit flipped, 8 bytes zeroed, the second half zeroed, each within one strip or tile."""
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page = opened.pages.first
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    random, found = np.random.default_rng(2), []
    for number in range(rounds):
        start, count = segments[int(random.integers(len(segments)))]
        place, copy = start + int(random.integers(count)), bytearray(data)
        if number % 3 == 0:
            copy[place] ^= 1 << int(random.integers(8))
        elif number % 3 == 1:
            copy[place : min(place + 8, start + count)] = bytes(min(8, start + count - place))
        else:
            copy[start + count // 2 : start + count] = bytes(count - count // 2)
        found.append(bytes(copy))
    return [copy for copy in found if copy != data]


@pytest.mark.parametrize("kind", CHECKED)
def test_damage_inside_a_strip_with_a_checksum_never_passes(kind: str) -> None:
    data, wanted = CHECKED[kind], decode_image(CHECKED[kind])
    refused = 0
    for copy in damaged(data, 90):
        try:
            np.testing.assert_array_equal(decode_image(copy), wanted)
        except ImageError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("kind", UNCHECKED)
def test_without_a_checksum_we_accept_nothing_that_pillow_or_tifffile_refuse(kind: str) -> None:
    data, wanted = UNCHECKED[kind], decode_image(UNCHECKED[kind])
    refused = 0
    for copy in damaged(data, 90):
        try:
            found = decode_image(copy)
        except ImageError:
            refused += 1
            continue
        if kind not in ("zstd", "JPEG"):  # Pillow is built without the one, and forgives the other
            np.asarray(Image.open(io.BytesIO(copy)))
        tifffile.imread(io.BytesIO(copy))
        assert found.shape == wanted.shape
    assert refused > 20
