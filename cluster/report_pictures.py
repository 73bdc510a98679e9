"""Pictures of a report: an image and its masks, small enough to embed, in colours that all can tell apart."""

import base64
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg.data.images import Pixels, decode_image, read_file, split_page
from seg.data.labels import IGNORE, LabelMap, decode_label
from seg.data.preprocess import shrink_mask
from seg.errors import ImageError
from seg.palette import IGNORED, class_colours
from seg.panels import ERROR_COLOURS, Kind, classify_errors, stretch

LONG_SIDE_PX = 480
JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """One panel: what it shows, its pixels as a data URI, its size in pixels."""

    caption: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PictureSources:
    """Where the pictures of a run come from, and what its class ids mean."""

    archive: Path
    labels: Path | None
    masks: Path
    classes: tuple[str, ...]
    label_map: LabelMap


def draw_panels(sources: PictureSources, row: dict[str, Any]) -> tuple[list[Picture], list[str]]:
    """Image, truth, prediction and error of a ledger row, and a sentence for each that cannot be shown.

    row: image, sha256, height, width, label_path, confusion and class_pixels of the ledger.
    """
    notes: list[str] = []
    image = _attempt("image", notes, lambda: _read_image(sources, row, notes))
    truth = _attempt("label", notes, lambda: _read_truth(sources, row))
    ids = _attempt("mask", notes, lambda: _read_ids(sources, row))
    size = shown_size(row["height"], row["width"])
    colours = class_colours(sources.classes)
    pictures = [] if image is None else [draw_image("image", image)]
    masks = {"truth": truth, "prediction": ids}
    small = {caption: shrink_mask(mask, size) for caption, mask in masks.items() if mask is not None}
    pictures += [draw_mask(caption, mask, colours) for caption, mask in small.items()]
    if len(small) == 2:
        pictures.append(draw_error(small["truth"], small["prediction"], sources.classes))
    return pictures, notes


class _Changed(Exception):
    """A file is not the one that was scored."""


def _attempt(what: str, notes: list[str], read: Callable[[], Any]) -> Any:
    """What `read` gives; None, with a note, where the file is gone, damaged or another."""
    try:
        return read()
    except OSError as error:
        notes.append(f"The {what} can no longer be read: {os.strerror(error.errno or 0)}.")
    except ImageError as error:
        notes.append(f"The {what} can no longer be read: {error}.")
    except _Changed:
        notes.append(f"The {what} is no longer the one that was counted, so it is not shown.")
    return None


def _read_image(sources: PictureSources, row: dict[str, Any], notes: list[str]) -> Pixels:
    name, page = split_page(row["image"])
    file = read_file(sources.archive / name)
    if file.sha256 != row["sha256"]:
        notes.append("The image has changed since it was scored; this is its present state.")
    return decode_image(file.data, page)


def _read_truth(sources: PictureSources, row: dict[str, Any]) -> NDArray[np.uint8] | None:
    if row["label_path"] is None or sources.labels is None:
        return None
    path, num_classes = sources.labels / row["label_path"], len(sources.classes)
    size = (row["height"], row["width"])
    truth = decode_label(read_file(path).data, path, size, num_classes, sources.label_map)
    counted = np.reshape(row["confusion"], (num_classes, num_classes)).sum(1)
    return _same_counts(truth, counted)


def _read_ids(sources: PictureSources, row: dict[str, Any]) -> NDArray[np.uint8]:
    ids = decode_image(read_file(sources.masks / f"{row['image']}.png").data)
    if ids.shape != (row["height"], row["width"]) or ids.dtype != np.uint8:
        raise _Changed
    return _same_counts(ids.astype(np.uint8, copy=False), row["class_pixels"])


def _same_counts(mask: NDArray[np.uint8], counted: Sequence[int]) -> NDArray[np.uint8]:
    found = np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(counted)]
    if not np.array_equal(found, counted):
        raise _Changed
    return mask


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a panel: the image's own, or with a long side of LONG_SIDE_PX."""
    scale = min(1.0, LONG_SIDE_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def draw_image(caption: str, pixels: Pixels) -> Picture:
    """An image of any depth as a JPEG, reduced by area, its contrast stretched over all channels alike."""
    height, width = shown_size(pixels.shape[0], pixels.shape[1])
    shown = stretch(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))
    shown = cv2.cvtColor(shown, cv2.COLOR_RGB2BGR) if shown.ndim == 3 else shown
    encoded, data = cv2.imencode(".jpg", shown, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    assert encoded, "OpenCV encodes every 8-bit image"
    return Picture(caption, _data_uri("image/jpeg", data.tobytes()), width, height)


def draw_mask(caption: str, mask: NDArray[np.uint8], colours: Sequence[str]) -> Picture:
    """A mask, uint8 [H, W], as a PNG in its classes' colours; 255 in the gray of ignored pixels."""
    codes = np.minimum(mask, len(colours)).astype(np.uint8)
    return _draw_codes(caption, codes, [*colours, IGNORED], clear=None)


def draw_error(truth: NDArray[np.uint8], ids: NDArray[np.uint8], classes: Sequence[str]) -> Picture:
    """Where prediction and truth differ, by `error_legend`; what is right is clear, what is ignored gray."""
    return _draw_codes("error", classify_errors(truth, ids, classes), ERROR_COLOURS, clear=Kind.RIGHT)


def _draw_codes(
    caption: str, codes: NDArray[np.uint8], palette: Sequence[str], *, clear: int | None
) -> Picture:
    height, width = codes.shape
    picture = Image.frombytes("P", (width, height), np.ascontiguousarray(codes).tobytes())
    picture.putpalette(b"".join(bytes.fromhex(colour.removeprefix("#")) for colour in palette))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True, **({} if clear is None else {"transparency": clear}))
    return Picture(caption, _data_uri("image/png", file.getvalue()), width, height)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
