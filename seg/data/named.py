"""Images that somebody names one by one: files, patterns, pages of a stack."""

import glob
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from seg.data.images import EXTENSIONS, count_pages, split_page
from seg.data.listing import Listing, ending_of, is_text, natural_key
from seg.errors import RequestError
from seg.words import plural

SHOWN = 3


def list_named(words: Sequence[str], archive: Path | None = None) -> tuple[Listing, Path]:
    """The images that words name, each once, in their order, and the folder from which their names count.

    words: files, or shell patterns (`**` is any folders); of a TIFF's pages one, 'a.tif#2', or all, 'a.tif'.
    archive: that folder; None: the one that they have in common.
    RequestError: a word names no image of ours, or one outside the archive, or whose name is no UTF-8.
    """
    if not words:
        raise RequestError("name an image at least, or a pattern in quotes")
    files = list(dict.fromkeys(file for word in words for file in _expand(word)))
    folders = [str(Path(file).parent) for file in files]
    root = Path(os.path.commonpath(folders) if archive is None else _absolute(str(archive)))
    for file in files:
        if not Path(file).is_relative_to(root):
            raise RequestError(f"`archive={archive}` does not hold {file}; give a folder above all images")
        if not is_text(file):
            raise RequestError(f"the name {file!a} is no UTF-8; rename the file")
    found = [Path(split_page(file)[0]).stat() for file in files]
    listing = Listing(
        [Path(file).relative_to(root).as_posix() for file in files],
        {},
        np.array([one.st_size for one in found], np.int64),
        np.array([one.st_mtime_ns for one in found], np.int64),
    )
    return listing, root


def _absolute(name: str) -> str:
    return os.path.abspath(name)  # noqa: PTH100  # a link keeps its name and place, as in a listing


def _expand(word: str) -> Iterator[str]:
    """Absolute paths of the images that a word names."""
    name, page = split_page(word)
    path = Path(_absolute(name))
    if path.is_dir():
        raise RequestError(
            f"{word} is a folder; name its images, '{name.rstrip('/')}/*.png', or score it: jobs/score.py"
        )
    found = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207  # no hidden
    files = [file for file in found if ending_of(file) in EXTENSIONS and Path(file).is_file()]
    if not files:
        raise RequestError(f"{word} is no image: {_describe_absence(path)}")
    for file in sorted(files, key=natural_key):
        pages = count_pages(Path(file))
        if page is not None and page >= pages:
            raise RequestError(
                f"{file} has no page {page}: its {plural(pages, 'page')} count from 0; try {file}#{pages - 1}"
            )
        if pages == 1:
            yield file
        else:
            yield from (f"{file}#{number}" for number in (range(pages) if page is None else (page,)))


def _describe_absence(path: Path) -> str:
    """What there is in place of an image that is not there, the nearest names first."""
    folder, wanted = path.parent, path.name
    if path.is_file():
        return f"its name ends in none of {', '.join(sorted(EXTENSIONS))}"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = [entry.name for entry in folder.iterdir() if ending_of(entry.name) in EXTENSIONS]
    near = get_close_matches(wanted, names, SHOWN) or sorted(names, key=natural_key)[:SHOWN]
    return f"the nearest in {folder}: {' or '.join(near)}" if near else f"{folder} holds none"
