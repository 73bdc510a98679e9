"""Whether all that a scoring would write has a place in its folder: names, paths, what is there already."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np

from seg.data.pairing import label_stem
from seg.errors import RequestError
from seg.storage import Place

NAME_BYTES, PATH_BYTES = 255, 4095
"""Of a file's name, and of its whole path, at most, in all file systems in use (NAME_MAX, PATH_MAX)."""
KEY_BYTES = 1024
"""Of an object's name at most, in S3, Google's and Azure's stores."""
TEMPORARY_BYTES, SHORTENED_BYTES = 15, 200
"""What a name has besides while it is written, and to how much it is cut for that (`seg.files.replacing`)."""
OWN_FOLDERS = ("ledger", "objects", "quarantine", "masks", "overlays", "backgrounds", "inflight", "exports")
SHOWN = 3

NameFile = Callable[[str], str]
"""The file that an image gets, relative to a folder of files of one ending."""


def mask_name(image: str) -> str:
    """The file of an image's mask, relative to masks/."""
    return f"{image}.png"


def export_name(kind: Literal["yolo", "masks"], image: str) -> str:
    """The file of an image's objects or of its mask, relative to exports/KIND/: as a label's in training."""
    return label_stem(image) + (".txt" if kind == "yolo" else ".png")


def refuse_links(out: Place) -> None:
    """RequestError: a folder of ours in a scores folder is a link, so that it lies elsewhere, or a file."""
    for name in OWN_FOLDERS if out.is_local else ():
        folder = out.local(name)
        if folder.is_symlink():
            raise RequestError(
                f"`out={out}`: {name} is a link, and what is written there would land elsewhere; "
                "put a folder in its place, or give another `out`"
            )
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"`out={out}`: {name} is no folder; remove it, or give another `out`")


def check_masks(
    out: Place,
    images: Sequence[str],
    mend: str = "leave it out with `exclude`, or give `masks=none`",
    *,
    folder: str = "masks",
) -> None:
    """RequestError, naming images: a mask's name or path is too long, or is that of a folder of masks.

    folder: overlays, whose files have the same names.
    """
    if long := _long_names(images, mask_name):
        raise RequestError(
            f"archive: {_some(long)}: the name is longer than {NAME_BYTES - len('.png')} bytes and leaves no "
            f"room for its mask's .png; rename the file, {mend}"
        )
    _check_paths(out, folder, images, mask_name, mend)
    if clashes := find_clashes(images, mask_name, ".png"):
        raise RequestError(_describe_clashes(clashes, "mask", mask_name, mend))


def check_exports(out: Place, images: Sequence[str], kind: Literal["yolo", "masks"]) -> None:
    """The same of the files of an export; among those of `yolo` is classes.txt."""
    mend, name_file = "leave it out with `exclude`, or `export=coco`", partial(export_name, kind)
    what, others = ("YOLO file", ("classes.txt",)) if kind == "yolo" else ("mask", ())
    if long := _long_names(images, name_file):
        raise RequestError(
            f"archive: {_some(long)}: the name of its {what} would be longer than {NAME_BYTES} bytes; "
            f"rename the file, {mend}"
        )
    _check_paths(out, f"exports/{kind}", images, name_file, mend)
    if clashes := find_clashes(images, name_file, ".txt" if kind == "yolo" else ".png", others=others):
        raise RequestError(_describe_clashes(clashes, what, name_file, mend))


def find_clashes(
    images: Sequence[str], name_file: NameFile, ending: str, *, others: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Pairs of an image whose file has the name of a folder, and the first image in that folder.

    others: names of files besides, which stand for themselves in the pairs. Of a million images whose folders
    all end so, hashes are held and not names; where no folder does, which is usual, nothing is.
    """
    folders = np.unique(np.fromiter(map(hash, _folders_like(images, ending)), np.int64))
    if not len(folders):
        return []
    files = np.fromiter(map(hash, chain(others, map(name_file, images))), np.int64)
    shared = set(np.intersect1d(files, folders).tolist())
    first: dict[str, str] = {}
    for image in images if shared else ():
        for folder in _folders_like((image,), ending):
            if hash(folder) in shared:
                first.setdefault(folder, image)
    if not first:
        return []
    named = chain(((other, other) for other in others), ((image, name_file(image)) for image in images))
    return [(image, first[file]) for image, file in named if file in first]


def _folders_like(images: Iterable[str], ending: str) -> Iterator[str]:
    """The folders of images, at any depth, whose names end so; some more than once."""
    for image in images:
        at = image.find(f"{ending}/")
        while at >= 0:
            yield image[: at + len(ending)]
            at = image.find(f"{ending}/", at + 1)


def _long_names(images: Iterable[str], name_file: NameFile) -> list[str]:
    return [image for image in images if _name_bytes(name_file(image)) > NAME_BYTES]


def _name_bytes(file: str) -> int:
    return len(os.fsencode(file.rpartition("/")[2]))


def _check_paths(out: Place, folder: str, images: Iterable[str], name_file: NameFile, mend: str) -> None:
    limit = PATH_BYTES if out.is_local else KEY_BYTES
    where = str(out.local(folder)) if out.is_local else out.below(folder).path.partition("/")[2]
    measure = partial(_path_bytes, len(os.fsencode(where)) + 1, temporary=out.is_local)
    long = [image for image in images if measure(name_file(image)) > limit]
    if long:
        raise RequestError(
            f"`out={out}`: {_some(long)}: the path of its file in {folder}/ would be "
            f"{measure(name_file(long[0]))} bytes long, over the limit of {limit}; give a shorter `out`, "
            f"{mend}"
        )


def _path_bytes(before: int, file: str, *, temporary: bool) -> int:
    """Length of a file's longest path: its own, or that under which it is written.

    before: of the folder with its slash.
    """
    total, name = len(os.fsencode(file)), _name_bytes(file)
    while_written = min(name, SHORTENED_BYTES) + TEMPORARY_BYTES if temporary else 0
    return before + total + max(0, while_written - name)


def _describe_clashes(clashes: list[tuple[str, str]], what: str, name_file: NameFile, mend: str) -> str:
    image, inside = clashes[0]
    more = (
        f" (so would {len(clashes) - 1} more: {_some([one for one, _ in clashes[1:]])})"
        if clashes[1:]
        else ""
    )
    file = image if image == "classes.txt" else name_file(image)
    whose = f"the {what} of {image}" if file != image else "the list of classes"
    return (
        f"archive: {whose}, {file}, would have the name of the folder in which {inside} is{more}; "
        f"rename one of the two, {mend}"
    )


def _some(images: Sequence[str]) -> str:
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return ", ".join(images[:SHOWN]) + more
