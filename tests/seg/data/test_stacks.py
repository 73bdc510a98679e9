import hashlib
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from seg.data.images import ImageFiles, count_pages

RIPPLES = (128 + 90 * np.sin(np.add.outer(np.arange(70), np.arange(90)) / 9)).astype(np.uint8)


def write_pages(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", **options)
    return file.getvalue()


class Counted(io.FileIO):
    """A file that counts how often, and how much, is read of it."""

    reads, taken = 0, 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size) or b""
        self.reads, self.taken = self.reads + 1, self.taken + len(data)
        return data


def test_reading_the_pages_of_a_stack_is_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the pages take twice the reads, and one page takes no more of a longer stack."""
    costs = {}
    for count in (200, 400):
        data = write_pages(np.zeros((count, 64, 64), np.uint8), contiguous=False)
        path = tmp_path / f"{count}.tif"
        path.write_bytes(data)
        files, opened = ImageFiles(), []
        monkeypatch.setattr("seg.data.images.open_file", lambda path, seen=opened: _counted(path, seen))
        for page in range(count):
            assert files.decode(path, page).shape == (64, 64)
        assert files.open(path, 0).sha256 == files.open(path, 7).sha256
        assert len(opened) == 2, "once for the pages, once for the hash"
        costs[count] = opened[0].reads, opened[0].taken
    assert costs[400][0] < 2.1 * costs[200][0]
    assert costs[400][1] < 2.1 * costs[200][1]


def _counted(path: Path, seen: list[Counted]) -> Any:
    seen.append(Counted(path))
    return seen[-1]


def test_the_hash_of_a_page_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    path.write_bytes(write_pages(np.zeros((3, 8, 8), np.uint8)))
    stack = ImageFiles().open(path, 1)
    assert stack.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (stack.num_bytes, stack.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_no_other_file_that_a_tiff_names_is_opened(tmp_path: Path) -> None:
    """OME-TIFF spreads a series over files and names them in its XML: only the one asked for is read."""
    other = tmp_path / "other.ome.tif"
    other.write_bytes(write_pages(RIPPLES))
    xml = (
        '<?xml version="1.0"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="90" SizeY="70" '
        'SizeZ="2" SizeC="1" SizeT="1"><TiffData IFD="0" FirstZ="0" PlaneCount="1">'
        '<UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData><TiffData IFD="0" FirstZ="1" PlaneCount="1">'
        f'<UUID FileName="{other.name}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    path = tmp_path / "a.ome.tif"
    path.write_bytes(write_pages(RIPPLES, description=xml, metadata=None))
    opened: list[str] = []
    sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == "open" else None)
    assert count_pages(path) == 1
    np.testing.assert_array_equal(ImageFiles().decode(path), RIPPLES)
    np.testing.assert_array_equal(ImageFiles().decode(path, 0), RIPPLES)
    assert str(path) in opened
    assert not any(os.fspath(other) in name for name in opened)


def test_threads_that_share_a_stack_get_each_its_own_page(tmp_path: Path) -> None:
    """tifffile reads the fields of a page when they are asked for, also while another thread reads pixels."""
    path = tmp_path / "s.tif"
    pages = np.stack([np.roll(RIPPLES, shift) for shift in range(40)])
    path.write_bytes(write_pages(pages, rowsperstrip=3, compression="zlib"))
    files = ImageFiles()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda page: files.decode(path, page), [*range(40)] * 5))
    assert all((image == pages[k % 40]).all() for k, image in enumerate(found))
