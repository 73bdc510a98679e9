"""Two scorings of the same images, side by side: by class, by image, and how sure the difference is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.errors import RequestError
from seg.figures.panels import class_colours
from seg.ledger.ledger import read_ledger
from seg.report.page import flatten
from seg.report.report import archive_title, read_scores
from seg.report.survey import class_ious, hits_and_unions, mean_ious, natural_order
from seg.storage import Place

RESAMPLES = 2000
LEVEL = (2.5, 97.5)
"""Percentiles that hold 95 % of the resamples."""
CHUNK = 1 << 22
"""Numbers of a block of counts, 32 MB."""
LISTED = 50
"""Images named of the better, of the worse, and of those in one scoring alone."""
LABELLED_COLUMNS = ["image", "sha256", "label_sha256"]


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
class Scored:
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
    (run_a, summary_a), (run_b, summary_b) = map(read_scores, places)
    _check_same(places, "classes", summary_a["classes"], summary_b["classes"])
    _check_same(places, "label_map", run_a["label_map"], run_b["label_map"])
    classes: tuple[str, ...] = tuple(summary_a["classes"])
    a, b = read_scored(place_a, len(classes)), read_scored(place_b, len(classes))
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
        archive=archive_title(run_a["archive"]),
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
        settings=list(_differing(run_a, run_b)),
    )


def read_scored(place: Place, num_classes: int) -> Scored:
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
    return Scored(images, pa.concat_tables(labelled), hits, unions)


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


def _differing(run_a: dict[str, Any], run_b: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    one, other = dict(flatten(run_a)), dict(flatten(run_b))
    for name in dict.fromkeys((*one, *other)):
        if one.get(name) != other.get(name):
            yield name, one.get(name), other.get(name)


def _in_words(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"
