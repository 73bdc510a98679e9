"""What report.html shows, as plain values, and the page that shows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isnan
from typing import Any

from seg.figures.pages import Tick, open_templates
from seg.figures.panels import IGNORED
from seg.report.pictures import Picture

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

STAGES = {
    "read": "read: bytes from storage",
    "decode": "decode: pixels, label, preprocessing",
    "model": "model: prediction and counting",
    "write": "write: masks",
}
"""What happens in a timed stage."""


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


@dataclass(frozen=True, slots=True)
class Reason:
    """Quarantined images of one reason: how many, and the first of them with their detail."""

    reason: str
    count: int
    rows: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that report.html shows."""

    title: str
    run: dict[str, Any]
    summary: dict[str, Any]
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
    environment.filters["flatten"] = flatten
    environment.tests["isnan"] = isnan
    words = {"ignored_colour": IGNORED, "reasons": REASONS, "stages": STAGES}
    return environment.get_template("report/report.html.jinja").render(report=report, **words)


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
