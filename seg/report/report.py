"""report.html of a scores folder: one file that holds all it shows, read in a browser or printed."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from seg.alarms import find_alarms
from seg.errors import ENDINGS, RequestError
from seg.figures.pages import put_page
from seg.figures.panels import class_colours, error_legend
from seg.ledger.ledger import read_ledger
from seg.metrics import iou, mean_present, pixel_accuracy
from seg.plain_data import require_fields
from seg.report import charts as figures
from seg.report.page import ImageFigures, Report, render
from seg.report.pictures import Picture, PictureSources, draw_panels, picture_sources
from seg.report.survey import (
    OBJECT_COLUMNS,
    SURVEY_COLUMNS,
    ObjectSurvey,
    Survey,
    survey_quarantine,
)
from seg.storage import Place

PICTURED = 8
"""Images with pictures, of the worst and of the least confident."""
LISTED = 500
"""Images in the table, of the worst and of the least confident; the rest are counted."""

RUN_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("archive", "masks", "sequence"), str),
    "labels": str | None,
    "classes": list[str],
    "label_map": list[tuple[int, int]],
}
"""Fields of a scoring's run.json that pages and exports read."""
SUMMARY_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("images_found", "images_scored", "images_skipped", "images_quarantined"), int),
    **dict.fromkeys(("images_left", "pixels"), int),
    **dict.fromkeys(("megapixels_per_second", "images_per_second"), float | None),
    "images_ignored": dict[str, int],
    "classes": list[str],
    "stage_seconds": dict[str, float],
    "bound_by": str | None,
    "stopped_by": str,
}
"""The same of its summary.json."""


def write_report(place: Place, out: Path | None = None, report: Report | None = None) -> str:
    """Write report.html of a scores folder, from its run.json, summary.json, parts and masks; where it is.

    out: the page, where not in that folder. report: what `gather` found, where that is at hand.
    The same folder gives the same bytes. Memory is that of a part of the ledger, a name and three numbers an
    image and the images shown. RequestError: it is no scores folder, or its first scoring has not ended; as
    of `put_page`. DamagedFile: one of its parts.
    """
    return put_page(place, "report.html", render(report or gather(place)).encode(), out)


def read_scores(place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """run.json and summary.json. RequestError: one is missing or damaged, or not of a scoring."""
    run, summary = place.read_json("run.json"), place.read_json("summary.json")
    if run is None or (isinstance(run, dict) and "archive" not in run):
        raise RequestError(f"{place.uri} is no scores folder; give the `out` of a scoring")
    require_fields(RUN_FIELDS, run, f"{place.uri}/run.json")
    if summary is None:
        raise RequestError(
            f"{place.uri} has no summary.json yet; end its scoring with the command it began with"
        )
    _check_summary(run, summary, f"{place.uri}/summary.json")
    return run, summary


def _check_summary(run: dict[str, Any], summary: Any, where: str) -> None:
    """RequestError: it is damaged."""
    mend = "remove it, and the scoring's command writes it again"
    require_fields(SUMMARY_FIELDS, summary, where, mend)
    later = dict.fromkeys(("images_changed", "images_out_of_range"))  # older ones lack them
    require_fields(dict.fromkeys(later, int | None), later | summary, where, mend)
    rates = {summary["megapixels_per_second"] is None, summary["images_per_second"] is None}
    fits = summary["classes"] == run["classes"] and len(rates) == 1 and summary["stopped_by"] in ENDINGS
    if not fits or not summary["classes"]:
        raise RequestError(f"{where} is damaged: its classes, rates or end are impossible; {mend}")


def gather(place: Place) -> Report:
    """Read a scores folder. RequestError: as of `read_scores`. DamagedFile: one of its parts."""
    run, summary = read_scores(place)
    classes = tuple(summary["classes"])
    ledger, survey = read_ledger(place), Survey(len(classes), listed=LISTED)
    for rows in ledger.rows(SURVEY_COLUMNS):
        survey.add(rows)
    objects = ObjectSurvey(len(classes))
    for rows in ledger.objects(OBJECT_COLUMNS):
        objects.add(rows)
    gallery = Gallery(picture_sources(place, run, classes), classes)
    images = survey.by_image()
    return Report(
        title=archive_title(run["archive"]),
        run=run,
        summary=summary,
        stopped=ENDINGS[summary["stopped_by"]],
        alarms=find_alarms(classes, survey.confusion, survey.class_pixels, _trained(summary)),
        started=survey.started,
        finished=survey.finished,
        images=len(images),
        labelled=survey.labelled,
        uncounted=survey.labelled - int((~np.isnan(images.miou)).sum()),
        miou=mean_present(iou(survey.confusion)),
        pixel_accuracy=pixel_accuracy(survey.confusion),
        confidence=mean_present(images.confidence),
        classes=figures.class_figures(survey, classes),
        confusion=survey.confusion.tolist(),
        confusions=figures.largest_confusions(survey.confusion, classes),
        objects=figures.object_figures(survey, objects, classes),
        distributions=figures.distributions(images),
        drifts=figures.drifts(images) if len(images) > 1 else [],
        ends=(images.name(0), images.name(-1)) if len(images) else ("", ""),
        worst=[gallery.show(row) for row in survey.worst.rows[:PICTURED]],
        least_confident=[gallery.show(row) for row in survey.least_confident.rows[:PICTURED]],
        listed=[gallery.describe(row) for row in _listed(survey)],
        stages=list(summary["stage_seconds"].items()),
        quarantine=survey_quarantine(ledger.quarantine_rows()),
        error_legend=error_legend(classes),
    )


def _trained(summary: dict[str, Any]) -> list[float]:
    """Share of each class in the training's labels, in id order; empty: not known."""
    shares = summary.get("class_shares_trained") or {}
    return [shares[name] for name in summary["classes"]] if shares else []


def _listed(survey: Survey) -> list[dict[str, Any]]:
    """The worst images, then those that are only among the least confident."""
    rows = {row["image"]: row for row in (*survey.worst.rows, *survey.least_confident.rows)}
    return list(rows.values())


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
        ratios = self._ious(row)
        by_class = zip(self.classes, self.colours, ratios.tolist(), strict=True)
        return ImageFigures(
            image=row["image"],
            miou=mean_present(ratios),
            confidence=row["confidence"],
            intensity=row["intensity_mean"],
            width=row["width"],
            height=row["height"],
            kind=f"{row['bit_depth']}-bit {'gray' if row['channels'] == 1 else 'colour'}",
            by_class=[figures for figures in by_class if not isnan(figures[2])],
            pictures=list(pictures),
            notes=list(notes),
        )

    def _ious(self, row: dict[str, Any]) -> NDArray[np.float64]:
        if row["confusion"] is None:
            return np.full(len(self.classes), np.nan)
        return iou(np.reshape(row["confusion"], (len(self.classes), -1)))


def archive_title(archive: str) -> str:
    """An archive by the end of its path or URI; images/ of a plain layout says nothing."""
    where = urlsplit(archive)
    parts = [part for part in f"{where.netloc}/{where.path}".split("/") if part]
    parts = parts[:-1] if parts[1:] and parts[-1] == "images" else parts
    return "/".join(parts[-2:])
