"""Pictures of a report: an image and its masks, small enough to embed, in colours that all can tell apart."""

import base64
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg.data.colours import ColourMask
from seg.data.images import ImageFiles, Pixels, read_from, split_page
from seg.data.labels import IGNORE, LabelDecoder, LabelMap, decode_label, decode_mask, open_label
from seg.data.preprocess import shrink_mask
from seg.errors import ImageError
from seg.figures import panels, plots
from seg.ledger.outcome import Scored
from seg.report.survey import Scores
from seg.storage import Place, as_place

LONG_SIDE_PX, OVERLAY_SIDE_PX = 480, 720
"""Of a panel, and of the one that is meant to be enlarged."""
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

    archive: ImageFiles
    labels: ImageFiles | None
    masks: Place
    classes: tuple[str, ...]
    label_map: LabelMap
    decoder: LabelDecoder | None = None
    """Reads masks of the labels that do not store ids."""


def picture_sources(scores: Scores) -> PictureSources | None:
    """The sources of a scores folder; None where masks were not written."""
    run = scores.run
    if run.masks == "none":
        return None
    return PictureSources(
        archive=ImageFiles(as_place(run.archive)),
        labels=ImageFiles(as_place(run.labels)) if run.labels else None,
        masks=scores.place.below("masks"),
        classes=run.classes,
        label_map=run.label_map,
        decoder=ColourMask(run.label_colours) if run.label_colours else None,
    )


def draw_panels(*scorings: tuple[PictureSources, Scored]) -> tuple[list[Picture], list[str]]:
    """Image, truth and prediction of an image, and a sentence for each that cannot be shown.

    Of one scoring also the overlay and the error; of two the predictions A and B, image and truth being those
    of the first.
    """
    (sources, row), notes = scorings[0], list[str]()
    image = _attempt("image", notes, lambda: _read_image(sources, row, notes))
    pictures = [] if image is None else [draw_image("image", image)]
    masks = {"truth": _attempt("label", notes, lambda: _read_truth(sources, row))}
    if len(scorings) == 1:
        masks["prediction"] = _attempt("mask", notes, lambda: _read_ids(sources, row))
    else:
        for letter, scoring in zip("AB", scorings, strict=True):
            masks[f"prediction {letter}"] = _attempt(f"mask of {letter}", notes, partial(_read_ids, *scoring))
    size, colours = shown_size(row.height, row.width), panels.class_colours(sources.classes)
    small = {caption: shrink_mask(mask, size) for caption, mask in masks.items() if mask is not None}
    predicted = masks.get("prediction")
    if image is not None and predicted is not None and image.shape[:2] == predicted.shape:
        pictures.append(draw_overlay(image, predicted, sources.classes))
    pictures += [draw_mask(caption, mask, colours) for caption, mask in small.items()]
    if small.keys() == {"truth", "prediction"}:
        pictures.append(draw_error(small["truth"], small["prediction"], sources.classes))
    return pictures, notes


def load_example(sources: PictureSources, row: Scored) -> tuple[plots.Example | None, list[str]]:
    """An image with its truth and prediction at its own size, and a sentence for each that cannot be shown.

    Without a truth all of it counts as ignored. None: image or mask cannot be shown.
    """
    notes = list[str]()
    pixels = _attempt("image", notes, lambda: _read_image(sources, row, notes))
    ids = _attempt("mask", notes, lambda: _read_ids(sources, row))
    truth = _attempt("label", notes, lambda: _read_truth(sources, row))
    if pixels is None or ids is None or pixels.shape[:2] != ids.shape:
        return None, notes
    return plots.Example(row.image, pixels, np.full_like(ids, IGNORE) if truth is None else truth, ids), notes


class _Changed(Exception):
    """A file is not the one that was scored."""


def _attempt(what: str, notes: list[str], read: Callable[[], Any]) -> Any:
    """What `read` gives; None, with a note, where the file is gone, damaged or another."""
    try:
        return read()
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]  # no number: a store
        notes.append(f"The {what} can no longer be read: {cause}.")
    except ImageError as error:
        notes.append(f"The {what} can no longer be read: {error}.")
    except _Changed:
        notes.append(f"The {what} is no longer the one that was counted, so it is not shown.")
    return None


def _read_image(sources: PictureSources, row: Scored, notes: list[str]) -> Pixels:
    name, page = split_page(row.image)
    file = sources.archive.open(name, page)
    if file.sha256 != row.sha256:
        notes.append("The image has changed since it was scored; this is its present state.")
    return file.decode(page)


def _read_truth(sources: PictureSources, row: Scored) -> NDArray[np.uint8] | None:
    if row.label_path is None or row.confusion is None or sources.labels is None:
        return None
    data, num_classes = open_label(sources.labels, row.label_path), len(sources.classes)
    size, where = (row.height, row.width), Path(row.label_path)
    truth = decode_label(data, where, size, sources.classes, sources.label_map, sources.decoder)
    counted = np.reshape(row.confusion, (num_classes, num_classes)).sum(1)
    return _same_counts(truth, counted)


def _read_ids(sources: PictureSources, row: Scored) -> NDArray[np.uint8]:
    ids = decode_mask(read_from(sources.masks, f"{row.image}.png").data)
    if ids.shape != (row.height, row.width) or ids.dtype != np.uint8:
        raise _Changed
    return _same_counts(ids.astype(np.uint8, copy=False), row.class_pixels)


def _same_counts(mask: NDArray[np.uint8], counted: Sequence[int]) -> NDArray[np.uint8]:
    found = np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(counted)]
    if not np.array_equal(found, counted):
        raise _Changed
    return mask


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a panel: the image's own, or with a long side of LONG_SIDE_PX."""
    return panels.fit_size(height, width, min(LONG_SIDE_PX, max(height, width)))


def draw_image(caption: str, pixels: Pixels) -> Picture:
    """An image of any depth as a JPEG, reduced by area, its contrast stretched over all channels alike."""
    size = shown_size(pixels.shape[0], pixels.shape[1])
    return _draw_jpeg(caption, panels.stretch(panels.resize(pixels, size)))


def draw_overlay(pixels: Pixels, ids: NDArray[np.uint8], classes: Sequence[str]) -> Picture:
    """The same of OVERLAY_SIDE_PX, with the objects of a mask, uint8 [H, W], outlined in their colours."""
    height, width = ids.shape
    size = panels.fit_size(height, width, min(OVERLAY_SIDE_PX, max(height, width)))
    return _draw_jpeg("overlay", panels.show_overlay(panels.show_pixels(pixels, size), ids, classes))


def _draw_jpeg(caption: str, shown: NDArray[np.uint8]) -> Picture:
    """Of 8 bits, gray or RGB."""
    height, width = shown.shape[:2]
    stored = cv2.cvtColor(shown, cv2.COLOR_RGB2BGR) if shown.ndim == 3 else shown
    encoded, data = cv2.imencode(".jpg", stored, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    assert encoded, "OpenCV encodes every 8-bit image"
    return Picture(caption, _data_uri("image/jpeg", data.tobytes()), width, height)


def draw_mask(caption: str, mask: NDArray[np.uint8], colours: Sequence[str]) -> Picture:
    """A mask, uint8 [H, W], as a PNG in its classes' colours; 255 in the gray of ignored pixels."""
    codes = np.minimum(mask, len(colours)).astype(np.uint8)
    return _draw_codes(caption, codes, [*colours, panels.IGNORED], clear=None)


def draw_error(truth: NDArray[np.uint8], ids: NDArray[np.uint8], classes: Sequence[str]) -> Picture:
    """Where prediction and truth differ, by `error_legend`; what is right is clear, what is ignored gray."""
    return _draw_codes(
        "error", panels.classify_errors(truth, ids, classes), panels.ERROR_COLOURS, clear=panels.Kind.RIGHT
    )


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
