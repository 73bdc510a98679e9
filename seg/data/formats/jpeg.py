"""JPEG by libjpeg-turbo through simplejpeg, which refuses damage that other readers paint over."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from seg.data.formats.header import UPRIGHT, Header, read_exif
from seg.errors import EmptyImage, ImageError, TruncatedImage, UnreadableImage, UnsupportedImage

MAGIC = b"\xff\xd8"
MAX_SCANS = 500
"""A progressive image of more is a program for burning time; libjpeg-turbo's own tools stop here too."""
STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a segment behind them (ITU-T T.81, table B.1)."""
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""SOF markers, of all kinds of coding (T.81, table B.1)."""
SCAN, END = b"\xff\xda", b"\xff\xd9"
APP1, EXIF = 0xE1, b"Exif\0\0"
MAX_GAP_BYTES = 1 << 16
"""Between two segments."""
DAMAGE = (ValueError, KeyError)
"""What simplejpeg raises: on what libjpeg-turbo says of the data, and on colours it has no name for."""


class _Frame(NamedTuple):
    header: Header
    first_scan: int
    """Where in the file it begins."""


def read_header(file: BinaryIO) -> Header:
    """What a JPEG holds, by the segments up to its first scan. ImageError: damaged, or no image of ours."""
    return _read_frame(file).header


def decode(data: bytes) -> NDArray[np.uint8]:
    """Pixels as libjpeg-turbo decodes them, uint8 [H, W] or RGB [H, W, 3], in stored orientation.

    ImageError: as of `read_header`; damage that libjpeg-turbo warns of; more than MAX_SCANS scans.
    """
    frame = _read_frame(io.BytesIO(data))
    scans = data.count(SCAN, frame.first_scan)  # in coded data no marker's bytes occur: T.81, B.1.1.5
    if scans > MAX_SCANS:
        raise UnsupportedImage(f"the JPEG has {scans} scans, over the limit of {MAX_SCANS}; save it anew")
    return decode_stream(data, frame.header.channels)


def decode_stream(data: bytes, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """The same for a stream whose header was looked at. TruncatedImage, UnreadableImage: it is damaged."""
    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB")
    except DAMAGE as error:
        raise _refusal(data, error) from None
    return pixels[:, :, 0] if channels == 1 else pixels


def _read_frame(file: BinaryIO) -> _Frame:
    """What the first frame's segment says, and where the first scan is."""
    frame: Header | None = None
    for marker, start, length in _walk_segments(file):
        if marker in FRAMES and frame is None:
            frame = _parse_frame(_read(file, min(length - 2, 6)), marker)
        if marker == SCAN[1]:
            if frame is None:
                raise UnreadableImage("the JPEG is damaged: it has a scan before its frame")
            file.seek(0)
            _check_sampling(_read(file, start + length) + END)
            return _Frame(frame, start - 2)
    raise AssertionError("the segments have no end but by a scan")


def read_orientation(file: BinaryIO) -> int:
    """How the camera was held, by the segments up to the first scan (EXIF 2.3, section 4.7.2).

    ImageError, struct.error: these are damaged.
    """
    for marker, _, length in _walk_segments(file):
        if marker == APP1 and file.read(len(EXIF)) == EXIF:
            return read_exif(io.BytesIO(file.read(max(0, length - 2 - len(EXIF)))))
        if marker == SCAN[1]:
            return UPRIGHT
    return UPRIGHT


def _walk_segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Marker, place and length of each segment (T.81, B.1.1); the file stands behind the length."""
    file.seek(len(MAGIC))
    while True:
        marker = _next_marker(file)
        if marker in STANDALONE:
            continue
        start = file.tell()
        length = int.from_bytes(_read(file, 2), "big")
        if length < 2:
            raise UnreadableImage(f"the JPEG is damaged: a segment of {length} bytes")
        yield marker, start, length
        file.seek(start + length)


def _check_sampling(head: bytes) -> None:
    """Ask libjpeg-turbo itself, which does not know every sampling of colours. head: up to the first scan."""
    try:
        simplejpeg.decode_jpeg_header(head)
    except DAMAGE as error:
        raise _refusal(head, error) from None


def _next_marker(file: BinaryIO) -> int:
    """The next marker's second byte; what stands between segments is passed over, as decoders do."""
    for _ in range(MAX_GAP_BYTES):
        if _read(file, 1) != b"\xff":
            continue
        while (found := _read(file, 1)[0]) == 0xFF:
            pass
        if found == END[1]:
            raise UnreadableImage("the JPEG is damaged: it ends before any scan")
        if found:
            return found
    raise UnreadableImage(f"the JPEG is damaged: {MAX_GAP_BYTES} bytes without a segment")


def _parse_frame(segment: bytes, marker: int) -> Header:
    if len(segment) < 6:
        raise UnreadableImage("the JPEG is damaged: its frame is cut")
    bits, height, width, samples = struct.unpack(">BHHB", segment)
    if bits != 8 or marker in {0xC3, 0xC7, 0xCB, 0xCF}:
        coding = "lossless coding" if bits == 8 else f"{bits} bits a sample"
        raise UnsupportedImage(f"the JPEG is of {coding}, wanted 8 bits and coding by cosines")
    if not height or not width:
        raise EmptyImage(f"the image is {width} x {height} pixels")
    if samples not in (1, 3):
        raise UnsupportedImage(f"the JPEG has {samples} channels (4 are CMYK), wanted 1 or 3 channels")
    return Header("JPEG", height, width, 1 if samples == 1 else 3, 8)


def _read(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise TruncatedImage("the file ends before its image does")
    return found


def _refusal(data: bytes, error: Exception) -> ImageError:
    if "subsampling" in str(error):
        return UnsupportedImage(f"the JPEG samples its colours in a way that we do not read: {error}")
    if END not in data[-16:]:
        return TruncatedImage(f"the file ends after {len(data)} bytes, before its image does")
    return UnreadableImage(f"the JPEG is damaged: {error}")
