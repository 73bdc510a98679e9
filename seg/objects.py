"""Objects of a mask: components of each class, and those of truth and prediction matched."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, Label
from seg.ledger.outcome import FoundObject

CHUNK_PX = 1 << 18
"""Pixels whose probabilities are looked up together."""
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Places of predicted objects, of true ones, and the IoU of each pair."""


@dataclass(frozen=True, slots=True)
class Chords:
    """S chords that never overlap, int64 [S] each: pixels `starts` to `stops` - 1 of a row have one owner.

    A mask of 9 million pixels with 400 round objects has some 50,000 of them.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    owners: NDArray[np.int64]
    """What a chord belongs to: a class id, or the number of an object."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pixels of each."""
        return self.stops - self.starts

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Chords":
        """Those that a mask, or an array of places, chooses."""
        return Chords(self.rows[chosen], self.starts[chosen], self.stops[chosen], self.owners[chosen])


def cut_chords(ids: NDArray[np.uint8]) -> Chords:
    """All pixels of an image [H, W] as the longest chords of one id, which owns them, in reading order."""
    height, width = ids.shape
    begins = np.empty(ids.shape, np.bool_)
    begins[:, :1] = True
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    rows, starts = np.divmod(first, max(width, 1))
    stops = starts + np.diff(first, append=height * width)
    return Chords(rows, starts, stops, ids[rows, starts].astype(np.int64))


def join_chords(chords: Chords) -> NDArray[np.int64]:
    """Which 8-connected component of equal owners each chord is in, int64 [S], numbered in any order.

    chords: in reading order, those of one owner and row apart. Two touch where they are in neighbouring rows
    and not more than a diagonal step apart; what touches a chord stands together in the row below, between
    two places that a binary search finds.
    """
    line = int(chords.stops.max(initial=0)) + 1  # one column more than there are: rows stay apart
    starts, stops = chords.rows * line + chords.starts, chords.rows * line + chords.stops
    first = np.searchsorted(stops, starts + line)
    touching = np.maximum(np.searchsorted(starts, stops + line, side="right") - first, 0)
    upper = np.repeat(np.arange(len(starts)), touching)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(touching) - touching), touching)
    same = chords.owners[upper] == chords.owners[lower]
    pairs = upper[same], lower[same]
    from scipy.sparse import coo_array  # here, so that labelling refuses a wrong path at once
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(len(starts), len(starts)))
    return connected_components(graph, directed=False)[1].astype(np.int64) if len(starts) else starts


def overlaps(one: Chords, other: Chords) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Owners of one and of the other that share pixels, each pair once, and how many: int64 [P] each.

    one, other: in reading order, of one image.
    """
    line = int(max(one.stops.max(initial=0), other.stops.max(initial=0))) + 1
    edges = [part.rows * line + side for part in (one, other) for side in (part.starts, part.stops)]
    pieces = np.unique(np.concatenate(edges))  # from one edge to the next, owners do not change
    lengths = np.diff(pieces, append=pieces[-1:])
    mine, theirs = _owners_at(pieces, one, line), _owners_at(pieces, other, line)
    shared = (mine >= 0) & (theirs >= 0)
    base = int(other.owners.max(initial=0)) + 1
    pairs, place = np.unique(mine[shared] * base + theirs[shared], return_inverse=True)
    pixels = np.bincount(place, weights=lengths[shared], minlength=len(pairs)).astype(np.int64)
    return pairs // base, pairs % base, pixels


def _owners_at(pixels: NDArray[np.int64], chords: Chords, line: int) -> NDArray[np.int64]:
    """Who owns each pixel (row * line + column); -1: nobody."""
    if not len(chords.rows):
        return np.full(len(pixels), -1)
    nearest = np.searchsorted(chords.rows * line + chords.starts, pixels, side="right") - 1
    inside = (nearest >= 0) & (pixels < (chords.rows * line + chords.stops)[nearest])
    return np.where(inside, chords.owners[nearest], -1)


@dataclass(frozen=True, slots=True)
class Objects:
    """The N objects of one mask, by class, then top, then left of their boxes, then first pixel in a row."""

    class_ids: NDArray[np.int64]
    """[N]; never 0, which is background."""
    boxes: NDArray[np.int64]
    """[N, 4]: x, y, width, height in own pixels."""
    areas: NDArray[np.int64]
    """[N]: own pixels."""
    centroids: NDArray[np.float64]
    """[N, 2]: mean x and y of their pixels; the image's first pixel is at 0, 0."""
    confidences: NDArray[np.float64]
    """[N]: mean top probability of their pixels; NaN where none is known."""
    touches_border: NDArray[np.bool_]
    """[N]: whether a pixel lies on the image's border, so that the object may go on beyond it."""
    chords: Chords
    """Their pixels in reading order; owners are places in the arrays above."""

    def __len__(self) -> int:
        return len(self.areas)


def find_objects(
    ids: NDArray[np.uint8],
    num_classes: int,
    min_object_px: int,
    probability: NDArray[np.float32] | None = None,
) -> Objects:
    """The 8-connected components of each class but background (0), of at least `min_object_px` own pixels.

    ids: uint8 [H, W]; an id that is no class, as 255, is in no object. probability: the top probability of
    each working pixel, float32 [h, w]; an own pixel takes that of the working pixel its centre lies in.
    """
    chords = cut_chords(ids)
    chords = chords.take((chords.owners > 0) & (chords.owners < num_classes))
    components = join_chords(chords)
    by_component = np.argsort(components, kind="stable")  # within one still in reading order
    parts = chords.take(by_component)
    first = np.flatnonzero(np.diff(components[by_component], prepend=-1))
    areas, boxes, class_ids = np.add.reduceat(parts.lengths, first), _boxes(parts, first), parts.owners[first]
    order = np.lexsort((by_component[first], boxes[:, 0], boxes[:, 1], class_ids))
    order = order[areas[order] >= min_object_px]
    objects = np.full(len(first), -1)
    objects[order] = np.arange(len(order))
    found = replace(chords, owners=objects[components])
    size = (ids.shape[0], ids.shape[1])
    sums = _sum_probabilities(chords, size, probability)
    return Objects(
        class_ids[order],
        boxes[order],
        areas[order],
        _centroids(parts, first, areas)[order],
        (np.add.reduceat(sums[by_component], first) / areas)[order],
        _touches_border(boxes[order], size),
        found.take(found.owners >= 0),
    )


def object_rows(image: str, objects: Objects, ious: NDArray[np.float64] | None) -> tuple[FoundObject, ...]:
    """Objects of an image one by one, with None where a number is undefined.

    ious: of `match_objects`; None: the image has no label.
    """
    columns: Sequence[Sequence[Any]] = (
        objects.class_ids.tolist(),
        *objects.boxes.T.tolist(),
        objects.areas.tolist(),
        *objects.centroids.T.tolist(),
        _without_nan(objects.confidences),
        objects.touches_border.tolist(),
        _without_nan(np.full(len(objects), np.nan) if ious is None else ious),
    )
    return tuple(FoundObject(image, *row) for row in zip(*columns, strict=True))


def _boxes(parts: Chords, first: NDArray[np.int64]) -> NDArray[np.int64]:
    left, right = np.minimum.reduceat(parts.starts, first), np.maximum.reduceat(parts.stops, first)
    top, bottom = parts.rows[first], np.maximum.reduceat(parts.rows, first) + 1
    return np.stack([left, top, right - left, bottom - top], 1)


def _centroids(parts: Chords, first: NDArray[np.int64], areas: NDArray[np.int64]) -> NDArray[np.float64]:
    columns = (parts.starts + parts.stops - 1) * parts.lengths // 2  # their sum: the product is always even
    sums = [np.add.reduceat(part, first) for part in (columns, parts.rows * parts.lengths)]
    return np.stack(sums, 1) / areas[:, None]


def _sum_probabilities(
    chords: Chords, size: tuple[int, int], probability: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Sum over each chord's pixels of the nearest working pixel's probability; NaN where none is known.

    By parts of some CHUNK_PX pixels, so that neither the image's size nor its objects' decide the memory.
    """
    if probability is None:
        return np.full(len(chords.rows), np.nan)
    rows, columns = map(nearest_pixels, size, probability.shape)
    sums, chunks = [], np.cumsum(chords.lengths) // CHUNK_PX
    for chosen in np.split(np.arange(len(chunks)), np.flatnonzero(np.diff(chunks)) + 1):
        part = chords.take(chosen)
        begins = np.cumsum(part.lengths) - part.lengths
        place = np.arange(part.lengths.sum()) + np.repeat(part.starts - begins, part.lengths)
        sampled = probability[np.repeat(rows[part.rows], part.lengths), columns[place]]
        sums.append(np.add.reduceat(sampled, begins, dtype=np.float64))
    return np.concatenate(sums)


def nearest_pixels(own: int, working: int) -> NDArray[np.int64]:
    """The working pixel that each own pixel's centre lies in, along one side, int64 [own]; no rounding."""
    return (2 * np.arange(own) + 1) * working // (2 * own)


def _touches_border(boxes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    left, top, width, height = boxes.T
    return (left == 0) | (top == 0) | (left + width == size[1]) | (top + height == size[0])


def _without_nan(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


@dataclass(frozen=True, slots=True)
class Matches:
    """What the objects of one image came to; a true object is found or missed, by class, int64 [C] each."""

    found: NDArray[np.int64]
    """True objects that were predicted, and as many predicted ones that are right: true positives."""
    missed: NDArray[np.int64]
    """True objects that were not: false negatives."""
    invented: NDArray[np.int64]
    """Predicted objects that are none: false positives."""
    ious: NDArray[np.float64]
    """Of each predicted object with its true one; 0: invented; NaN: it does not count, as it is ignored."""


@dataclass(frozen=True, slots=True)
class ObjectRatios:
    """Shares of whole objects, of the shape of the counts; NaN where there is nothing to take a share of.

    As scikit-learn's precision_score, recall_score and f1_score with zero_division=nan: precision found /
    (found + invented), recall found / (found + missed), F1 2 found / (2 found + invented + missed).
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def match_objects(predicted: Objects, truth: Label, num_classes: int, min_object_px: int) -> Matches:
    """Match predicted objects one to one with true ones of the same class and image.

    True objects are the label's boxes, compared by the IoU of boxes, where it has boxes; else the components
    of its mask, compared by the IoU of pixels; in both cases those of at least `min_object_px` pixels.
    Pairs with an IoU of 0.5 or more are taken in descending IoU, equal ones in the order of the predicted
    object, then of the true one (`Objects`'s order: class, top, left), and a pair of which either is taken
    is passed over. COCO's evaluation goes by descending score instead: there is no threshold to choose here.

    Ignored pixels (255) as in panoptic quality (Kirillov et al. 2019, arXiv:1801.00868, section 4.2): they
    are taken out of the predicted objects before IoU, and an object without a match of which more than half
    was ignored is not invented.
    """
    if truth.boxes is not None:
        boxes = truth.boxes[truth.boxes[:, 3] * truth.boxes[:, 4] >= min_object_px]
        boxes = boxes[np.lexsort(boxes.T[[4, 3, 1, 2, 0]])]  # whatever their order in the file
        true_classes, ignored = boxes[:, 0], np.zeros(len(predicted), np.int64)
        candidates = _pairs_of_boxes(predicted, boxes)
    else:
        known = find_objects(truth.mask, num_classes, min_object_px)
        true_classes, ignored = known.class_ids, _ignored_pixels(predicted, truth.mask)
        candidates = _pairs_of_pixels(predicted, known, predicted.areas - ignored)
    ious, taken = _match_greedily(candidates, len(predicted), len(true_classes))
    ious[(ious == 0) & (2 * ignored > predicted.areas)] = np.nan
    found, missed, invented = (
        np.bincount(kinds, minlength=num_classes).astype(np.int64)
        for kinds in (true_classes[taken], true_classes[~taken], predicted.class_ids[ious == 0])
    )
    return Matches(found, missed, invented, ious)


def object_ratios(
    found: NDArray[np.int64], missed: NDArray[np.int64], invented: NDArray[np.int64]
) -> ObjectRatios:
    """Precision, recall and F1 of counts: by class from [C], over all classes (micro) from their sums."""
    return ObjectRatios(
        _share(found, found + invented),
        _share(found, found + missed),
        _share(2 * found, 2 * found + invented + missed),
    )


def summarise_objects(
    found: NDArray[np.int64], missed: NDArray[np.int64], invented: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Counts and ratios over all classes and, below `classes`, of each but background, as plain values."""

    def describe(counts: list[NDArray[np.int64]]) -> dict[str, Any]:
        whole = zip(("found", "missed", "invented"), map(int, counts), strict=True)
        return {
            **dict(whole),
            **{name: float(share) for name, share in asdict(object_ratios(*counts)).items()},
        }

    counts = (found, missed, invented)
    by_class = {name: describe([count[k] for count in counts]) for k, name in enumerate(classes) if k > 0}
    return {**describe([count.sum() for count in counts]), "classes": by_class}


def _match_greedily(
    candidates: Pairs, num_predicted: int, num_true: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """IoU of each predicted object with its true one (0: none), and which true ones have a match."""
    predicted, true, iou = candidates
    ious, taken = np.zeros(num_predicted), np.zeros(num_true, np.bool_)
    for place in np.lexsort((true, predicted, -iou)).tolist():
        if ious[predicted[place]] == 0 and not taken[true[place]]:
            ious[predicted[place]], taken[true[place]] = iou[place], True
    return ious, taken


def _pairs_of_pixels(predicted: Objects, known: Objects, counted: NDArray[np.int64]) -> Pairs:
    """Pairs of one class that share half of their pixels or more; `counted`: pixels that are not ignored."""
    mine, theirs, shared = overlaps(predicted.chords, known.chords)
    union = counted[mine] + known.areas[theirs] - shared
    half = (2 * shared >= union) & (predicted.class_ids[mine] == known.class_ids[theirs])
    return mine[half], theirs[half], shared[half] / union[half]


def _pairs_of_boxes(predicted: Objects, boxes: NDArray[np.int64]) -> Pairs:
    """Pairs of one class whose boxes share half of their area or more; boxes: class, x, y, width, height."""
    left, top, width, height = predicted.boxes.T
    pairs = []
    for place, (kind, x, y, w, h) in enumerate(boxes.tolist()):  # one at a time: memory for N, not N x boxes
        across = np.minimum(left + width, x + w) - np.maximum(left, x)
        down = np.minimum(top + height, y + h) - np.maximum(top, y)
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        union = width * height + w * h - shared
        mine = np.flatnonzero((2 * shared >= union) & (predicted.class_ids == kind))
        pairs.append((mine, np.full(len(mine), place), shared[mine] / union[mine]))
    none = np.empty(0, np.int64)
    mine, theirs, ious = zip((none, none, np.empty(0)), *pairs, strict=True)
    return np.concatenate(mine), np.concatenate(theirs), np.concatenate(ious)


def _ignored_pixels(predicted: Objects, mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each predicted object whose truth is 255."""
    ignored = np.zeros(len(predicted), np.int64)
    if (mask == IGNORE).any():
        chords = cut_chords(mask)
        mine, _, shared = overlaps(predicted.chords, chords.take(chords.owners == IGNORE))
        ignored[mine] = shared
    return ignored


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
