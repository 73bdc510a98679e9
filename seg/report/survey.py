"""One pass over a scores folder: sums, a few numbers an image, and the rows that a report shows."""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.ledger.parts import OBJECT_COUNTS
from seg.report.page import Reason

QUARANTINED_LISTED = 50
"""Quarantined images named under each reason; the rest are counted."""

SURVEY_COLUMNS = [
    *("image", "sha256", "label_path", "label_sha256", "height", "width", "channels", "bit_depth"),
    *("confusion", "class_pixels", "confidence", "intensity_mean", "finished_at", *OBJECT_COUNTS),
]
OBJECT_COLUMNS = ["class_id", "area", "touches_border"]


def natural_order(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """Places of strings in natural order, as `seg.data.listing.natural_key` has it.

    A name costs its own bytes and a few more: as lists of parts a million would take a gigabyte.
    """
    keys = [pa.array(map(natural_text, chunk.to_pylist()), pa.string()) for chunk in names.chunks]
    order = pc.call_function("sort_indices", [pa.chunked_array(keys, pa.string())])
    return order.to_numpy().astype(np.int64)


def natural_text(name: str) -> str:
    """A text whose plain order, by code points or by bytes of UTF-8, is the natural order of names.

    A run of digits becomes its number of digits and these without leading zeros, then itself, since 01 comes
    before 1; zero characters, which no file name holds, end the text before it and the run.
    """
    return re.sub(r"\d+", _number_text, name)


def _number_text(run: re.Match[str]) -> str:
    digits = str(int(run[0]))
    return f"\0{chr(len(digits))}{digits}{run[0]}\0"


def matrix_of(column: pa.ChunkedArray, width: int) -> NDArray[np.int64]:
    """A column of lists of `width` integers, null left out, as int64 [rows, width]."""
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([*flat, np.empty(0, np.int64)]).reshape(-1, width)


def hits_and_unions(column: pa.ChunkedArray, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each class that truth and prediction share, and that either has: two int64 [images, C].

    column: confusion matrices; null is left out. Both add up over images, so they are all that IoU needs.
    """
    matrices = matrix_of(column, num_classes**2).reshape(-1, num_classes, num_classes)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return hits, matrices.sum(1) + matrices.sum(2) - hits


def class_ious(hits: NDArray[np.number], unions: NDArray[np.number]) -> NDArray[np.float64]:
    """IoU by class, of the arrays' shape; NaN where a class is in neither truth nor prediction."""
    return np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)


def mean_ious(hits: NDArray[np.number], unions: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean IoU over the classes that occur, the arrays' last axis; NaN where none does."""
    present = (unions > 0).sum(-1)
    sums = np.nansum(class_ious(hits, unions), -1)
    return np.divide(sums, present, out=np.full(sums.shape, np.nan), where=present > 0)


@dataclass(frozen=True, slots=True)
class ByImage:
    """Numbers of every image in the archive's order; NaN where an image has none."""

    miou: NDArray[np.float64]
    confidence: NDArray[np.float64]
    intensity: NDArray[np.float64]
    """Mean of the stored values."""
    bit_depth: NDArray[np.float64]
    names: pa.ChunkedArray
    """In the ledger's order: a million sorted would be there twice."""
    order: NDArray[np.int64]
    """Places in `names`."""

    def __len__(self) -> int:
        return len(self.order)

    def name(self, place: int) -> str:
        """Of the image at a place, from 0; -1 is the last."""
        return self.names[int(self.order[place])].as_py()


class Survey:
    """What one pass over the ledger leaves: sums, a name and three numbers an image, the lowest rows."""

    def __init__(self, num_classes: int, *, listed: int) -> None:
        """`listed`: rows kept of the worst, and of the least confident."""
        self.num_classes = num_classes
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.class_pixels = np.zeros(num_classes, np.int64)
        self.objects = np.zeros((len(OBJECT_COUNTS), num_classes), np.int64)
        self.labelled = 0
        self.worst, self.least_confident = Lowest(listed), Lowest(listed)
        self.started: datetime | None = None
        self.finished: datetime | None = None
        self._names: list[pa.Array] = []
        self._numbers: list[NDArray[np.float64]] = []

    def add(self, rows: pa.Table) -> None:
        """Add a part of the ledger."""
        size = self.num_classes
        labelled = rows["confusion"].is_valid().to_numpy()
        self.labelled += int(labelled.sum())
        self.confusion += matrix_of(rows["confusion"], size**2).sum(0).reshape(size, size)
        self.class_pixels += matrix_of(rows["class_pixels"], size).sum(0)
        self.objects += [matrix_of(rows[name], size).sum(0) for name in OBJECT_COUNTS]
        miou = np.full(rows.num_rows, np.nan)
        miou[labelled] = mean_ious(*hits_and_unions(rows["confusion"], size))
        confidence = rows["confidence"].to_numpy()
        self.worst.add(miou, rows)
        self.least_confident.add(confidence, rows)
        self._names += rows["image"].chunks
        others = (rows[name].to_numpy() for name in ("intensity_mean", "bit_depth"))
        self._numbers.append(np.array([miou, confidence, *others], np.float64))
        ends = pc.call_function("min_max", [rows["finished_at"]]).as_py()
        self.started = min(filter(None, (self.started, ends["min"])), default=None)
        self.finished = max(filter(None, (self.finished, ends["max"])), default=None)

    def by_image(self) -> ByImage:
        """The numbers of all images."""
        names = pa.chunked_array(self._names, pa.string())
        order = natural_order(names)
        columns = (np.concatenate([*(part[k] for part in self._numbers), []])[order] for k in range(4))
        return ByImage(*columns, names=names, order=order)


class Lowest:
    """The rows of a stream with the lowest values, in ascending order, ties by name; NaN is left out."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[tuple[float, str, dict[str, Any]]] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is kept, the lowest first."""
        return [row for _, _, row in self._kept]

    def add(self, values: NDArray[np.float64], rows: pa.Table) -> None:
        """Take a part of the stream: a value a row."""
        limit = self._kept[-1][0] if len(self._kept) == self.count else np.inf
        chosen = np.flatnonzero(values <= limit)
        if not len(chosen):
            return
        found = rows.take(pa.array(chosen)).to_pylist()
        new = zip(values[chosen].tolist(), (row["image"] for row in found), found, strict=True)
        self._kept = heapq.nsmallest(self.count, chain(self._kept, new), key=lambda kept: kept[:2])


class ObjectSurvey:
    """Predicted objects of each class: how many, their pixels, how many the border may cut."""

    def __init__(self, num_classes: int) -> None:
        self.counts, self.areas, self.at_border = np.zeros((3, num_classes), np.int64)

    def add(self, objects: pa.Table) -> None:
        """Add a part of the objects."""
        ids, size = objects["class_id"].to_numpy(), len(self.counts)
        self.counts += np.bincount(ids, minlength=size)
        np.add.at(self.areas, ids, objects["area"].to_numpy())
        np.add.at(self.at_border, ids, objects["touches_border"].to_numpy().astype(np.int64))


def survey_quarantine(parts: Iterable[pa.Table]) -> list[Reason]:
    """The quarantine by reason, the most frequent first; a part in memory at a time."""
    counts: Counter[str] = Counter()
    first: dict[str, list[tuple[str, str]]] = {}
    for image, reason, detail in _quarantine_rows(parts):
        counts[reason] += 1
        rows = first.setdefault(reason, [])
        rows.append((image, detail))
        if len(rows) >= 2 * QUARANTINED_LISTED:
            first[reason] = sorted(rows)[:QUARANTINED_LISTED]
    ranked = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [Reason(reason, counts[reason], sorted(first[reason])[:QUARANTINED_LISTED]) for reason in ranked]


def _quarantine_rows(parts: Iterable[pa.Table]) -> Iterator[tuple[str, str, str]]:
    for rows in parts:
        yield from zip(*(rows[name].to_pylist() for name in ("image", "reason", "detail")), strict=True)
