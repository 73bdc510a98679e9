"""Labelling of a folder from its files to its window."""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from seg.data.images import ImageFiles, Pixels, split_page
from seg.data.listing import list_images
from seg.errors import RequestError, UnreadableImage
from seg.label.files import LabelFiles, choose_classes, find_folders
from seg.label.labelling import Labelling
from seg.label.window import LabelWindow, require_display
from seg.model_card import find_model_file
from seg.requests import LabelRequest
from seg.screen import say

if TYPE_CHECKING:
    from seg.label.proposals import Proposer

SMALLEST_WINDOW_PX = 200


def read_queue(file: Path, images: Sequence[str]) -> list[str]:
    """The images that column `image` of a CSV file names, each once, in its order.

    images: those there are. RequestError: the file cannot be read, has no such column or no row, or names an
    image that is not there.
    """
    named = _read_column(file)
    if not named:
        raise RequestError(f"`queue={file}` names no image; there is nothing to label")
    known = set(images)
    missing = {image: line for image, line in named.items() if image not in known}
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(
            f"`queue={file}`, line {min(missing.values())}{others}: the folder has no such image; "
            "give the folder that was scored"
        )
    return list(named)


def _read_column(file: Path) -> dict[str, int]:
    """Each image and the line, or the last of the lines, where it is named first; their order."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if "image" not in (rows.fieldnames or ()):
                raise RequestError(
                    f"`queue={file}` has no column named image; give the review.csv of a scoring"
                )
            named: dict[str, int] = {}
            for row in rows:
                if row["image"]:
                    named.setdefault(row["image"], rows.line_num)
            return named
    except (OSError, ValueError, csv.Error) as error:
        cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is no CSV in UTF-8"
        raise RequestError(
            f"`queue={file}` cannot be read ({cause}); give the review.csv of a scoring"
        ) from None


def label_folder(request: LabelRequest, leave: Callable[[], None]) -> None:
    """Let the user label the images of a folder in a window; say how many are labelled, before and after.

    leave: ends the process at once (see `LabelWindow`). RequestError: no image, labels or classes that do
    not fit, no model file, a queue of other images, no display, a folder that cannot be written.
    """
    archive, root = find_folders(request.folder, request.out)
    images = list_images(archive).images
    if not images:
        raise RequestError(f"folder {archive} holds no image; give the folder of the images")
    if min(request.window_px) < SMALLEST_WINDOW_PX:
        width, height = request.window_px
        raise RequestError(f"`window_px` is {width} {height}; give {SMALLEST_WINDOW_PX} or more")
    shown = images if request.queue is None else read_queue(request.queue, images)
    require_display()
    with TemporaryDirectory(prefix="fringe-label-") as kept:
        proposer = _load_proposer(request, archive, images, kept)
        files = LabelFiles(root, choose_classes(root, request.classes, proposer and proposer.card.classes))
        files.find_labelled(images)  # of those that are not shown too: two that share a label are refused
        labelling = Labelling(shown, files, request.boxes)
        _say_state(labelling)

        def leave_nothing() -> None:
            shutil.rmtree(kept, ignore_errors=True)
            leave()

        propose, read = proposer and proposer.propose, partial(read_image, archive)
        LabelWindow(labelling, read, propose, leave=leave_nothing).run(request.window_px)
    _say_state(labelling)


def _load_proposer(request: LabelRequest, archive: Path, images: list[str], kept: str) -> "Proposer | None":
    if request.model is None:
        return None
    from seg.label.proposals import Proposer  # here: torch takes seconds to load

    return Proposer(
        find_model_file(request.model),
        archive,
        images,
        read_image=partial(read_image, archive),
        backgrounds=Path(kept),
        min_object_px=request.min_object_px,
    )


def _say_state(labelling: Labelling) -> None:
    done, images = len(labelling.labelled), len(labelling.images)
    say(f"label: {done} of {images} images labelled; {labelling.files.root}", out=True)


def read_image(archive: Path, image: str) -> Pixels:
    """Pixels of an archive's image, as stored. ImageError: they cannot be had."""
    name, page = split_page(image)
    try:
        return ImageFiles().decode(archive / name, page)
    except OSError as error:
        raise UnreadableImage(f"it cannot be read: {os.strerror(error.errno or 0)}") from None
