"""What report.html shows, as plain values, and the page that shows it."""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.figures.pages import Tick, nice_ticks, open_templates, share
from seg.figures.panels import IGNORED, class_colours
from seg.metrics import dice, iou
from seg.objects import object_ratios
from seg.report.pictures import Picture
from seg.report.survey import ByImage, Reason, Summary, Survey
from seg.words import STAGES

REASONS = {
    "unreadable": "no format we read, damaged inside, or a file that cannot be opened",
    "truncated": "the file ends before its image does",
    "empty": "no bytes, or no pixels",
    "unsupported": "another depth or number of channels than is scored, or than the model was fitted on",
    "too_large": "the header announces more pixels than are decoded",
    "label_missing": "no label, though each image was to have one",
    "label_mismatch": "the label has another size, an unknown id, or cannot be read",
    "killed_worker": "its process died twice while it held this image alone",
    "timeout": "it took longer than an image may",
}
"""What a reason of the quarantine means."""
BINS = 20
"""Bars of a distribution."""
DRIFT_BINS, DRIFT_IMAGES, FEW_IMAGES = 100, 8, 20
"""Groups of neighbours in a drift: at most so many, of at least so many images; a few images are one each."""
CONFUSIONS = 6
"""Pairs of classes named beside the confusion matrix."""
LOW_MEDIAN_HIGH = (10, 50, 90)
"""Percentiles."""


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
class ObjectFigures:
    """The objects of one class over all images; ratios are NaN where their denominator is 0."""

    name: str
    colour: str
    precision: float
    recall: float
    f1: float
    found: int
    missed: int
    invented: int
    predicted: int
    """Of all images, with a label or without."""
    mean_area: float
    """In pixels."""
    at_border: float
    """Share that the image's border may cut."""


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
class DriftBin:
    """Neighbours in the archive's order: where they are in the plot, from 0 to 1, and their percentiles."""

    left: float
    right: float
    low: float
    median: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Drift:
    """How a figure goes over the archive's order; heights are from 0 to 1 between the first and last tick."""

    title: str
    ticks: list[Tick]
    bins: list[DriftBin]


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """One image: its figures, and its pictures where it has any."""

    image: str
    miou: float
    confidence: float
    intensity: float
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that report.html shows."""

    title: str
    settings: list[tuple[str, Any]]
    """All of run.json, as (dotted name, value)."""
    pictured: bool
    """Whether there are masks to show."""
    summary: Summary
    stopped: str
    alarms: list[str]
    """Signs that the model learned nothing."""
    started: datetime | None
    finished: datetime | None
    images: int
    """Images in the ledger."""
    labelled: int
    uncounted: int
    """Labelled images of whose pixels all are ignored."""
    miou: float
    pixel_accuracy: float
    confidence: float
    classes: list[ClassFigures]
    confusion: list[list[int]]
    confusions: list[Confusion]
    objects: list[ObjectFigures]
    distributions: list[Distribution]
    drifts: list[Drift]
    ends: tuple[str, str]
    """The archive's first and last scored image."""
    worst: list[ImageFigures]
    least_confident: list[ImageFigures]
    listed: list[ImageFigures]
    stages: list[tuple[str, float]]
    quarantine: list[Reason]
    error_legend: list[tuple[str, str]]


def render(report: Report) -> str:
    """The page; every text is escaped."""
    environment = open_templates()
    environment.tests["isnan"] = isnan
    words = {"ignored_colour": IGNORED, "reasons": REASONS, "stages": STAGES}
    return environment.get_template("report/report.html.jinja").render(report=report, **words)


def class_figures(survey: Survey, classes: tuple[str, ...]) -> list[ClassFigures]:
    """Every class, in id order."""
    confusion, predicted = survey.totals.confusion, survey.totals.class_pixels
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


def object_figures(survey: Survey, classes: tuple[str, ...]) -> list[ObjectFigures]:
    """Classes of which there is any object, true or predicted, in id order."""
    totals, objects = survey.totals, survey.objects
    found, missed, invented = totals.objects_found, totals.objects_missed, totals.objects_invented
    ratios = object_ratios(found, missed, invented)
    columns = (
        classes,
        class_colours(classes),
        ratios.precision.tolist(),
        ratios.recall.tolist(),
        ratios.f1.tolist(),
        found.tolist(),
        missed.tolist(),
        invented.tolist(),
        objects.counts.tolist(),
        _shares(objects.areas, objects.counts).tolist(),
        _shares(objects.at_border, objects.counts).tolist(),
    )
    figures = [ObjectFigures(*values) for values in zip(*columns, strict=True)]
    return [one for one in figures if one.predicted or one.found or one.missed]


def largest_confusions(confusion: NDArray[np.int64], classes: tuple[str, ...]) -> list[Confusion]:
    """The pairs of classes between which most pixels are lost."""
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


def distributions(images: ByImage) -> list[Distribution]:
    """How mIoU and confidence are spread over the images; one that no image has is left out."""
    found: list[Distribution] = []
    for title, values in (("mIoU", images.miou), ("Confidence", images.confidence)):
        known = values[~np.isnan(values)]
        if len(known):
            counts = np.histogram(known, BINS, (0, 1))[0].tolist()
            found.append(Distribution(title, counts, *np.percentile(known, LOW_MEDIAN_HIGH).tolist()))
    return found


def drifts(images: ByImage) -> list[Drift]:
    """How intensity, confidence and mIoU go over images in the archive's order; what no image has is out."""
    depths = np.unique(images.bit_depth)
    intensity, title = images.intensity, "Intensity"
    if len(depths) > 1:  # 8-bit and 16-bit levels have no common scale but this
        intensity = intensity / (2.0**images.bit_depth - 1)
        title = "Intensity, as a share of the full range"
    columns = ((title, intensity), ("Confidence", images.confidence), ("mIoU", images.miou))
    return [_drift(title, values, images) for title, values in columns if not np.isnan(values).all()]


def _drift(title: str, values: NDArray[np.float64], images: ByImage) -> Drift:
    total = len(values)
    count = min(DRIFT_BINS, max(total // DRIFT_IMAGES, min(total, FEW_IMAGES)))
    edges = np.linspace(0, total, count + 1).round().astype(int).tolist()
    groups = [(first, last, values[first:last]) for first, last in pairwise(edges)]
    known = [(first, last, kept) for first, last, group in groups if len(kept := group[~np.isnan(group)])]
    levels = [np.percentile(kept, LOW_MEDIAN_HIGH).tolist() for _, _, kept in known]
    heights = nice_ticks([level for row in levels for level in row])
    bins = [
        DriftBin(
            first / total,
            last / total,
            *(share(level, heights) for level in row),
            title=_bin_title(images, first, last, row),
        )
        for (first, last, _), row in zip(known, levels, strict=True)
    ]
    return Drift(title, [(share(tick, heights), f"{tick:,.6g}") for tick in heights], bins)


def _bin_title(images: ByImage, first: int, last: int, levels: list[float]) -> str:
    low, median, high = (f"{level:,.5g}" for level in levels)
    if last - first == 1:
        return f"{images.name(first)}: {median}"
    ends = f"{images.name(first)} to {images.name(last - 1)}"
    return f"{last - first:,} images, {ends}: median {median}, 80 % in {low}-{high}"


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
