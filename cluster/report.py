"""report.html of a scores folder: one file that holds all it shows, read in a browser or printed."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.ledger import Ledger
from cluster.outcome import StoppedBy
from cluster.pages import open_templates
from cluster.report_pictures import Picture, PictureSources, draw_panels
from seg.files import read_json, write_bytes
from seg.metrics import dice, iou, mean_present, pixel_accuracy
from seg.palette import IGNORED, class_colours, error_legend

PICTURED = 8
"""Images with pictures, of the worst and of the least confident."""
LISTED = 200
"""Images in the table; the rest are counted."""
QUARANTINED_LISTED = 50
"""Quarantined images named under each reason; the rest are counted."""
BINS = 20
CONFUSIONS = 6
"""Pairs of classes named beside the confusion matrix."""

LEDGER_COLUMNS = [
    *("image", "sha256", "label_path", "height", "width", "channels", "bit_depth"),
    *("confusion", "class_pixels", "confidence", "finished_at"),
]

STOPPED = {
    StoppedBy.FINISHED: "Finished",
    StoppedBy.DEADLINE: "Stopped at its deadline; the same command goes on from there",
    StoppedBy.INTERRUPT: "Interrupted; the same command goes on from there",
    StoppedBy.ERROR: "Stopped by an error; what was scored before it is kept",
}


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class over all images; ratios are NaN where their denominator is 0."""

    name: str
    colour: str
    iou: float
    dice: float
    precision: float
    recall: float
    true_pixels: int
    predicted_pixels: int
    predicted_share: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a figure of the images is spread over 0 to 1."""

    title: str
    counts: list[int]
    low: float
    """Tenth percentile."""
    median: float
    high: float
    """Ninetieth percentile."""


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """One image: its figures, and its pictures where it has any."""

    image: str
    miou: float
    confidence: float
    width: int
    height: int
    kind: str
    """Depth and channels, in words."""
    by_class: list[tuple[str, str, float]]
    """Name, colour and IoU of the classes that occur in it."""
    pictures: list[Picture]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels of one class that were predicted as another."""

    truth: str
    prediction: str
    pixels: int
    share: float
    """Of the true pixels."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Quarantined images of one reason: how many, and the first of them with their detail."""

    reason: str
    count: int
    rows: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that report.html shows, as plain values."""

    title: str
    run: dict[str, Any]
    summary: dict[str, Any]
    stopped: str
    started: datetime | None
    finished: datetime | None
    images: int
    """Images in the ledger."""
    left: int
    """Images found that are in neither ledger nor quarantine."""
    labelled: int
    miou: float
    pixel_accuracy: float
    confidence: float
    classes: list[ClassFigures]
    confusion: list[list[int]]
    confusions: list[Confusion]
    distributions: list[Distribution]
    worst: list[ImageFigures]
    least_confident: list[ImageFigures]
    listed: list[ImageFigures]
    uncounted: int
    """Labelled images of whose pixels all are ignored."""
    stages: list[tuple[str, float]]
    quarantine: list[Reason]
    error_legend: list[tuple[str, str]]


def write_report(folder: Path) -> Path:
    """Write report.html of a scores folder, from its run.json, summary.json, ledger, quarantine and masks.

    The same folder gives the same bytes. Memory is that of a part of the ledger, two floats an image and the
    images shown.
    """
    report = folder / "report.html"
    write_bytes(report, render(gather(folder)).encode())
    return report


def render(report: Report) -> str:
    """The page; every text is escaped."""
    environment = open_templates()
    environment.filters["flatten"] = _flatten
    environment.tests["isnan"] = isnan
    return environment.get_template("report.html.jinja").render(report=report, ignored_colour=IGNORED)


def gather(folder: Path) -> Report:
    """Read a scores folder once."""
    run, summary = read_json(folder / "run.json"), read_json(folder / "summary.json")
    ledger = Ledger(folder)
    classes = tuple(summary["classes"])
    survey = Survey(len(classes))
    for rows in ledger.rows(LEDGER_COLUMNS):
        survey.add(rows)
    sources = _picture_sources(folder, run, classes)
    gallery = Gallery(sources if run["masks"] != "none" else None, classes)
    miou = np.concatenate([*survey.miou, np.empty(0)])
    confidence = np.concatenate([*survey.confidence, np.empty(0)])
    return Report(
        title=_title(run["archive"]),
        run=run,
        summary=summary,
        stopped=STOPPED[summary["stopped_by"]],
        started=survey.started,
        finished=survey.finished,
        images=len(confidence),
        left=max(0, summary["images_found"] - len(confidence) - summary["images_quarantined"]),
        labelled=len(miou),
        miou=mean_present(iou(survey.confusion)),
        pixel_accuracy=pixel_accuracy(survey.confusion),
        confidence=float(confidence.mean()) if len(confidence) else float("nan"),
        classes=_class_figures(survey, classes),
        confusion=survey.confusion.tolist(),
        confusions=_largest_confusions(survey.confusion, classes),
        distributions=_distributions(miou, confidence),
        worst=[gallery.show(row) for row in survey.worst.rows[:PICTURED]],
        least_confident=[gallery.show(row) for row in survey.least_confident.rows[:PICTURED]],
        listed=[gallery.describe(row) for row in (survey.worst.rows or survey.least_confident.rows)],
        uncounted=int(np.isnan(miou).sum()),
        stages=list(summary["stage_seconds"].items()),
        quarantine=_quarantine(ledger),
        error_legend=error_legend(classes),
    )


class Survey:
    """What one pass over the ledger leaves: sums, two floats an image, the rows at the lower ends."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.class_pixels = np.zeros(num_classes, np.int64)
        self.miou: list[NDArray[np.float64]] = []
        self.confidence: list[NDArray[np.float64]] = []
        self.worst, self.least_confident = Lowest(LISTED), Lowest(LISTED)
        self.started: datetime | None = None
        self.finished: datetime | None = None

    def add(self, rows: pa.Table) -> None:
        """Add a part of the ledger."""
        num_classes = len(self.class_pixels)
        self.class_pixels += _matrix(rows["class_pixels"], num_classes).sum(0)
        confidence = rows["confidence"].to_numpy()
        self.confidence.append(confidence)
        self.least_confident.add(confidence, rows)
        counted = rows.filter(rows["confusion"].is_valid())
        matrices = _matrix(counted["confusion"], num_classes**2).reshape(-1, num_classes, num_classes)
        self.confusion += matrices.sum(0)
        miou = np.array([mean_present(iou(matrix)) for matrix in matrices], np.float64)
        self.miou.append(miou)
        self.worst.add(miou, counted)
        times = [time for time in rows["finished_at"].to_pylist() if time is not None]
        self.started = min(filter(None, [self.started, *times]), default=None)
        self.finished = max(filter(None, [self.finished, *times]), default=None)


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
        found = rows.take(pa.array(chosen)).to_pylist()
        new = zip(values[chosen].tolist(), (row["image"] for row in found), found, strict=True)
        self._kept = heapq.nsmallest(self.count, chain(self._kept, new), key=lambda kept: kept[:2])


class Gallery:
    """Turns ledger rows into what is shown of them; pictures of an image are drawn once."""

    def __init__(self, sources: PictureSources | None, classes: tuple[str, ...]) -> None:
        """`sources`: None where masks were not written, so that there are no pictures."""
        self.sources, self.classes = sources, classes
        self.colours = class_colours(classes)
        self._shown: dict[str, ImageFigures] = {}

    def show(self, row: dict[str, Any]) -> ImageFigures:
        """A row with its pictures."""
        if row["image"] not in self._shown:
            drawn = draw_panels(self.sources, row) if self.sources else None
            self._shown[row["image"]] = self.describe(row, *(drawn or ([], [])))
        return self._shown[row["image"]]

    def describe(
        self, row: dict[str, Any], pictures: Sequence[Picture] = (), notes: Sequence[str] = ()
    ) -> ImageFigures:
        """A row's figures."""
        ratios = np.full(len(self.classes), np.nan)
        if row["confusion"] is not None:
            ratios = iou(np.reshape(row["confusion"], (len(self.classes), -1)))
        by_class = zip(self.classes, self.colours, ratios.tolist(), strict=True)
        return ImageFigures(
            image=row["image"],
            miou=mean_present(ratios),
            confidence=row["confidence"],
            width=row["width"],
            height=row["height"],
            kind=f"{row['bit_depth']}-bit {'gray' if row['channels'] == 1 else 'colour'}",
            by_class=[figures for figures in by_class if not isnan(figures[2])],
            pictures=list(pictures),
            notes=list(notes),
        )


def _title(archive: str) -> str:
    """An archive by the end of its path; images/ of a plain layout says nothing."""
    parts = [part for part in Path(archive).parts if part != "/"]
    parts = parts[:-1] if parts[1:] and parts[-1] == "images" else parts
    return "/".join(parts[-2:])


def _picture_sources(folder: Path, run: dict[str, Any], classes: tuple[str, ...]) -> PictureSources:
    # Without a label_map in run.json unknown ids are taken as ignored; draw_panels compares what comes out
    # with the ledger's counts, so another meaning is noticed and said.
    unknown = [(stored, 255) for stored in range(len(classes), 255)]
    return PictureSources(
        archive=Path(run["archive"]),
        labels=Path(run["labels"]) if run["labels"] else None,
        masks=folder / "masks",
        classes=classes,
        label_map=run.get("label_map", unknown),
    )


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.int64]:
    """A column of lists of `width` integers as int64 [rows, width]."""
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([*flat, np.empty(0, np.int64)]).reshape(-1, width)


def _class_figures(survey: Survey, classes: tuple[str, ...]) -> list[ClassFigures]:
    confusion, predicted = survey.confusion, survey.class_pixels
    hits, truth = np.diagonal(confusion), confusion.sum(1)
    columns = (
        classes,
        class_colours(classes),
        iou(confusion).tolist(),
        dice(confusion).tolist(),
        _shares(hits, confusion.sum(0)).tolist(),
        _shares(hits, truth).tolist(),
        truth.tolist(),
        predicted.tolist(),
        _shares(predicted, np.full_like(predicted, predicted.sum())).tolist(),
    )
    return [ClassFigures(*figures) for figures in zip(*columns, strict=True)]


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _largest_confusions(confusion: NDArray[np.int64], classes: tuple[str, ...]) -> list[Confusion]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    places = [divmod(int(place), len(classes)) for place in order]
    return [
        Confusion(
            classes[row], classes[column], int(wrong[row, column]), wrong[row, column] / confusion[row].sum()
        )
        for row, column in places
        if wrong[row, column]
    ]


def _distributions(miou: NDArray[np.float64], confidence: NDArray[np.float64]) -> list[Distribution]:
    found: list[Distribution] = []
    for title, values in (("mIoU", miou[~np.isnan(miou)]), ("Confidence", confidence)):
        if len(values):
            counts = np.histogram(values, BINS, (0, 1))[0].tolist()
            found.append(Distribution(title, counts, *np.percentile(values, (10, 50, 90)).tolist()))
    return found


def _quarantine(ledger: Ledger) -> list[Reason]:
    """The quarantine by reason, the most frequent first; a part in memory at a time."""
    counts: Counter[str] = Counter()
    first: dict[str, list[tuple[str, str]]] = {}
    for image, reason, detail in _quarantine_rows(ledger):
        counts[reason] += 1
        rows = first.setdefault(reason, [])
        rows.append((image, detail))
        if len(rows) >= 2 * QUARANTINED_LISTED:
            first[reason] = sorted(rows)[:QUARANTINED_LISTED]
    ranked = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [Reason(reason, counts[reason], sorted(first[reason])[:QUARANTINED_LISTED]) for reason in ranked]


def _quarantine_rows(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    columns = ["image", "reason", "detail"]
    for rows in ledger.quarantine_rows():
        yield from zip(*(rows[name].to_pylist() for name in columns), strict=True)


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
