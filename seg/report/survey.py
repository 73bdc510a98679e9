"""What a scores folder holds: run.json, summary.json, and in one pass all that is told of its images."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.colours import Colour
from seg.data.listing import natural_key, sequence_of
from seg.data.preprocess import Brightness
from seg.errors import RequestError
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Scored
from seg.ledger.parts import Totals
from seg.plain_data import require_part
from seg.report.review import REVIEWED, Candidate, Spread
from seg.storage import Place
from seg.words import ENDINGS

LISTED = 500
"""Images kept whole, of the worst and of the least confident."""
QUARANTINED_LISTED = 50
"""Quarantined images named under each reason; the rest are counted."""
OBJECT_COLUMNS = ["class_id", "area", "touches_border"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What is read of a scoring's run.json."""

    archive: str
    labels: str | None
    masks: str
    sequence: str
    classes: tuple[str, ...]
    label_map: tuple[tuple[int, int], ...]
    label_colours: tuple[Colour, ...] = ()
    model_sha256: str | tuple[str, ...] = ""
    """Of an ensemble that of each model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What is read of its summary.json. Older ones lack what has a default."""

    images_found: int
    images_scored: int
    images_skipped: int
    images_quarantined: int
    images_left: int
    images_changed: int | None = None
    images_ignored: dict[str, int]
    images_out_of_range: int | None = None
    pixels: int
    classes: tuple[str, ...]
    class_shares_trained: dict[str, float] | None = None
    megapixels_per_second: float | None
    images_per_second: float | None
    stage_seconds: dict[str, float]
    bound_by: str | None
    stopped_by: str

    @property
    def trained(self) -> list[float]:
        """Share of each class in the training's labels, in id order; empty: not known."""
        return [self.class_shares_trained[name] for name in self.classes] if self.class_shares_trained else []

    def is_possible(self) -> bool:
        """Whether it may be of a scoring."""
        rates = {self.megapixels_per_second is None, self.images_per_second is None}
        shares = self.class_shares_trained or dict.fromkeys(self.classes, 0.0)
        same = bool(self.classes) and set(shares) == set(self.classes)
        return same and len(rates) == 1 and self.stopped_by in ENDINGS


@dataclass(frozen=True, slots=True)
class Scores:
    """A scores folder whose first scoring has ended."""

    place: Place
    run: Identity
    summary: Summary
    settings: list[tuple[str, Any]]
    """All of run.json, as (dotted name, value)."""

    def survey(self) -> "Survey":
        """Its images. DamagedFile: a part is not as it was written."""
        return Survey(Ledger(self.place), len(self.run.classes), self.run.sequence)


def read_scores(place: Place) -> Scores:
    """run.json and summary.json. RequestError: one is missing or damaged, or not of a scoring."""
    run, settings = read_identity(place)
    found, mend = place.read_json("summary.json"), "remove it, and the scoring's command writes it again"
    if found is None:
        raise RequestError(
            f"{place.uri} has no summary.json yet; end its scoring with the command it began with"
        )
    summary = require_part(Summary, found, where := f"{place.uri}/summary.json", mend)
    if not summary.is_possible():
        raise RequestError(f"{where} is damaged: its classes, rates or end are impossible; {mend}")
    if summary.classes != run.classes:
        raise RequestError(
            f"{where} and run.json beside it name other classes, so that one of them is damaged; if it is "
            f"summary.json, {mend}; else take run.json from a copy"
        )
    return Scores(place, run, summary, settings)


def read_identity(place: Place) -> tuple[Identity, list[tuple[str, Any]]]:
    """run.json, and all of it as (dotted name, value). RequestError: as of `read_scores`."""
    found = place.read_json("run.json")
    if found is None or (isinstance(found, dict) and "archive" not in found):
        lacks = "it holds no run.json" if found is None else "its run.json names no archive"
        raise RequestError(f"{place.uri} is no scores folder, as {lacks}; give the `out` of a scoring")
    return require_part(Identity, found, f"{place.uri}/run.json"), list(flatten(found))


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def natural_order(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """Places of names in natural order; as `seg.data.listing` has it, of names that stay outside Python."""
    keys = [pa.array(map(natural_key, chunk.to_pylist()), pa.string()) for chunk in names.chunks]
    order = pc.call_function("sort_indices", [pa.chunked_array(keys, pa.string())])
    return order.to_numpy().astype(np.int64)


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


class Lowest:
    """The images of a stream with the lowest values, ascending, ties by name; NaN is left out."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ranked: list[tuple[float, Scored]] = []
        """What is kept, each with its value."""

    @property
    def images(self) -> list[Scored]:
        """What is kept, without the values."""
        return [image for _, image in self.ranked]

    def add(self, values: NDArray[np.float64], rows: pa.Table) -> None:
        """Take a part of the ledger: a value a row."""
        limit = self.ranked[-1][0] if len(self.ranked) == self.count else np.inf
        chosen = np.flatnonzero(values <= limit)
        found = (Scored(**row) for row in rows.take(pa.array(chosen)).to_pylist())
        ranked = chain(self.ranked, zip(values[chosen].tolist(), found, strict=True))
        self.ranked = heapq.nsmallest(self.count, ranked, key=lambda kept: (kept[0], kept[1].image))


class ObjectSums:
    """Predicted objects of each class: how many, their pixels, how many the border may cut."""

    def __init__(self, num_classes: int) -> None:
        self.counts, self.areas, self.at_border = np.zeros((3, num_classes), np.int64)

    def add(self, objects: pa.Table) -> None:
        """Add a part of the objects."""
        ids, size = objects["class_id"].to_numpy(), len(self.counts)
        self.counts += np.bincount(ids, minlength=size)
        np.add.at(self.areas, ids, objects["area"].to_numpy())
        np.add.at(self.at_border, ids, objects["touches_border"].to_numpy().astype(np.int64))


@dataclass(slots=True)
class Reason:
    """Quarantined images of one reason: how many, and the first of them by name, each with its detail."""

    reason: str
    count: int = 0
    rows: list[tuple[str, str]] = field(default_factory=list)


class Survey:
    """What one pass over a scores folder leaves: all that summary, report and review tell of its images.

    A command makes one when it begins, and later adds what it has committed. It holds a name and four numbers
    an image, and the rows that are shown.
    """

    def __init__(self, ledger: Ledger, num_classes: int, sequence: str = "") -> None:
        """sequence: the recipe's pattern. DamagedFile: as of `update`."""
        self.ledger, self.num_classes, self.sequence = ledger, num_classes, sequence
        self._clear()
        self.update()

    def _clear(self) -> None:
        self.totals, self.objects = Totals.zeros(self.num_classes), ObjectSums(self.num_classes)
        self.worst, self.least_confident = Lowest(LISTED), Lowest(LISTED)
        self.spread = Spread(REVIEWED)
        self.started: datetime | None = None
        self.finished: datetime | None = None
        self._reasons: dict[str, Reason] = {}
        self._names, self._aside = [pa.array([], pa.string())], [pa.array([], pa.string())]
        self._numbers = [np.empty((4, 0))]
        self._seen: set[str] = set()
        self._seen_aside: set[str] = set()
        self._is_torn = False

    def update(self) -> None:
        """Take what was committed since; each part is read once, unless an error or Ctrl-C broke this off.

        DamagedFile: a part is not as it was written, or an image is in two.
        """
        if self._is_torn:
            self._clear()
        self._is_torn = True
        new, aside = self.ledger.stems() - self._seen, self.ledger.quarantine_stems() - self._seen_aside
        for objects in self.ledger.objects(OBJECT_COLUMNS, stems=new):
            self.objects.add(objects)
        for rows in self.ledger.rows(stems=new):
            self._add(rows)
        for rows in self.ledger.quarantine_rows(["image", "reason", "detail"], stems=aside):
            self._add_quarantine(rows)
        self._seen |= new
        self._seen_aside |= aside
        names = pa.chunked_array([*self._names, *self._aside])
        if pc.call_function("count_distinct", [names]).as_py() < len(names):
            self.ledger.check()  # it names the image and both parts
        self._is_torn = False

    def _add(self, rows: pa.Table) -> None:
        self.totals.add(rows)
        labelled = rows["confusion"].is_valid().to_numpy()
        miou = np.full(rows.num_rows, np.nan)
        miou[labelled] = mean_ious(*hits_and_unions(rows["confusion"], self.num_classes))
        confidence = rows["confidence"].to_numpy()
        self.worst.add(miou, rows)
        self.least_confident.add(confidence, rows)
        doubtful = ~labelled & (1 - confidence >= self.spread.least_doubt)
        if doubtful.any():
            self.spread.add(self._candidates(rows.filter(pa.array(doubtful))))
        self._names.append(rows["image"].combine_chunks())
        others = (rows[name].to_numpy() for name in ("intensity_mean", "bit_depth"))
        self._numbers.append(np.array([miou, confidence, *others], np.float64))
        ends = pc.call_function("min_max", [rows["finished_at"]]).as_py()
        self.started = min(filter(None, (self.started, ends["min"])), default=None)
        self.finished = max(filter(None, (self.finished, ends["max"])), default=None)

    def _candidates(self, rows: pa.Table) -> Iterator[Candidate]:
        columns = (rows[name].to_pylist() for name in ("image", "confidence", "class_pixels"))
        for image, confidence, pixels in zip(*columns, strict=True):
            yield Candidate(image, sequence_of(image, self.sequence), confidence, pixels)

    def _add_quarantine(self, rows: pa.Table) -> None:
        self._aside.append(rows["image"].combine_chunks())
        for image, reason, detail in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            one = self._reasons.setdefault(reason, Reason(reason))
            one.count += 1
            one.rows.append((image, detail))
            if len(one.rows) >= 2 * QUARANTINED_LISTED:
                one.rows = sorted(one.rows)[:QUARANTINED_LISTED]

    @property
    def reasons(self) -> list[Reason]:
        """The quarantine by reason, the most frequent first."""
        ranked = sorted(self._reasons.values(), key=lambda one: (-one.count, one.reason))
        return [Reason(one.reason, one.count, sorted(one.rows)[:QUARANTINED_LISTED]) for one in ranked]

    @property
    def reason_counts(self) -> dict[str, int]:
        """Quarantined images by reason, in the order in which reasons came."""
        return {one.reason: one.count for one in self._reasons.values()}

    @property
    def quarantined(self) -> int:
        """Images in the quarantine."""
        return sum(self.reason_counts.values())

    def by_image(self) -> ByImage:
        """The numbers of all images."""
        names = pa.chunked_array(self._names)
        order = natural_order(names)
        return ByImage(*np.hstack(self._numbers)[:, order], names=names, order=order)

    def brightness(self) -> Iterator[list[Brightness]]:
        """How bright the images are, a part at a time."""
        for names, numbers in zip(self._names, self._numbers, strict=True):
            depths = numbers[3].astype(int).tolist()
            yield list(map(Brightness, names.to_pylist(), depths, numbers[2].tolist()))

    def find_finished(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the images are in the ledger, bool [N]; without the memory of a set of all names."""
        return _find(images, self._names)

    def find_quarantined(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the images are in the quarantine, bool [N]."""
        return _find(images, self._aside)


def _find(images: Sequence[str], names: list[pa.Array]) -> NDArray[np.bool_]:
    known = pc.SetLookupOptions(pa.chunked_array(names))
    found = pc.call_function("is_in", [pa.array(images, pa.string())], known)
    return found.to_numpy(zero_copy_only=False)
