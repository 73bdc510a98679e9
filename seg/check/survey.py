"""What images and labels hold: each is read once, by threads; of many a sample that is spread evenly."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg.check.find import Found
from seg.data.formats.header import Header
from seg.data.images import ImageFiles, Pixels
from seg.data.labels import (
    IGNORE,
    LabelMap,
    decode_colours,
    decode_ids,
    decode_label,
    holds_mask,
    open_label,
)
from seg.data.layout import MAX_CLASSES, Sample
from seg.data.preprocess import Intensity, measure_intensity, shrink_mask
from seg.errors import ImageError, LabelMismatch
from seg.figures.panels import Panel, fit_size, show_pixels
from seg.progress import progress
from seg.threads import map_ahead

LOOKED_AT = 200
"""Images that are read, of more than these."""
SHOWN = 4
"""Of those with a label, that are kept for a picture."""
PICTURE_PX = 480
"""The longer side of one there."""
THUMBNAIL_PX = 32
"""Side of what images are compared by."""
THREADS = min(8, len(os.sched_getaffinity(0)) + 1)
"""That read: an image of 3072 x 3072 pixels, 16 bits and its mask are 100 MB with what is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """An image as it is stored."""

    header: Header
    orientation: int
    is_gray: bool
    """It has one channel, or three that are equal."""
    intensity: Intensity
    highest: int
    """Its largest value."""
    at_highest: float
    """Share of its pixels that have this value."""
    thumbnail: NDArray[np.float32]
    """The mean over its channels, by area, float32 [THUMBNAIL_PX, THUMBNAIL_PX]."""

    @property
    def is_constant(self) -> bool:
        """Whether all pixels have one value."""
        return self.at_highest == 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.header.height, self.header.width


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFacts:
    """A label as it is stored, before any label map; of an adapter's its ids."""

    pixels: NDArray[np.int64]
    """Of each id [256]."""
    ids: NDArray[np.uint8]
    """Of each of its N objects, 8-connected components of an id other than 0 [N]."""
    areas: NDArray[np.int64]
    """Pixels of each object [N]."""
    widths: NDArray[np.float64]
    """How wide each object is where it is widest, in pixels [N]: a circle's diameter, a line's thickness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """An image and its label as they were read, or why they could not be."""

    sample: Sample
    image: ImageFacts | str
    label: LabelFacts | str | None = None
    """None: there is none, or its image cannot be read."""
    picture: tuple[Panel, NDArray[np.uint8]] | None = None
    """Image, and ids as stored of the same size, for SHOWN of them."""


def survey(found: Found, label_map: LabelMap = (), limit: int = LOOKED_AT) -> list[Look]:
    """Read the images, or `limit` of them spread evenly: those with a label first, then the others.

    label_map: for labels that an adapter decodes; other ids are as they are stored.
    """
    labelled, others = (*found.data.samples, *found.data.test), found.data.unlabelled
    chosen = spread(labelled, limit)
    shown = {sample.name for sample in spread(chosen, SHOWN)}
    chosen += spread(others, limit - len(chosen))
    look = partial(_look, ImageFiles(), found.data.classes, label_map, shown)
    with ThreadPoolExecutor(THREADS) as pool, progress("looking at images", len(chosen)) as advance:
        looks = []
        for one in map_ahead(pool, look, chosen, 2 * THREADS):
            looks.append(one)
            advance()
    return looks


def spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """So many samples at even distances, the first and the last among them; all where there are fewer."""
    places = np.linspace(0, len(samples) - 1, max(0, min(limit, len(samples)))).round().astype(int)
    return [samples[place] for place in places.tolist()]


def _look(
    files: ImageFiles, classes: tuple[str, ...], label_map: LabelMap, shown: set[str], sample: Sample
) -> Look:
    try:
        file = files.open(sample.image, sample.page)
        header, pixels = file.header(sample.page), file.decode(sample.page)
        facts = measure_image(header, pixels, file.orientation)
    except OSError as error:
        return Look(sample=sample, image=f"{sample.image} cannot be read: {error.strerror or error}")
    except ImageError as error:
        return Look(sample=sample, image=f"{sample.image}: {error}")
    if sample.label is None:
        return Look(sample=sample, image=facts)
    try:
        ids = read_ids(sample, files, facts.size, classes, label_map)
    except OSError as error:
        return Look(
            sample=sample, image=facts, label=f"{sample.label} cannot be read: {error.strerror or error}"
        )
    except LabelMismatch as error:
        return Look(sample=sample, image=facts, label=str(error))
    picture = None
    if sample.name in shown:
        size = fit_size(*facts.size, PICTURE_PX)
        picture = show_pixels(pixels, size), shrink_mask(ids, size)
    return Look(sample=sample, image=facts, label=measure_label(ids), picture=picture)


def read_ids(
    sample: Sample,
    files: ImageFiles,
    size: tuple[int, int],
    classes: tuple[str, ...],
    label_map: LabelMap,
) -> NDArray[np.uint8]:
    """Ids of a label as they are stored, uint8 [H, W]; of boxes and of an adapter's label, class ids.

    LabelMismatch: as of `decode_label`, but that any id is taken. OSError: it cannot be read.
    """
    assert sample.label is not None
    if sample.decoder is not None:
        return sample.read_mask(files, size, classes, label_map)
    data = open_label(files, sample.label)
    if holds_mask(sample.label.name):
        return decode_ids(data, sample.label, size)
    return decode_label(data, sample.label, size, classes or tuple(map(str, range(MAX_CLASSES))))


def list_colours(sample: Sample, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Colours of an RGB mask, the most frequent first. LabelMismatch: it is none. OSError: it is gone."""
    assert sample.label is not None
    pixels = decode_colours(open_label(ImageFiles(), sample.label), sample.label, size)
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return [tuple(colours[place].tolist()) for place in np.argsort(-counts, kind="stable")]


def measure_image(header: Header, pixels: Pixels, orientation: int) -> ImageFacts:
    """The facts of an image, from its header and its pixels, uint8 or uint16, [H, W] or [H, W, 3]."""
    gray = pixels if pixels.ndim == 2 else pixels.mean(axis=2, dtype=np.float32)
    highest = int(pixels.max())
    side = (THUMBNAIL_PX, THUMBNAIL_PX)
    return ImageFacts(
        header=header,
        orientation=orientation,
        is_gray=pixels.ndim == 2 or bool((pixels == pixels[:, :, :1]).all()),
        intensity=measure_intensity(pixels),
        highest=highest,
        at_highest=float(np.count_nonzero(pixels == highest) / pixels.size),
        thumbnail=cv2.resize(gray.astype(np.float32), side, interpolation=cv2.INTER_AREA),  # type: ignore[arg-type]
    )


def measure_label(ids: NDArray[np.uint8]) -> LabelFacts:
    """The facts of a label, from its ids as stored [H, W]."""
    found: list[tuple[int, int, float]] = []
    for number, place in enumerate(ndimage.find_objects(ids), start=1):
        if place is None:
            continue
        part = np.pad(ids[place] == number, 1).astype(np.uint8)  # what reaches the edge ends there
        count, owners, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        inside = owners > 0
        reach = np.zeros(count, np.float32)
        np.maximum.at(
            reach,
            owners[inside].astype(np.intp),
            cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[inside],
        )
        found += [
            (number, int(stats[k, cv2.CC_STAT_AREA]), 2.0 * float(reach[k]) - 1) for k in range(1, count)
        ]
    numbers, areas, widths = zip(*found, strict=True) if found else ((), (), ())
    return LabelFacts(
        pixels=cv2.calcHist([ids], [0], None, [IGNORE + 1], [0, IGNORE + 1]).ravel().astype(np.int64),
        ids=np.array(numbers, np.uint8),
        areas=np.array(areas, np.int64),
        widths=np.array(widths, np.float64),
    )
