"""Old label files, dictionaries in a pickle, as label files of ours: boxes as JSON, masks as PNG.

roi.pkl, of interferograms: boxes that cv2.selectROI returned, by file name. segmentation_train.npy, of
drinks: one-hot masks by file name.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from math import prod
from pathlib import Path
from threading import Timer
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seg.data import pickled
from seg.data.convert import LabelsRecord, folder_in_making, is_converted, relative_name
from seg.data.formats import npy
from seg.data.labels import IGNORE, encode_mask
from seg.data.listing import list_images
from seg.data.pairing import label_stem
from seg.data.splits import file_sha256
from seg.errors import ImageError, RequestError
from seg.files import write_bytes
from seg.progress import progress

LINE_BYTES = 2**20
"""Of an answer's line at most, beside LINE_BYTES_FOR_ONE for each byte of the pickle."""
LINE_BYTES_FOR_ONE = 64
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, EOFError, MemoryError, RecursionError)
"""What an answer that means nothing can raise."""
OnArray = Callable[[NDArray[Any]], Any]
"""Makes a value of each array of numbers as it is read; the array itself is not kept."""


def convert_labels(file: Path, out: Path, images: Path | None = None) -> int:
    """Write every label of an old file into the folder `out`; returns how many, 0 where they were there.

    images: the folder of the images, where the file gives their boxes without names, or the images have been
    saved as NAME.npy. RequestError, with nothing written: what `load_pickled` refuses; another shape than
    docs/reference/data.md says; names that leave `out`, or that are not in `images`; `out` holds other files.
    """
    if not file.is_file():
        raise RequestError(f"{file} is not there; give a roi.pkl or a segmentation_*.npy")
    if images is not None and out.resolve().is_relative_to(images.resolve()):
        raise RequestError(f"{out} is inside {images}; give a folder outside, as masks are images too")
    record = LabelsRecord(file_sha256(file), None if images is None else str(images.resolve()))
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


def load_pickled(path: Path, on_array: OnArray) -> Any:
    """The value in a pickle, or in a .npy file of one object: dict, list, tuple, str, number, None.

    Read by a process of its own, without numpy (pickled.py). In place of an array of numbers stands what
    `on_array` made of it; keys of a dict are strings. RequestError: a name that is not in `pickled.NAMES`,
    named, with nothing run; other values; a file that is cut short or no pickle.
    """
    try:
        with path.open("rb") as file:
            is_npy = file.read(len(npy.MAGIC)) == npy.MAGIC
            file.seek(0)
            array = npy.parse(file) if is_npy else None
            if array is not None and (array.shape or array.dtype != np.dtype(object)):
                raise pickled.Refused(f"holds an array of {array.dtype} {array.shape}, not one dictionary")
            return _ask_reader(file, on_array)
    except pickled.Refused as error:
        raise RequestError(f"{path} {error}; nothing in it was run") from None
    except (ImageError, *DAMAGE) as error:
        what = str(error)[:200]
        raise RequestError(f"{path} is no pickle of plain values and arrays, or damaged: {what}") from None


def _ask_reader(file: BinaryIO, on_array: OnArray) -> Any:
    """What the process makes of the pickle at the file's position. EOFError: it came to an end over it."""
    size = os.fstat(file.fileno()).st_size
    os.lseek(file.fileno(), file.tell(), os.SEEK_SET)  # it shares the place, not what was read ahead
    command = [sys.executable, "-IS", pickled.__file__]
    environment = {name: os.environ[name] for name in {"LD_LIBRARY_PATH"} & os.environ.keys()}  # no keys
    with subprocess.Popen(
        command, env=environment, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as reader:
        assert reader.stdout is not None
        timer = Timer(pickled.seconds_for(size), reader.kill)
        timer.start()
        try:
            return read_answers(reader.stdout, size, on_array)
        except EOFError:
            status = reader.wait()
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            raise EOFError(f"the process that read it ended with {how}") from None
        finally:
            timer.cancel()
            reader.kill()


def read_answers(stream: IO[bytes], size: int, on_array: OnArray) -> Any:
    """The value that the process tells of a pickle of `size` bytes: its answers may be anybody's.

    Refused: the pickle wants more than we do. EOFError: there is no last answer. As of DAMAGE: the pickle has
    other values, or its answers are odd.
    """
    values: list[Any] = []
    longest, left = LINE_BYTES + LINE_BYTES_FOR_ONE * size, size
    while line := stream.readline(longest):
        ((kind, said),) = json.loads(line).items()
        if kind == "value":
            return _from_plain(said, values)
        if kind != "array":
            raise pickled.Refused(said) if kind == "refused" else ValueError(said)
        left -= said["bytes"]  # so that there is an end to bytes that a pickle refers to again and again
        values.append(_take_array(said, stream, left, on_array))
    raise EOFError("no answer")


def _take_array(said: Any, stream: IO[bytes], left: int, on_array: OnArray) -> Any:
    """What `on_array` makes of the array that follows; of a single number that number.

    ValueError: another kind than boolean, integer or float; too few bytes, or too many.
    """
    code, order, shape = said["code"], said["order"], said["shape"]
    if not re.fullmatch("b1|[iu][1248]|f[248]", code) or order not in ("<", ">", "=", "|"):
        raise ValueError(f"an array of dtype {code!r}, not of numbers")
    dtype = np.dtype(code).newbyteorder(order)
    if said["bytes"] != prod(shape or ()) * dtype.itemsize or left < 0:
        raise ValueError(f"an array of {shape} with {said['bytes']} bytes")
    content = stream.read(said["bytes"])
    if shape is None:
        return np.frombuffer(content, dtype).item()
    return on_array(np.ndarray(shape, dtype, content, order="F" if said["by_columns"] else "C"))


def _from_plain(value: Any, arrays: list[Any]) -> Any:
    """The value that `pickled.to_plain` took apart, with its arrays in their places."""
    if isinstance(value, list):
        return [_from_plain(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "array":
        return arrays[held]
    if kind == "tuple":
        return tuple(_from_plain(item, arrays) for item in held)
    return {key: _from_plain(item, arrays) for key, item in held.items()}


def _name_entries(loaded: Any, file: Path, images: Path | None) -> list[tuple[str, Any]]:
    """Pairs of an image's name and its value."""
    known = None if images is None else list_images(images).images
    if isinstance(loaded, list | tuple) and known is None:
        raise RequestError(
            f"{file} has {len(loaded)} entries without names; give `images=DIR`, the images in natural order"
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
        raise RequestError(f"{file}: {plain} is none of the images; add it to `images`, or leave that out")
    return f"{plain}.npy"


def _make_label(image: str, value: Any, where: str) -> tuple[str, bytes]:
    """The label's path beside its image's, and its content."""
    if isinstance(value, ValueError):
        raise RequestError(f"{where}: {value}")
    if isinstance(value, bytes):
        return f"{image}.png", value
    content = json.dumps({"boxes": _read_boxes(value, where)}) + "\n"
    return f"{label_stem(image)}.json", content.encode()


def _shrink(array: NDArray[Any]) -> Any:
    """What is kept of an array as it comes in: a one-hot mask's PNG, boxes as such; else what is wrong."""
    if array.ndim == 3:
        try:
            return encode_mask(ids_of_one_hot(array))
        except ValueError as error:
            return error
    if array.ndim <= 2 and array.shape[-1:] == (4,):
        return array
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
    value = value.tolist() if isinstance(value, np.ndarray) else value
    boxes = [value] if _is_box(value) else _without_place(value)
    if not isinstance(boxes, list | tuple) or not all(_is_box(box) for box in boxes):
        raise RequestError(f"{where}: its value is no list of boxes (x, y, width, height)")
    if any(min(box[2:]) < 0 for box in boxes):
        raise RequestError(f"{where}: a box has a negative size")
    return [list(box) for box in boxes if min(box[2:]) > 0]


def _without_place(value: Any) -> Any:
    """The boxes of a pair (boxes, place), as the reference kept the place that it had cut an image at."""
    pair = isinstance(value, tuple) and len(value) == 2
    boxes = value[0] if pair and isinstance(value[0], list | np.ndarray) and not _is_box(value[1]) else value
    return boxes.tolist() if isinstance(boxes, np.ndarray) else boxes


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) in (int, float) and np.isfinite(number) for number in value)
    )
