"""Regions of an image as horizontal strips: what is asked of regions then costs by strips, not by pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, slots=True)
class Strips:
    """S strips that never overlap, int64 [S] each: pixels `starts` to `stops` - 1 of a row have one owner.

    A mask of 9 million pixels with 400 round objects has some 50,000 of them.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    owners: NDArray[np.int64]
    """What a strip belongs to: a class id, or the number of an object."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pixels of each."""
        return self.stops - self.starts

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Strips":
        """Those that a mask, or an array of places, chooses."""
        return Strips(self.rows[chosen], self.starts[chosen], self.stops[chosen], self.owners[chosen])

    def owned(self, owners: NDArray[np.int64]) -> "Strips":
        """The same strips with other owners."""
        return Strips(self.rows, self.starts, self.stops, owners)


def cut_strips(ids: NDArray[np.uint8]) -> Strips:
    """All pixels of an image [H, W] as the longest strips of one id, which owns them, in reading order."""
    height, width = ids.shape
    begins = np.empty(ids.shape, np.bool_)
    begins[:, :1] = True
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    rows, starts = np.divmod(first, max(width, 1))
    stops = starts + np.diff(first, append=height * width)
    return Strips(rows, starts, stops, ids[rows, starts].astype(np.int64))


def join_strips(strips: Strips) -> NDArray[np.int64]:
    """Which 8-connected component of equal owners each strip is in, int64 [S], numbered in any order.

    strips: in reading order, those of one owner and row apart. Two touch where they are in neighbouring rows
    and not more than a diagonal step apart; what touches a strip stands together in the row below, between
    two places that a binary search finds.
    """
    line = int(strips.stops.max(initial=0)) + 1  # one column more than there are: rows stay apart
    starts, stops = strips.rows * line + strips.starts, strips.rows * line + strips.stops
    first = np.searchsorted(stops, starts + line)
    touching = np.maximum(np.searchsorted(starts, stops + line, side="right") - first, 0)
    upper = np.repeat(np.arange(len(starts)), touching)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(touching) - touching), touching)
    same = strips.owners[upper] == strips.owners[lower]
    pairs = upper[same], lower[same]
    graph = coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(len(starts), len(starts)))
    return connected_components(graph, directed=False)[1].astype(np.int64) if len(starts) else starts


def overlaps(one: Strips, other: Strips) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
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


def _owners_at(pixels: NDArray[np.int64], strips: Strips, line: int) -> NDArray[np.int64]:
    """Who owns each pixel (row * line + column); -1: nobody."""
    if not len(strips.rows):
        return np.full(len(pixels), -1)
    nearest = np.searchsorted(strips.rows * line + strips.starts, pixels, side="right") - 1
    inside = (nearest >= 0) & (pixels < (strips.rows * line + strips.stops)[nearest])
    return np.where(inside, strips.owners[nearest], -1)
