"""report.html and review.csv of a scores folder: each a file that holds all it shows."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from seg.alarms import find_alarms
from seg.figures.pages import put_page
from seg.figures.panels import class_colours, error_legend
from seg.ledger.outcome import Scored
from seg.metrics import iou, mean_present, pixel_accuracy
from seg.report import page
from seg.report.pictures import Picture, PictureSources, draw_panels, picture_sources
from seg.report.review import format_review
from seg.report.survey import Survey, read_scores
from seg.storage import Place
from seg.words import ENDINGS

PICTURED = 8
"""Images with pictures, of the worst and of the least confident."""


def write_report(place: Place, out: Path | None = None, report: page.Report | None = None) -> str:
    """Write report.html of a scores folder, from its run.json, summary.json, parts and masks; where it is.

    out: the page, where not in that folder. report: what `gather` found, where that is at hand.
    The same folder gives the same bytes. RequestError: as of `read_scores` and `put_page`. DamagedFile: one
    of its parts.
    """
    return put_page(place, "report.html", page.render(report or gather(place)).encode(), out)


def write_review(place: Place, out: Path | None = None, survey: Survey | None = None) -> str:
    """Write review.csv of a scores folder, by its ledger; where it is; errors as of `write_report`."""
    scores = read_scores(place)
    survey = survey or scores.survey()
    text = format_review(survey.spread, survey.worst.ranked, scores.run.classes)
    return put_page(place, "review.csv", text.encode(), out)


def gather(place: Place, survey: Survey | None = None) -> page.Report:
    """What the report of a scores folder shows; errors as of `write_report`.

    survey: of all that it holds now, where that is at hand.
    """
    scores = read_scores(place)
    survey = survey or scores.survey()
    classes, summary, totals = scores.run.classes, scores.summary, survey.totals
    gallery = Gallery(picture_sources(scores), classes)
    images, worst, doubtful = survey.by_image(), survey.worst.images, survey.least_confident.images
    return page.Report(
        title=archive_title(scores.run.archive),
        settings=scores.settings,
        pictured=gallery.sources is not None,
        summary=summary,
        stopped=ENDINGS[summary.stopped_by],
        alarms=find_alarms(classes, totals.confusion, totals.class_pixels, summary.trained),
        started=survey.started,
        finished=survey.finished,
        images=len(images),
        labelled=totals.labelled,
        uncounted=totals.labelled - int((~np.isnan(images.miou)).sum()),
        miou=mean_present(iou(totals.confusion)),
        pixel_accuracy=pixel_accuracy(totals.confusion),
        confidence=mean_present(images.confidence),
        classes=page.class_figures(survey, classes),
        confusion=totals.confusion.tolist(),
        confusions=page.largest_confusions(totals.confusion, classes),
        objects=page.object_figures(survey, classes),
        distributions=page.distributions(images),
        drifts=page.drifts(images) if len(images) > 1 else [],
        ends=(images.name(0), images.name(-1)) if len(images) else ("", ""),
        worst=[gallery.show(image) for image in worst[:PICTURED]],
        least_confident=[gallery.show(image) for image in doubtful[:PICTURED]],
        listed=[gallery.describe(one) for one in {one.image: one for one in (*worst, *doubtful)}.values()],
        stages=list(summary.stage_seconds.items()),
        quarantine=survey.reasons,
        error_legend=error_legend(classes),
    )


class Gallery:
    """Turns ledger rows into what is shown of them; pictures of an image are drawn once."""

    def __init__(self, sources: PictureSources | None, classes: tuple[str, ...]) -> None:
        """`sources`: None where masks were not written, so that there are no pictures."""
        self.sources, self.classes = sources, classes
        self.colours = class_colours(classes)
        self._shown: dict[str, page.ImageFigures] = {}

    def show(self, row: Scored) -> page.ImageFigures:
        """A row with its pictures."""
        if row.image not in self._shown:
            drawn = draw_panels((self.sources, row)) if self.sources else None
            self._shown[row.image] = self.describe(row, *(drawn or ([], [])))
        return self._shown[row.image]

    def describe(
        self, row: Scored, pictures: Sequence[Picture] = (), notes: Sequence[str] = ()
    ) -> page.ImageFigures:
        """A row's figures."""
        ratios = self._ious(row)
        by_class = zip(self.classes, self.colours, ratios.tolist(), strict=True)
        return page.ImageFigures(
            image=row.image,
            miou=mean_present(ratios),
            confidence=row.confidence,
            intensity=row.intensity_mean,
            width=row.width,
            height=row.height,
            kind=f"{row.bit_depth}-bit {'gray' if row.channels == 1 else 'colour'}",
            by_class=[figures for figures in by_class if not isnan(figures[2])],
            pictures=list(pictures),
            notes=list(notes),
        )

    def _ious(self, row: Scored) -> NDArray[np.float64]:
        if row.confusion is None:
            return np.full(len(self.classes), np.nan)
        return iou(np.reshape(row.confusion, (len(self.classes), -1)))


def archive_title(archive: str) -> str:
    """An archive by the end of its path or URI; images/ of a plain layout says nothing."""
    where = urlsplit(archive)
    parts = [part for part in f"{where.netloc}/{where.path}".split("/") if part]
    parts = parts[:-1] if parts[1:] and parts[-1] == "images" else parts
    return "/".join(parts[-2:])
