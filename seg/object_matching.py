"""Which predicted objects the truth knows: found, missed and invented ones, counted as whole numbers.

The state is integers, so that it adds up over images in any order; ratios come last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, Label
from seg.objects import Objects, find_objects
from seg.strips import cut_strips, overlaps

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Places of predicted objects, of true ones, and the IoU of each pair."""


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
        ratios = object_ratios(*counts)
        named = {"precision": ratios.precision, "recall": ratios.recall, "f1": ratios.f1}
        whole = zip(("found", "missed", "invented"), map(int, counts), strict=True)
        return {**dict(whole), **{name: float(ratio) for name, ratio in named.items()}}

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
    mine, theirs, shared = overlaps(predicted.strips, known.strips)
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
        strips = cut_strips(mask)
        mine, _, shared = overlaps(predicted.strips, strips.take(strips.owners == IGNORE))
        ignored[mine] = shared
    return ignored


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
