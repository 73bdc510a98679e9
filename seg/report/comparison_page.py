"""The page of a comparison: one file that holds all it shows, read in a browser or printed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seg.data.images import split_page
from seg.figures.pages import Tick, nice_ticks, open_templates, put_page, share
from seg.figures.panels import IGNORED
from seg.ledger.ledger import Ledger
from seg.report.comparison import Comparison, Difference, ImageChange
from seg.report.pictures import PICTURE_COLUMNS, Picture, draw_both, picture_sources
from seg.report.report import read_scores
from seg.storage import Place

PICTURED = 4
"""Images with pictures, of those that gained and of those that lost."""
BINS = 41
"""Bars of the distribution of changes, odd: the middle one is of no change."""


@dataclass(frozen=True, slots=True)
class Link:
    """A file on this machine, as seen from the page."""

    what: str
    target: str


@dataclass(frozen=True, slots=True)
class Row:
    """An image that changed, its files and its pictures."""

    change: ImageChange
    links: list[Link]
    pictures: list[Picture]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Forest:
    """Where differences and their intervals stand on a common axis, from 0 to 1."""

    ticks: list[Tick]
    zero: float
    places: list[tuple[float, float, float] | None]
    """Low end, difference and high end, row by row; None where there is no difference."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the images' changes are spread."""

    most: float
    """The largest change either way; the bars span twice as much."""
    counts: list[int]
    better: int
    same: int
    worse: int


def write_comparison(comparison: Comparison, place_a: Place, place_b: Place, out: Path | None) -> str:
    """Write the page of two compared scores folders; where it is.

    out: None is comparison-B.html in the first folder, B being the second one's name.
    """
    name = f"comparison-{place_b.uri.rstrip('/').rpartition('/')[2]}.html"
    base = out.resolve().parent if out else place_a.local() if place_a.is_local else None
    rows = Rows(place_a, place_b, base)
    page = render(comparison, rows.show(comparison.better), rows.show(comparison.worse)).encode()
    return put_page(place_a, name, page, out)


def render(comparison: Comparison, better: list[Row], worse: list[Row]) -> str:
    """The page; every text is escaped."""
    environment = open_templates()
    environment.tests["isnan"] = isnan
    return environment.get_template("report/comparison.html.jinja").render(
        it=comparison,
        better=better,
        worse=worse,
        pictured=PICTURED,
        forest=draw_forest([comparison.miou, *comparison.classes]),
        changes=spread_changes(comparison.changes),
        ignored_colour=IGNORED,
    )


def draw_forest(rows: Sequence[Difference]) -> Forest:
    """The differences on an axis that holds all of them and zero."""
    ends = [[row.interval.low, row.change, row.interval.high] for row in rows]
    heights = nice_ticks([0.0, *(end for row in ends for end in row if not isnan(end))])
    places = [None if any(map(isnan, row)) else tuple(share(end, heights) for end in row) for row in ends]
    ticks = [(share(tick, heights), f"{tick:+.6g}" if tick else "0") for tick in heights]
    return Forest(ticks, share(0.0, heights), places)  # type: ignore[arg-type]  # tuples of three


def spread_changes(changes: np.ndarray) -> Changes:
    """How many images changed by how much; those without an mIoU in one of the scorings are left out."""
    known = changes[~np.isnan(changes)]
    most = float(np.abs(known).max(initial=1e-4))
    counts = np.histogram(known, BINS, (-most, most))[0].tolist()
    return Changes(most, counts, int((known > 0).sum()), int((known == 0).sum()), int((known < 0).sum()))


class Rows:
    """Turns images that changed into what the page shows of them."""

    def __init__(self, place_a: Place, place_b: Place, base: Path | None) -> None:
        """`base`: the folder of the page; None: it is not on this machine, so that there are no links."""
        self.places, self.base = (place_a, place_b), base
        self.runs = [read_scores(place) for place in self.places]
        self.sources = [
            picture_sources(place, run, tuple(summary["classes"]))
            for place, (run, summary) in zip(self.places, self.runs, strict=True)
        ]

    def show(self, changes: Sequence[ImageChange]) -> list[Row]:
        """All of them with links, the first with pictures."""
        names = [change.image for change in changes[:PICTURED]]
        found = [find_rows(place, names) for place in self.places]
        return [self._row(change, [rows.get(change.image) for rows in found]) for change in changes]

    def _row(self, change: ImageChange, rows: list[dict[str, object] | None]) -> Row:
        pictures: list[Picture] = []
        notes: list[str] = []
        (source_a, source_b), (row_a, row_b) = self.sources, rows
        if source_a and source_b and row_a and row_b:
            pictures, notes = draw_both(source_a, source_b, row_a, row_b)
        return Row(change, self._links(change.image), pictures, notes)

    def _links(self, image: str) -> list[Link]:
        """To the image and to both masks, where they are files of this machine."""
        a, b = self.sources
        files = [("image", a and a.archive, split_page(image)[0])]
        files += [("mask A", a and a.masks, f"{image}.png"), ("mask B", b and b.masks, f"{image}.png")]
        return [
            Link(what, quote(os.path.relpath(place.local(name), self.base)))
            for what, place, name in files
            if place and place.is_local and self.base
        ]


def find_rows(place: Place, images: Sequence[str]) -> dict[str, dict[str, object]]:
    """The ledger's rows of some images, as far as pictures need them."""
    wanted = pc.SetLookupOptions(pa.array(images, pa.string()))
    found: dict[str, dict[str, object]] = {}
    for rows in Ledger(place).rows(PICTURE_COLUMNS) if images else ():
        chosen = rows.filter(pc.call_function("is_in", [rows["image"]], wanted))
        found |= {row["image"]: row for row in chosen.to_pylist()}
    return found
