"""Files of other projects: each is read right or refused with a reason, and its header says the same."""

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.foreign.png_truth import Damaged, NotJudged, decode_png
from tests.foreign.specification import OURS, is_ours
from tests.foreign.tiff_truth import Tiff, decode_tiff
from tests.foreign.verdicts import (
    CORPUS,
    DIFFERENT,
    FAILURES,
    NOT_JUDGED,
    Verdict,
    files_of,
    judge_files,
    table,
)

SAMPLE = 13
"""One file in so many is read by `make test`, all by `make faults`."""


@pytest.fixture
def foreign() -> list[Path]:
    """The files; without them the test is skipped, visibly."""
    if not CORPUS.is_dir():
        pytest.skip(f"files of other projects are not there: {CORPUS}")
    return files_of(CORPUS)


def check(verdicts: list[Verdict]) -> None:
    """Nobody crashed or hung, what differs is right by the specification, and headers keep promises."""
    assert [(one.file, one.kind, one.detail) for one in verdicts if one.kind in FAILURES] == []
    different = [one for one in verdicts if one.kind in (DIFFERENT, NOT_JUDGED) and not is_ours(one)]
    assert [(one.file, one.page, one.detail) for one in different] == []
    assert [(one.file, one.page, one.broken_promise) for one in verdicts if one.broken_promise] == []


def test_one_foreign_file_in_thirteen_is_read_right_or_refused(foreign: list[Path]) -> None:
    check(list(judge_files(path for path in foreign[::SAMPLE] if path.stat().st_size < 100_000)))


@pytest.mark.long
def test_every_foreign_file_is_read_right_or_refused(
    foreign: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = list(judge_files(foreign))
    with capsys.disabled():
        print(f"\n{len(foreign)} files\n{table(verdicts)}")
    check(verdicts)
    assert OURS.keys() <= {verdict.file for verdict in verdicts if verdict.kind == DIFFERENT}


def seq_checksum(pages: list[Tiff]) -> str:
    """CRC32 as image-tiff's names carry it, of all pages and their count.

    Of each page: number, size, colours, depth and samples. Samples of less than 8 bits are packed, those of
    more little-endian; where 0 is white, they are turned over.
    """
    check = 0
    for number, page in enumerate(pages):
        pixels = page.samples
        if page.photometric == 0:
            pixels = ((1 << page.bits) - 1 - pixels.astype(np.int64)).astype(pixels.dtype)
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        colours = {3: 2, 5: 5}.get(page.photometric, {1: 0, 3: 1, 4: 4}[channels])
        sample_type = 3 if page.bits > 8 else 1
        content = pixels.astype("<u2").tobytes() if page.bits > 8 else pack(pixels, page.bits)
        size = struct.pack("<III", number, pixels.shape[1], pixels.shape[0])
        for part in (size, bytes([colours, page.bits]), struct.pack("<H", sample_type), content):
            check = zlib.crc32(part, check)
    return f"{zlib.crc32(struct.pack('<I', len(pages)), check):08x}"


def pack(pixels: NDArray[np.generic], bits: int) -> bytes:
    rows = np.asarray(pixels, np.uint8).reshape(len(pixels), -1, 1)
    flags = (rows >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    return np.packbits(flags.reshape(len(pixels), -1), axis=1).tobytes()


def read_pages(data: bytes) -> list[Tiff]:
    pages: list[Tiff] = []
    while True:
        try:
            pages.append(decode_tiff(data, len(pages)))
        except Damaged as error:
            if "no page" in str(error):
                return pages
            raise


def test_our_slow_reader_of_tiff_gives_the_checksums_in_names(foreign: list[Path]) -> None:
    """Which are those of image-tiff: in Rust, by other people."""
    judged = 0
    for path in (path for path in foreign if "__seq__" in path.name and "planar" not in path.name):
        try:
            pages = read_pages(path.read_bytes())
        except NotJudged:
            continue
        assert path.stem.endswith(seq_checksum(pages)), path.name
        judged += 1
    assert judged >= 50


def test_our_slow_reader_of_png_refuses_what_pngsuite_calls_broken(foreign: list[Path]) -> None:
    broken = [path for path in foreign if re.search(r"__x[a-z0-9]{7}\.png$", path.name)]
    assert len(broken) >= 10
    for path in broken:
        with pytest.raises(Damaged):
            decode_png(path.read_bytes())


def test_our_slow_reader_of_png_agrees_with_opencv(foreign: list[Path]) -> None:
    """On gray and colours of 8 and 16 bits, which OpenCV gives as they are stored."""
    plain = [path for path in foreign if re.search(r"__bas[in][02][gc](08|16)\.png$", path.name)]
    assert len(plain) >= 10
    for path in plain:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        in_order = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
        np.testing.assert_array_equal(in_order, decode_png(path.read_bytes()).samples, err_msg=path.name)
