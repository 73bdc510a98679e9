"""Two scorings of the same images: by class, by image, how sure the difference is, and the page of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.data.images import split_page
from seg.errors import RequestError
from seg.figures.pages import Tick, nice_ticks, open_templates, put_page, share
from seg.figures.panels import IGNORED, class_colours
from seg.ledger.ledger import Ledger, read_ledger
from seg.ledger.outcome import Scored
from seg.report.pictures import Picture, draw_panels, picture_sources
from seg.report.report import archive_title
from seg.report.survey import class_ious, hits_and_unions, mean_ious, natural_order, read_scores
from seg.storage import Place

RESAMPLES = 2000
LEVEL = (2.5, 97.5)
"""Percentiles that hold 95 % of the resamples."""
CHUNK = 1 << 22
"""Numbers of a block of counts, 32 MB."""
LISTED = 50
"""Images named of the better, of the worse, and of those in one scoring alone."""
IN_WORDS = 6
"""Pairs of a label_map that a message gives before it only counts: there may be 256."""
LABELLED_COLUMNS = ["image", "sha256", "label_sha256"]
PICTURED = 4
"""Images with pictures, of those that gained and of those that lost."""
BINS = 41
"""Bars of the distribution of changes, odd: the middle one is of no change."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a difference lies in 95 % of the resamples; NaN where no resample has it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedSums:
    """Two scorings of the same N images: pixels by class that truth and prediction share, or either has."""

    hits_a: NDArray[np.int64]
    """[N, C], as the others."""
    unions_a: NDArray[np.int64]
    hits_b: NDArray[np.int64]
    unions_b: NDArray[np.int64]

    def stack(self) -> NDArray[np.float64]:
        """All side by side, [N, 4 C]; exact, as are their sums below 2^53."""
        return np.hstack([self.hits_a, self.unions_a, self.hits_b, self.unions_b]).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Resamples:
    """Differences in every resample, second less first; NaN where a class does not occur."""

    miou: NDArray[np.float64]
    """[R]"""
    iou: NDArray[np.float64]
    """[R, C]"""

    def interval(self) -> Interval:
        """Of the data set's mIoU."""
        return _interval(self.miou)

    def class_intervals(self) -> list[Interval]:
        """Of each class's IoU."""
        return [_interval(differences) for differences in self.iou.T]

    def better_share(self) -> float:
        """Share of the resamples in which the second has the higher mIoU, a tie counting half."""
        return float(np.mean((self.miou > 0) + 0.5 * (self.miou == 0)))


def resample(sums: PairedSums, *, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """Draw as many images as there are, with replacement, again and again, and sum both scorings over them.

    The interval is of percentiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13),
    paired as by Koehn (Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004): both
    scorings are summed over the same images. The mIoU is the data set's, of the summed pixels. A resample is
    a row of counts, and all are one matrix product: 2000 of 10,000 images take some seconds.
    """
    values, random = sums.stack(), np.random.default_rng(seed)
    total, size = len(values), sums.hits_a.shape[1]
    block = max(1, CHUNK // total)
    parts = [
        _draw(random, min(block, resamples - first), total) @ values for first in range(0, resamples, block)
    ]
    ends = range(size, 4 * size, size)
    hits_a, unions_a, hits_b, unions_b = np.split(np.concatenate(parts), ends, axis=1)
    return Resamples(
        mean_ious(hits_b, unions_b) - mean_ious(hits_a, unions_a),
        class_ious(hits_b, unions_b) - class_ious(hits_a, unions_a),
    )


def _draw(random: np.random.Generator, rows: int, total: int) -> NDArray[np.float64]:
    """How often each image is drawn, in so many resamples."""
    counts = np.empty((rows, total))
    for row in counts:
        row[:] = np.bincount(random.integers(total, size=total), minlength=total)
    return counts


def _interval(differences: NDArray[np.float64]) -> Interval:
    known = differences[~np.isnan(differences)]
    return Interval(*np.percentile(known, LEVEL).tolist()) if len(known) else Interval(np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class Difference:
    """One ratio in both scorings, NaN where undefined, and where 95 % of resamples put their difference."""

    name: str
    colour: str
    a: float
    b: float
    interval: Interval

    @property
    def change(self) -> float:
        """Second less first."""
        return self.b - self.a


@dataclass(frozen=True, slots=True)
class ImageChange:
    """mIoU of one image in both scorings."""

    image: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Images of one scoring that the other has not: how many, and the first of them."""

    count: int
    images: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that a comparison shows; `a` is the first scoring, `b` the second."""

    archive: str
    a: str
    b: str
    images: int
    """Images that both have with a label: only these are compared."""
    unlabelled: int
    """Images that both have, without a label in one of them or in both."""
    other_bytes: int
    """Compared images whose file was another one in the second scoring."""
    miou: Difference
    better_share: float
    """Of the resamples: in these the second has the higher mIoU."""
    classes: list[Difference]
    changes: NDArray[np.float64]
    """mIoU of each compared image, second less first; NaN where it has none in one of them."""
    better: list[ImageChange]
    """Those that gained most, the most first."""
    worse: list[ImageChange]
    """Those that lost most, the most first."""
    only_a: Alone
    only_b: Alone
    settings: list[tuple[str, Any, Any]]
    """What differs between the two run.json: name, first, second."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared of a scoring: all its images, and what there is of the labelled ones, in one order."""

    images: pa.ChunkedArray
    labelled: pa.Table
    """image, sha256, label_sha256"""
    hits: NDArray[np.int64]
    """[labelled, C]"""
    unions: NDArray[np.int64]


def compare(place_a: Place, place_b: Place) -> Comparison:
    """Compare two scores folders. An image costs a name, two hashes and 32 bytes a class.

    RequestError: a folder is no scores folder; their classes, or an image's label, differ; no image is
    labelled in both. DamagedFile: a part of one of them.
    """
    places = (place_a, place_b)
    scores_a, scores_b = map(read_scores, places)
    classes, settings = scores_a.run.classes, (dict(scores_a.settings), dict(scores_b.settings))
    for what in ("classes", "label_map", "label_colours"):
        _check_same(places, what, *(one.get(what, ()) for one in settings))
    a, b = read_compared(place_a, len(classes)), read_compared(place_b, len(classes))
    one, other = a.labelled["image"], b.labelled["image"]
    in_a, in_b = pair(one, other)
    if not len(in_a):
        raise RequestError(f"{place_a} and {place_b} have no labelled image in common; compare others")
    _check_labels(places, a.labelled.take(pa.array(in_a)), b.labelled.take(pa.array(in_b)))
    sums = PairedSums(a.hits[in_a], a.unions[in_a], b.hits[in_b], b.unions[in_b])
    mious = mean_ious(sums.hits_a, sums.unions_a), mean_ious(sums.hits_b, sums.unions_b)
    samples = resample(sums)
    better, worse = _extremes(one.take(pa.array(in_a)), *mious)
    common = len(pair(a.images, b.images)[0])
    return Comparison(
        archive=archive_title(scores_a.run.archive),
        a=place_a.uri,
        b=place_b.uri,
        images=len(in_a),
        unlabelled=common - len(in_a),
        other_bytes=_count_other(a.labelled["sha256"], in_a, b.labelled["sha256"], in_b),
        miou=_total(sums, samples.interval()),
        better_share=samples.better_share(),
        classes=_by_class(sums, classes, samples.class_intervals()),
        changes=mious[1] - mious[0],
        better=better,
        worse=worse,
        only_a=_alone(a.images, b.images),
        only_b=_alone(b.images, a.images),
        settings=list(_differing(*settings)),
    )


def read_compared(place: Place, num_classes: int) -> Compared:
    """Read a scoring's ledger. DamagedFile: one of its folder's parts."""
    names: list[pa.ChunkedArray] = []
    labelled = [pa.table({name: pa.array([], pa.string()) for name in LABELLED_COLUMNS})]
    sums = [(np.empty((0, num_classes), np.int64),) * 2]
    for rows in read_ledger(place).rows([*LABELLED_COLUMNS, "confusion"]):
        names.append(rows["image"])
        counted = rows.filter(rows["confusion"].is_valid())
        labelled.append(counted.select(LABELLED_COLUMNS))
        sums.append(hits_and_unions(counted["confusion"], num_classes))
    hits, unions = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    images = pa.chunked_array([chunk for column in names for chunk in column.chunks], pa.string())
    return Compared(images, pa.concat_tables(labelled), hits, unions)


def pair(one: pa.ChunkedArray, other: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in one and in the other of the names that both hold, in natural order."""
    found = pc.call_function("index_in", [one], pc.SetLookupOptions(other.combine_chunks()))
    places = found.fill_null(-1).to_numpy().astype(np.int64)
    there = np.flatnonzero(places >= 0)
    there = there[natural_order(one.take(pa.array(there)))]
    return there, places[there]


def _check_same(places: tuple[Place, Place], what: str, one: Any, other: Any) -> None:
    if one != other:
        raise RequestError(
            f"{places[0]} and {places[1]} have different {what} ({_in_words(one)}; {_in_words(other)}); "
            "compare scorings of the same labels"
        )


def _check_labels(places: tuple[Place, Place], one: pa.Table, other: pa.Table) -> None:
    hashes = (table["label_sha256"].to_pylist() for table in (one, other))
    differing = [k for k, (a, b) in enumerate(zip(*hashes, strict=True)) if a != b]
    if differing:
        others = f" and of {len(differing) - 1} more" if differing[1:] else ""
        raise RequestError(
            f"the label of {one['image'][differing[0]]}{others} differs between {places[0]} and {places[1]}; "
            "score the older one again"
        )


def _count_other(
    one: pa.ChunkedArray, in_one: NDArray[np.int64], other: pa.ChunkedArray, in_other: NDArray[np.int64]
) -> int:
    pairs = zip(
        one.take(pa.array(in_one)).to_pylist(), other.take(pa.array(in_other)).to_pylist(), strict=True
    )
    return sum(a != b for a, b in pairs)


def _total(sums: PairedSums, interval: Interval) -> Difference:
    a = mean_ious(sums.hits_a.sum(0), sums.unions_a.sum(0))
    b = mean_ious(sums.hits_b.sum(0), sums.unions_b.sum(0))
    return Difference("mIoU", "", float(a), float(b), interval)


def _by_class(sums: PairedSums, classes: tuple[str, ...], intervals: list[Interval]) -> list[Difference]:
    a = class_ious(sums.hits_a.sum(0), sums.unions_a.sum(0)).tolist()
    b = class_ious(sums.hits_b.sum(0), sums.unions_b.sum(0)).tolist()
    columns = zip(classes, class_colours(classes), a, b, intervals, strict=True)
    return [Difference(*values) for values in columns]


def _extremes(
    names: pa.ChunkedArray, a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[list[ImageChange], list[ImageChange]]:
    """The images that gained most and those that lost most; one that did neither is in no list."""
    changes = b - a
    order = np.argsort(changes, kind="stable")  # NaN comes last
    worse = order[: int((changes < 0).sum())][:LISTED]
    known = order[: int((~np.isnan(changes)).sum())]
    better = known[len(known) - int((changes > 0).sum()) :][::-1][:LISTED]
    lists = ([ImageChange(str(names[k]), float(a[k]), float(b[k])) for k in ks] for ks in (better, worse))
    return next(lists), next(lists)


def _alone(names: pa.ChunkedArray, others: pa.ChunkedArray) -> Alone:
    there = pc.call_function("is_in", [names], pc.SetLookupOptions(others.combine_chunks()))
    left = names.filter(pc.call_function("invert", [there]))
    first = left.take(pa.array(natural_order(left)[:LISTED]))
    return Alone(len(left), first.to_pylist())


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*one, *other)):
        if one.get(name) != other.get(name):
            yield name, one.get(name), other.get(name)


def _in_words(values: Any) -> str:
    more = [f"and {len(values) - IN_WORDS} more"] if len(values) > IN_WORDS else []
    return ", ".join([*map(str, values[:IN_WORDS]), *more]) or "none"


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
        self.sources = [picture_sources(read_scores(place)) for place in self.places]

    def show(self, changes: Sequence[ImageChange]) -> list[Row]:
        """All of them with links, the first with pictures."""
        names = [change.image for change in changes[:PICTURED]]
        found = [find_rows(place, names) for place in self.places]
        return [self._row(change, [rows.get(change.image) for rows in found]) for change in changes]

    def _row(self, change: ImageChange, rows: list[Scored | None]) -> Row:
        pictures: list[Picture] = []
        notes: list[str] = []
        (source_a, source_b), (row_a, row_b) = self.sources, rows
        if source_a and source_b and row_a and row_b:
            pictures, notes = draw_panels((source_a, row_a), (source_b, row_b))
        return Row(change, self._links(change.image), pictures, notes)

    def _links(self, image: str) -> list[Link]:
        """To the image and to both masks, where they are files of this machine."""
        a, b = self.sources
        files = [("image", a and a.archive.place, split_page(image)[0])]
        files += [("mask A", a and a.masks, f"{image}.png"), ("mask B", b and b.masks, f"{image}.png")]
        return [
            Link(what, quote(os.path.relpath(place.local(name), self.base)))
            for what, place, name in files
            if place and place.is_local and self.base
        ]


def find_rows(place: Place, images: Sequence[str]) -> dict[str, Scored]:
    """The ledger's rows of some images, by name."""
    wanted = pc.SetLookupOptions(pa.array(images, pa.string()))
    found: dict[str, Scored] = {}
    for rows in Ledger(place).rows() if images else ():
        chosen = rows.filter(pc.call_function("is_in", [rows["image"]], wanted))
        found |= {row["image"]: Scored(**row) for row in chosen.to_pylist()}
    return found
