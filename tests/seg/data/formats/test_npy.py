import io
import os
from pathlib import Path

import numpy as np
import pytest

from seg.data.images import MAX_FILE_BYTES, decode_image, read_file, read_from, read_header
from seg.errors import ImageError, TooLargeImage, UnreadableImage
from seg.storage import as_place


def announce(text: str) -> bytes:
    """A file of NPY's version 1 whose header is this text, with some bytes behind."""
    header = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 'x')}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (3, None)}",
        "{'descr': [('a', 'b', 'c', 'd')], 'fortran_order': False, 'shape': (3, 3)}",
        "{'descr': {}, 'fortran_order': False, 'shape': (3, 3)}",
        "{'descr': '|u1', 'fortran_order': 3, 'shape': (3, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1e9, 3)}",
        "{'descr': '<i99999999999999999999', 'fortran_order': False, 'shape': (3, 3)}",
        "{1: 2}",
        "[1, 2",
        "\0" * 20,
        "'" * 40,
        "(" * 100,
        "-" * 100 + "1",
    ],
)
def test_a_header_of_nonsense_is_an_image_error(header: str) -> None:
    for read in (decode_image, lambda data: read_header(io.BytesIO(data))):
        with pytest.raises(ImageError):
            read(announce(header))


def test_sides_below_zero_are_no_image() -> None:
    with pytest.raises(ImageError):
        decode_image(announce("{'descr': '|u1', 'fortran_order': False, 'shape': (-3, -3)}"))


def test_no_flip_of_a_bit_raises_anything_but_an_image_error() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), np.uint16))
    data = file.getvalue()
    for place in range(128):
        for bit in range(8):
            copy = bytearray(data)
            copy[place] ^= 1 << bit
            try:
                decode_image(bytes(copy))
            except ImageError:
                continue
    with pytest.raises(UnreadableImage, match="no format version 9"):
        decode_image(b"\x93NUMPY\x09" + data[7:])
    with pytest.raises(UnreadableImage, match=r"no format version 1\.32"):
        decode_image(b"\x93NUMPY\x01\x20" + data[8:])


def test_a_sparse_file_of_200_gigabytes_is_too_large_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    path.touch()
    os.truncate(path, 200 * 10**9)
    for read in (lambda: read_file(path), lambda: read_from(as_place(tmp_path), "huge.npy")):
        with pytest.raises(TooLargeImage, match=f"200000000000 bytes, over the limit of {MAX_FILE_BYTES}"):
            read()
