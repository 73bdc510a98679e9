"""Which files of an archive are images, in natural order, and which were left aside."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from seg.data.images import EXTENSIONS, count_pages, split_page
from seg.errors import RequestError


@dataclass(frozen=True, slots=True)
class Listing:
    """An archive's images, relative to it with '/', in natural order; and what was ignored, by extension."""

    images: list[str]
    ignored: dict[str, int]


def natural_key(name: str) -> list[str | tuple[int, str]]:
    """Sort key under which digit runs compare as numbers: frame-9 before frame-10."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [(int(part), part) if place % 2 else part for place, part in enumerate(parts)]


def list_images(archive: Path, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Listing:
    """List the images of an archive (docs/formats.md); the pages of a TIFF are 'a.tif#0', 'a.tif#1', ...

    include, exclude: shell patterns on the relative path; empty: everything, nothing.
    RequestError: no such folder, or one in it that cannot be listed.
    """
    if not archive.is_dir():
        raise RequestError(f"archive {archive} is no folder; give the folder that holds the images")
    images: list[str] = []
    ignored: Counter[str] = Counter()
    for path in _walk(archive, ignored):
        name = path.relative_to(archive).as_posix()
        wanted = not include or any(fnmatch(name, pattern) for pattern in include)
        if not wanted or any(fnmatch(name, pattern) for pattern in exclude):
            ignored[path.suffix.lower()] += 1
            continue
        pages = count_pages(path) if path.suffix.lower() in {".tif", ".tiff"} else 1
        images += [name] if pages == 1 else [f"{name}#{page}" for page in range(pages)]
    return Listing(sorted(images, key=natural_key), dict(sorted((+ignored).items())))


def _walk(archive: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Image files under `archive`; everything else is counted in `ignored`."""
    root = archive.resolve()
    for folder, folders, files in os.walk(archive, onerror=refuse_unlisted):
        visible = [name for name in folders if not name.startswith(".")]
        ignored["(link)"] += sum(Path(folder, name).is_symlink() for name in visible)
        folders[:] = visible
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                ignored["(hidden)"] += 1
            elif path.suffix.lower() not in EXTENSIONS:
                ignored[path.suffix.lower() or "(none)"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(root):
                ignored["(link)"] += 1
            else:
                yield path


def refuse_unlisted(error: OSError) -> None:
    """What os.walk calls for a folder that it cannot list, and would else leave out without a word."""
    raise RequestError(f"folder {error.filename} cannot be listed: {error.strerror}; mend its permissions")


def sequence_of(image: str, pattern: str = "") -> str:
    """The sequence an image belongs to: its folder, or its file where it is a page of one.

    pattern: a recipe's regular expression on the relative path; its first group, else its whole match, is the
    sequence. RequestError: it does not match.
    """
    if pattern:
        match = re.search(pattern, image)
        if match is None:
            raise RequestError(
                f"recipe: sequence {pattern!r} does not match {image}; mend the regular expression"
            )
        return next(found for found in (*match.groups()[:1], match[0]) if found is not None)
    file, page = split_page(image)
    return Path(image).parent.as_posix() if page is None else file
