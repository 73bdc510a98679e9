"""The pixels of a TIFF's page: strips and tiles by imagecodecs, every length checked.

TIFF 6.0 (Adobe, 1992) and its Technical Note 2 on JPEG. What a codec passes over, such as a strip that
decodes to too few bytes, or to too many, is an error here: for LZW and PackBits the only sign of damage.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from seg.data.formats import jpeg
from seg.data.formats.header import MAX_PIXELS, Header, Pixels, as_pixels, check_size
from seg.errors import TooLargeImage, TruncatedImage, UnreadableImage, UnsupportedImage

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
LERC, LZMA, ZSTD, JPEGXL, JPEGXL_DNG = 34887, 34925, 50000, 50002, 52546
BYTE_CODECS: dict[int, Callable[..., bytes | bytearray]] = {
    LZW: imagecodecs.lzw_decode,
    DEFLATE: imagecodecs.zlib_decode,
    OLD_DEFLATE: imagecodecs.zlib_decode,
    PACKBITS: imagecodecs.packbits_decode,
    ZSTD: imagecodecs.zstd_decode,
    LZMA: imagecodecs.lzma_decode,
}
IMAGE_CODECS: dict[int, Callable[..., NDArray[Any]]] = {
    LERC: imagecodecs.lerc_decode,
    JPEGXL: imagecodecs.jpegxl_decode,
    JPEGXL_DNG: imagecodecs.jpegxl_decode,
}
COMPRESSIONS = {NONE, JPEG, *BYTE_CODECS, *IMAGE_CODECS}
"""The allow-list: what is tested with damage."""
CODEC_ERRORS = (RuntimeError, ValueError, TypeError)
"""What imagecodecs raises: its own errors are RuntimeErrors."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
COLOUR_SPACES = {4: "a transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
COLOUR_SPACES |= {32803: "the mosaic of a colour filter", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}
SAMPLE_KINDS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}
UNSIGNED, UNDEFINED = 1, 4
"""Sample formats; what is undefined is read as unsigned (TIFF 6.0, section 19)."""

ADOBE_SEGMENT = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""APP14 of a JPEG but for its last byte, which says whether its colours are YCbCr (1) or as they are (0)."""

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset on; fewer where it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where and how a page's samples are stored."""

    header: Header
    bits: int
    """Of a sample, 1 to 16."""
    order: Literal["<", ">"]
    compression: int
    is_differenced: bool
    """Whether samples are stored as differences from their left neighbours (predictor 2)."""
    reverses_bits: bool
    """Whether the bits of each byte come lowest first (fill order 2)."""
    planes: int
    """1, or 3 where each channel has strips or tiles of its own."""
    segment: tuple[int, int]
    """Rows and columns of a strip or tile."""
    is_tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Of bytes."""
    colours: NDArray[np.uint8] | None
    """Of a palette, [2^bits, 3]."""
    jpeg_tables: bytes
    is_ycbcr: bool

    @property
    def samples(self) -> int:
        """Of a pixel, in each segment."""
        return 1 if self.colours is not None else self.header.channels // self.planes

    @property
    def row_bytes(self) -> int:
        """Of a segment, once it is decompressed: rows end at whole bytes."""
        return (self.segment[1] * self.samples * self.bits + 7) // 8

    @property
    def num_bytes(self) -> int:
        """Of the page, uncompressed, in strips."""
        return self.header.height * self.row_bytes * self.planes

    @property
    def is_contiguous(self) -> bool:
        """Whether uncompressed strips lie one behind the other: then the page is one run of bytes."""
        ends = [offset + count for offset, count in zip(self.offsets, self.counts, strict=True)]
        return (
            not self.is_tiled and list(self.offsets[1:]) == ends[:-1] and sum(self.counts) >= self.num_bytes
        )


def read_layout(page: tifffile.TiffPage, size: int, *, plane: int = 0) -> Layout:
    """What a directory says of its page, in a file of `size` bytes.

    plane: of a stack whose images lie one behind the other in one page: which.
    ImageError: what it says is no image of ours, contradicts itself, or leads out of the file.
    """
    height, width = (_integer(page, name) for name in ("imagelength", "imagewidth"))
    check_size(height, width)
    bits, channels, planes = _check_samples(page)
    colours = _read_palette(page, bits) if page.photometric == PALETTE else None
    is_tiled = bool(page.is_tiled)
    rows = _integer(page, "tilelength") if is_tiled else min(_integer(page, "rowsperstrip") or height, height)
    columns = _integer(page, "tilewidth") if is_tiled else width
    if not 0 < rows * columns <= MAX_PIXELS:
        raise TooLargeImage(f"the header announces tiles of {columns} x {rows} pixels")
    offsets, counts = _check_segments(page, planes * -(-height // rows) * -(-width // columns))
    layout = Layout(
        header=Header("TIFF", height, width, channels, 16 if bits > 8 else 8),
        bits=bits,
        order=page.parent.byteorder,
        compression=_integer(page, "compression"),
        is_differenced=_integer(page, "predictor") == 2,
        reverses_bits=_integer(page, "fillorder") == 2,
        planes=planes,
        segment=(rows, columns),
        is_tiled=is_tiled,
        offsets=offsets,
        counts=counts,
        colours=colours,
        jpeg_tables=page.jpegtables or b"",
        is_ycbcr=page.photometric == YCBCR,
    )
    if plane:
        layout = replace(layout, offsets=tuple(offset + plane * layout.num_bytes for offset in offsets))
    ends = max(offset + count for offset, count in zip(layout.offsets, counts, strict=True))
    if ends > size:
        raise TruncatedImage(f"the file has {size} bytes, its image ends at byte {ends}")
    return layout


def read_samples(layout: Layout, read: Read) -> Pixels:
    """A page's samples, uint8 or uint16, [H, W] or RGB [H, W, 3], C order, in stored orientation.

    Samples of fewer than 8 or 16 bits keep their values; of a palette come its indices, of JPEG
    libjpeg-turbo's RGB. UnreadableImage, TruncatedImage: a strip or tile does not decode to what it should.
    """
    header, planes = layout.header, layout.planes
    pixels = np.empty((header.height, header.width, planes * layout.samples), f"u{header.bit_depth // 8}")
    rows, columns = layout.segment
    across = -(-header.width // columns)
    per_plane = len(layout.offsets) // planes
    for number, (offset, count) in enumerate(zip(layout.offsets, layout.counts, strict=True)):
        plane, place = divmod(number, per_plane)
        top, left = place // across * rows, place % across * columns
        there = pixels[top : top + rows, left : left + columns, plane : plane + layout.samples]
        segment = _decode_segment(layout, number, read(offset, count), there.shape[0])
        there[:] = segment[: there.shape[0], : there.shape[1]]
    return as_pixels(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _decode_segment(layout: Layout, number: int, data: bytes, rows_left: int) -> NDArray[np.generic]:
    """A strip or tile, [rows, columns, samples]; the last strip may be padded, to more than `rows_left`."""
    where = f"{'tile' if layout.is_tiled else 'strip'} {number}"
    if len(data) < layout.counts[number]:
        raise TruncatedImage(f"the file ends within its {where}")
    try:
        if layout.compression == JPEG:
            segment = _decode_jpeg(layout, data)
        elif codec := IMAGE_CODECS.get(layout.compression):
            segment = _decode_image(codec, layout, data, rows_left)
        else:
            return _unpack(layout, _decompress(layout, data, rows_left))
    except CODEC_ERRORS as error:
        raise UnreadableImage(f"{where} is damaged: {(str(error).splitlines() or [''])[0]}") from None
    wanted = (layout.segment[1], layout.samples)
    shaped = segment.reshape(*segment.shape[:2], -1) if segment.ndim in (2, 3) else segment
    if shaped.shape[1:] != wanted or shaped.shape[0] < rows_left or segment.dtype.itemsize * 8 != layout.bits:
        raise UnreadableImage(f"{where} is damaged: it holds {segment.dtype} {segment.shape}")
    return shaped


def _decode_image(
    codec: Callable[..., NDArray[Any]], layout: Layout, data: bytes, rows_left: int
) -> NDArray[Any]:
    """What a codec makes of data that say their own size: it gets room for the segment, not for what is said.

    As of CODEC_ERRORS where they hold something else; the last strip may be padded or not.
    """
    room = np.empty((layout.segment[0], layout.segment[1], layout.samples), f"u{layout.bits // 8}")
    try:
        return codec(data, out=room)
    except ValueError:
        return codec(data, out=room[:rows_left])


def _decompress(layout: Layout, data: bytes, rows_left: int) -> bytes | bytearray:
    """The bytes of a segment. ValueError: not those of its rows, nor of all rows of a padded strip."""
    rows = layout.segment[0] if layout.is_tiled else rows_left
    wanted, full = rows * layout.row_bytes, layout.segment[0] * layout.row_bytes
    found: bytes | bytearray = imagecodecs.bitorder_decode(data) if layout.reverses_bits else data
    if layout.compression == NONE:
        found = found[:wanted]
    else:  # one byte of room more than there should be: codecs stop without a word where room ends
        found = BYTE_CODECS[layout.compression](found, out=full + 1)
    if len(found) not in (wanted, full):
        raise ValueError(f"it decodes to {len(found)} bytes, not {wanted}")
    return found


def _unpack(layout: Layout, data: bytes | bytearray) -> NDArray[np.generic]:
    columns, samples, bits = layout.segment[1], layout.samples, layout.bits
    if bits in (8, 16):
        dtype = np.dtype(f"{layout.order}u{bits // 8}")
        found = np.frombuffer(data, dtype)
    else:
        dtype = np.dtype(np.uint8 if bits < 8 else np.uint16)
        found = imagecodecs.packints_decode(data, dtype, bits, runlen=columns * samples)
    found = found.reshape(-1, columns, samples)
    if layout.is_differenced:
        found = imagecodecs.delta_decode(found.astype(dtype.newbyteorder("="), copy=False), axis=1)
    return found


def _decode_jpeg(layout: Layout, data: bytes) -> NDArray[np.uint8]:
    """A segment that is a JPEG, whose tables may be the page's (Technical Note 2), as one whole stream."""
    tables = layout.jpeg_tables[2:-2]  # without its own start and end
    colours = ADOBE_SEGMENT + bytes([layout.is_ycbcr]) if layout.samples == 3 else b""
    stream = data[:2] + colours + tables + data[2:]
    return jpeg.decode_stream(stream, 3 if layout.samples == 3 else 1)


def _check_samples(page: tifffile.TiffPage) -> tuple[int, Literal[1, 3], int]:
    """Bits of a sample, channels, and planes of their own. UnsupportedImage: not gray, RGB or a palette."""
    compression, kind = _integer(page, "compression"), _integer(page, "photometric")
    if compression not in COMPRESSIONS:
        name = getattr(page.compression, "name", "unknown")
        raise UnsupportedImage(
            f"the pixels are compressed by {name} ({compression}); save them anew, by deflate"
        )
    bits, samples = page.bitspersample, _integer(page, "samplesperpixel")
    if not isinstance(bits, int):
        raise UnsupportedImage(f"the samples of a pixel have {bits} bits, wanted the same of all")
    if page.sampleformat not in (UNSIGNED, UNDEFINED):
        held = SAMPLE_KINDS.get(page.sampleformat, f"of format {page.sampleformat}")
        raise UnsupportedImage(f"the pixels are {held} of {bits} bits, wanted 8 or 16 bits without a sign")
    if not 1 <= bits <= 16:
        raise UnsupportedImage(f"the pixels are of {bits} bits, wanted 8 or 16")
    if kind in COLOUR_SPACES and not (kind == YCBCR and compression in (JPEG, JPEGXL, JPEGXL_DNG)):
        raise UnsupportedImage(f"the pixels are {COLOUR_SPACES[kind]}, wanted gray, RGB or a palette")
    if samples != {RGB: 3, YCBCR: 3}.get(kind, 1):
        raise UnsupportedImage(
            f"a pixel has {samples} samples, wanted 1 of gray or 3 of RGB; drop its alpha or extra channels"
        )
    _check_coding(page, bits, compression)
    return bits, 3 if samples == 3 or kind == PALETTE else 1, samples if page.planarconfig == 2 else 1


def _check_coding(page: tifffile.TiffPage, bits: int, compression: int) -> None:
    predictor = _integer(page, "predictor")
    as_images = compression == JPEG or compression in IMAGE_CODECS
    if predictor not in (1, 2) or (predictor == 2 and (bits not in (8, 16) or as_images)):
        raise UnsupportedImage(f"the pixels are stored as differences (predictor {predictor}) of {bits} bits")
    if as_images and bits not in ((8,) if compression == JPEG else (8, 16)):
        raise UnsupportedImage(f"the pixels are of {bits} bits in compression {compression}, wanted 8 or 16")
    if _integer(page, "fillorder") not in (1, 2) or _integer(page, "planarconfig") not in (1, 2):
        raise UnreadableImage("the header is damaged: its fill order or its planes do not exist")


def _read_palette(page: tifffile.TiffPage, bits: int) -> NDArray[np.uint8]:
    """Colours of 8 bits, uint8 [2^bits, 3]. UnsupportedImage: they are finer than that."""
    found = page.colormap
    if found is None or bits > 8 or found.shape != (3, 2**bits):
        raise UnreadableImage(f"the header is damaged: there is no palette for {bits} bits")
    colours = found.T.astype(np.uint32)
    if (colours % 257 == 0).all():  # 8 bits spread over 16, as most write them
        return (colours // 257).astype(np.uint8)
    if (colours % 256 == 0).all():  # shifted, as some do
        return (colours // 256).astype(np.uint8)
    raise UnsupportedImage("the colours of the palette are of 16 bits, wanted 8; save the image as RGB")


def _check_segments(page: tifffile.TiffPage, wanted: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and byte counts of the strips or tiles. UnreadableImage: some are missing."""
    name = "tile" if page.is_tiled else "strip"
    offsets = tuple(map(operator.index, page.dataoffsets))
    counts = tuple(map(operator.index, page.databytecounts))
    there = sum(offset > 0 and count > 0 for offset, count in zip(offsets, counts, strict=False))
    if not there == len(offsets) == len(counts) == wanted:
        raise UnreadableImage(f"the page has {there} of its {wanted} {name}s")
    return offsets, counts


def _integer(page: tifffile.TiffPage, name: str) -> int:
    value = getattr(page, name)
    if not isinstance(value, int | np.integer):
        raise UnreadableImage(f"the header is damaged: {name} is {value!r:.40}")
    return int(value)
