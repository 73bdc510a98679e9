"""Old label files, dictionaries in a pickle, as label files of ours: boxes as JSON, masks as PNG.

roi.pkl, of interferograms: boxes that cv2.selectROI returned, by file name. segmentation_train.npy, of
drinks: one-hot masks by file name.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.convert import folder_in_making, is_converted, relative_name
from seg.data.labels import IGNORE, encode_mask
from seg.data.layout import label_stem
from seg.data.listing import list_images
from seg.data.pickled import Array, load_pickled
from seg.errors import RequestError
from seg.files import write_bytes
from seg.progress import progress


def convert_labels(file: Path, out: Path, images: Path | None = None) -> int:
    """Write every label of an old file into the folder `out`; returns how many, 0 where they were there.

    images: the folder of the images, where the file gives their boxes without names, or the images have been
    saved as NAME.npy. RequestError, with nothing written: what `load_pickled` refuses; another shape than
    docs/formats.md says; names that leave `out`, or that are not in `images`; `out` holds other files.
    """
    if not file.is_file():
        raise RequestError(f"{file} is not there; give a roi.pkl or a segmentation_*.npy")
    if images is not None and out.resolve().is_relative_to(images.resolve()):
        raise RequestError(f"{out} is inside {images}; give a folder outside, as masks are images too")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    record = {"labels": digest, "images": None if images is None else str(images.resolve())}
    if is_converted(out, record):
        return 0
    labels = read_labels(file, images)
    with folder_in_making(out, record) as folder, progress("writing labels", len(labels)) as advance:
        for name, content in labels.items():
            write_bytes(folder / name, content)
            advance()
    return len(labels)


def read_labels(file: Path, images: Path | None = None) -> dict[str, bytes]:
    """Every label of an old file: its path in a label folder, and its content. See `convert_labels`."""
    entries = _name_entries(load_pickled(file, _shrink), file, images)
    labels: dict[str, bytes] = {}
    made_of: dict[str, str] = {}
    for image, value in entries:
        where = f"{file}, {image}"
        label, content = _make_label(image, value, where)
        if label in labels:
            raise RequestError(f"{where}: {made_of[label]} has the same label file, {label}; rename one")
        labels[label], made_of[label] = content, image
    return labels


def _name_entries(loaded: Any, file: Path, images: Path | None) -> list[tuple[str, Any]]:
    """Pairs of an image's name and its value."""
    known = None if images is None else list_images(images).images
    if isinstance(loaded, list | tuple) and known is None:
        raise RequestError(
            f"{file} has {len(loaded)} entries without names; give --images DIR, the images in natural order"
        )
    if isinstance(loaded, list | tuple) and known is not None:
        if len(loaded) != len(known):
            raise RequestError(f"{file} has {len(loaded)} entries, but {images} has {len(known)} images")
        return list(zip(known, loaded, strict=True))
    if not isinstance(loaded, dict):
        raise RequestError(f"{file} holds a {type(loaded).__name__}, wanted a dictionary by file name")
    there = None if known is None else frozenset(known)
    return [(_find_image(name, there, file), value) for name, value in loaded.items()]


def _find_image(name: str, known: Collection[str] | None, file: Path) -> str:
    """The image that a name means: itself or, where the images are known, NAME.npy, as was saved."""
    plain = relative_name(name.replace("\\", "/"), str(file))  # Windows wrote the reference's
    if known is None or plain in known:
        return plain
    if f"{plain}.npy" not in known:
        raise RequestError(f"{file}: {plain} is none of the images; add it to --images, or leave that out")
    return f"{plain}.npy"


def _make_label(image: str, value: Any, where: str) -> tuple[str, bytes]:
    """The label's path beside its image's, and its content."""
    if isinstance(value, Array):
        value = value.value
    if isinstance(value, ValueError):
        raise RequestError(f"{where}: {value}")
    if isinstance(value, bytes):
        return f"{image}.png", value
    content = json.dumps({"boxes": _read_boxes(value, where)}) + "\n"
    return f"{label_stem(image)}.json", content.encode()


def _shrink(array: NDArray[Any]) -> Any:
    """What is kept of an array as it comes in: a one-hot mask's PNG, boxes as lists; else what is wrong."""
    if array.ndim == 3:
        try:
            return encode_mask(ids_of_one_hot(array))
        except ValueError as error:
            return error
    if array.ndim <= 2 and array.shape[-1:] == (4,):
        return array.tolist()
    return ValueError(f"an array of shape {array.shape} is neither boxes [N, 4] nor a one-hot mask [H, W, C]")


def ids_of_one_hot(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Class ids, uint8 [H, W], of an array [H, W, C] of zeros and a one for each pixel's class.

    ValueError: a pixel has no class, two, or another value; there are no pixels, or too many classes.
    """
    if not array.size or not 1 < array.shape[2] <= IGNORE:
        raise ValueError(f"a mask of shape {array.shape}, wanted pixels and 2 to {IGNORE} classes")
    ids = np.zeros(array.shape[:2], np.uint8)
    ones = np.zeros_like(ids)
    wrong = np.zeros(array.shape[:2], bool)
    for number in range(array.shape[2]):  # by class: 7x faster than argmax and sum over the short axis
        here = array[:, :, number] == 1
        wrong |= (array[:, :, number] != 0) != here
        ones += here
        ids[here] = number
    wrong |= ones != 1
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), array.shape[1])
        raise ValueError(
            f"the pixel at column {column}, row {row} is {array[row, column].tolist()}, not one-hot"
        )
    return ids


def _read_boxes(value: Any, where: str) -> list[list[float]]:
    """Boxes [x, y, w, h] of one image; those without area, from a cancelled cv2.selectROI, are left out."""
    boxes = [value] if _is_box(value) else _without_place(value)
    if not isinstance(boxes, list | tuple) or not all(_is_box(box) for box in boxes):
        raise RequestError(f"{where}: its value is no list of boxes (x, y, width, height)")
    if any(min(box[2:]) < 0 for box in boxes):
        raise RequestError(f"{where}: a box has a negative size")
    return [list(box) for box in boxes if min(box[2:]) > 0]


def _without_place(value: Any) -> Any:
    """The boxes of a pair (boxes, place), as the reference kept the place that it had cut an image at."""
    pair = isinstance(value, tuple) and len(value) == 2
    boxes = value[0] if pair and isinstance(value[0], list | Array) and not _is_box(value[1]) else value
    return boxes.value if isinstance(boxes, Array) else boxes


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) in (int, float) and np.isfinite(number) for number in value)
    )
