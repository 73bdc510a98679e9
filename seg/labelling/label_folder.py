"""Labelling of a folder from its files to its window."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from seg.data.images import Pixels, decode_image, read_file, split_page
from seg.data.listing import list_images
from seg.errors import RequestError, UnreadableImage
from seg.labelling.display import require_display
from seg.labelling.label_files import LabelFiles, choose_classes, find_folders
from seg.labelling.labelling import Labelling
from seg.labelling.window import LabelWindow

SMALLEST_WINDOW_PX = 200


def label_folder(
    folder: Path,
    *,
    out: Path | None,
    classes: tuple[str, ...],
    model: Path | None,
    min_object_px: int,
    window_px: tuple[int, int],
    leave: Callable[[], None],
) -> str:
    """Let the user label the images of a folder in a window; what there is to say of it afterwards.

    leave: ends the process at once (see `LabelWindow`). RequestError: no image, labels or classes that do
    not fit, no model file, no display, a folder that cannot be written.
    """
    archive, root = find_folders(folder, out)
    images = list_images(archive).images
    if not images:
        raise RequestError(f"folder {archive} holds no image; give the folder of the images")
    if min(window_px) < SMALLEST_WINDOW_PX:
        raise RequestError(f"--window-px is {window_px[0]} {window_px[1]}; give {SMALLEST_WINDOW_PX} or more")
    require_display()
    proposer = None
    if model is not None:
        from seg.labelling.proposals import Proposer  # here: torch takes seconds to load

        proposer = Proposer(model, min_object_px)
    names = choose_classes(root, classes, proposer and proposer.card.classes)
    labelling = Labelling(images, LabelFiles(root, names))
    done = f"of {len(images)} images labelled; {labelling.files.boxes}"
    print(f"label: {len(labelling.labelled)} {done}", flush=True)
    if (root / "masks").is_dir():
        print(f"label: {root} has masks/ too, which training uses in place of boxes/", file=sys.stderr)
    window = LabelWindow(
        labelling, lambda image: read_image(archive, image), proposer and proposer.propose_boxes, leave=leave
    )
    window.run(window_px)
    return f"label: {len(labelling.labelled)} {done}"


def read_image(archive: Path, image: str) -> Pixels:
    """Pixels of an archive's image, as stored. ImageError: they cannot be had."""
    name, page = split_page(image)
    try:
        data = read_file(archive / name).data
    except OSError as error:
        raise UnreadableImage(f"it cannot be read: {os.strerror(error.errno or 0)}") from None
    return decode_image(data, page)
