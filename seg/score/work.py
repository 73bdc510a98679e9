"""An image on its way through the stages of a scoring: plain values and arrays, so that it travels."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.images import UPRIGHT
from seg.data.labels import Label
from seg.errors import ImageError
from seg.ledger.outcome import STAGES, Quarantined
from seg.predict.counts import PixelCounts, mean_confidence
from seg.predict.tiling import CutCrops, FrameCrops
from seg.score.queue import Answer, Order

COUNTED_BYTES = 8
"""For each own pixel, and for each working one: ids, top probability, and what finding objects takes."""
Edges = tuple[int, int, int, int]
"""Top, bottom, left, right."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image's file as it was read, under the ledger's names, as all facts here."""

    bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label's file as it was read; None: it was not."""

    label_path: str | None = None
    label_bytes: int | None = None
    label_mtime_ns: int | None = None
    label_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """Size, kind and brightness of an image as stored, over all channels."""

    height: int
    width: int
    channels: int
    bit_depth: int
    intensity_mean: float
    intensity_std: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model says of an image."""

    ids: NDArray[np.uint8]
    """At its own size, [H, W]."""
    probability: NDArray[np.float32]
    """Top probability of each working pixel, [h, w]."""
    confidence: float
    """Mean top probability of the working pixels."""
    counts: PixelCounts


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of an image a Work is, where several processes share it."""

    number: int
    of: int
    first_row: int
    """Of `truth` at the image's own size."""
    truth: NDArray[np.uint8] | None
    """The rows of the label that it counts against, [h, W]; None: unlabelled."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a model says of a share of an image, piece after piece, each row by row."""

    own: tuple[Edges, ...]
    """Of each piece, in own pixels."""
    working: tuple[Edges, ...]
    """Of each piece, in working pixels."""
    sums: tuple[float, ...]
    """Of each piece's top probabilities."""
    ids: NDArray[np.uint8]
    probability: NDArray[np.float32]
    counts: PixelCounts
    """Of all of them."""


@dataclass(slots=True, eq=False)
class Work:
    """One image, or its share of one."""

    order: Order
    aside: Quarantined | None = None
    """Set where the image cannot be used."""
    file: ImageFile | None = None
    label_file: LabelFile = LabelFile()
    orientation: int = UPRIGHT
    pixels: PixelFacts | None = None
    shown: NDArray[np.uint8] | None = None
    """What its overlay is drawn on; None: it gets none. Of an image that is shared, with its first share."""
    background_frames: int = 0
    crops: FrameCrops | CutCrops | None = None
    """What the model sees; None: the image cannot be read, or is predicted."""
    label: Label | None = None
    """Of an image that is shared, with its first share alone."""
    share: Share | None = None
    """None: it is the whole image."""
    predicted: Predicted | None = None
    pieces: Pieces | None = None
    """Of a share that is predicted."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    answer: Answer | None = None
    """What came of it; None: it goes on to the next stage."""
    nodes: dict[str, str] = field(default_factory=dict)
    """Where it was, by stage; empty where there is but one place."""

    def set_aside(self, error: ImageError) -> None:
        """The image cannot be used."""
        self.aside = Quarantined(
            image=self.order.image,
            reason=error.reason,
            detail=str(error),
            bytes=self.file and self.file.bytes,
            mtime_ns=self.file and self.file.mtime_ns,
            label_path=self.label_file.label_path,
            label_bytes=self.label_file.label_bytes,
            label_mtime_ns=self.label_file.label_mtime_ns,
            attempts=self.order.attempt,
        )

    def divide(self, most: int, batch: int) -> list["Work"]:
        """Its crops in up to so many shares that fill passes of `batch` crops; itself where that is one."""
        assert isinstance(self.crops, CutCrops), "its crops are cut"
        parts = self.crops.shares(most, batch)
        if len(parts) == 1:
            return [self]
        works = []
        for number, part in enumerate(parts):
            rows = part.own_rows()
            truth = None if self.label is None else self.label.mask[rows]
            share = Share(number, len(parts), rows.start, truth)
            label, seconds = (self.label, self.seconds) if number == 0 else (None, dict.fromkeys(STAGES, 0.0))
            work = replace(self, crops=part, share=share, label=label, seconds=dict(seconds))
            work.shown = self.shown if number == 0 else None
            works.append(work)
        return works

    def arrays(self) -> list[NDArray[Any]]:
        """All that is large of it; its crops are cut."""
        found = [self.crops.pixels] if isinstance(self.crops, CutCrops) else []
        found += [self.shown] if self.shown is not None else []
        found += [self.label.mask] if self.label else []
        found += [self.share.truth] if self.share and self.share.truth is not None else []
        for model_says in (self.predicted, self.pieces):
            found += [model_says.ids, model_says.probability] if model_says else []
        return found

    def with_arrays(self, arrays: Iterator[NDArray[Any]]) -> "Work":
        """The same with others in their place, in that order."""
        work = replace(self)
        if isinstance(self.crops, CutCrops):
            work.crops = replace(self.crops, pixels=next(arrays))
        if self.shown is not None:
            work.shown = next(arrays)
        if self.label:
            work.label = replace(self.label, mask=next(arrays))
        if self.share and self.share.truth is not None:
            work.share = replace(self.share, truth=next(arrays))
        if self.predicted:
            work.predicted = replace(self.predicted, ids=next(arrays), probability=next(arrays))
        if self.pieces:
            work.pieces = replace(self.pieces, ids=next(arrays), probability=next(arrays))
        return work

    @property
    def truth(self) -> NDArray[np.uint8] | None:
        """What it is counted against, uint8 rows of the image at its own size; None: unlabelled."""
        if self.share is not None:
            return self.share.truth
        return None if self.label is None else self.label.mask

    @property
    def held_bytes(self) -> int:
        """About what it takes from now until its mask is written."""
        if self.crops is None or self.pixels is None:
            return 0
        own = 0 if self.truth is None else self.truth.size
        own += 0 if self.shown is None else self.shown.nbytes
        return self.crops.nbytes + own + COUNTED_BYTES * self.pixels.height * self.pixels.width

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a block's seconds to one stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


class Assembly:
    """An image whose shares come back, in any order."""

    def __init__(self) -> None:
        self._shares: dict[int, Work] = {}

    def add(self, work: Work) -> Work | None:
        """The image, once this was its last share; what came of any of them comes of it."""
        assert work.share is not None, "else it is whole"
        self._shares[work.share.number] = work
        if len(self._shares) < work.share.of:
            return None
        whole, shares = self._shares[0], list(self._shares.values())
        whole.nodes = {stage: node for one in reversed(shares) for stage, node in one.nodes.items()}
        whole.answer = next((one.answer for one in shares if one.answer is not None), None)
        if whole.answer is None:
            whole.predicted = self._put_together(shares)
            whole.seconds["model"] = sum(one.seconds["model"] for one in shares)
        whole.share = whole.pieces = None
        return whole

    def _put_together(self, shares: list[Work]) -> Predicted:
        found = [one.pieces for one in shares if one.pieces is not None]
        ids = np.empty(_size([edges for part in found for edges in part.own]), np.uint8)
        small = _size([edges for part in found for edges in part.working])
        probability = np.empty(small, np.float32)
        for part in found:
            _fill(ids, part.own, part.ids)
            _fill(probability, part.working, part.probability)
        total = sum((part.counts for part in found[1:]), found[0].counts)
        sums = (value for part in found for value in part.sums)
        return Predicted(ids, probability, mean_confidence(sums, small), total)


def _size(places: list[Edges]) -> tuple[int, int]:
    return max(bottom for _, bottom, _, _ in places), max(right for *_, right in places)


def _fill(whole: NDArray[Any], places: tuple[Edges, ...], values: NDArray[Any]) -> None:
    used = 0
    for top, bottom, left, right in places:
        place = whole[top:bottom, left:right]
        place[:] = values[used : used + place.size].reshape(place.shape)
        used += place.size
