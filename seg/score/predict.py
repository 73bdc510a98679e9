"""One image at a time read, predicted and counted where its logits are; only a small Outcome leaves."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.labels import encode_mask
from seg.data.reading_memory import Turn
from seg.files import persistently
from seg.ledger.outcome import Outcome, Scored
from seg.metrics import confusion_matrix, count_classes
from seg.objects import find_objects, match_objects, object_rows
from seg.predict.predictor import Prediction, open_predictor
from seg.score.blame import MODEL, WRITE, InFlight, Note
from seg.score.paths import mask_name
from seg.score.queue import Order
from seg.score.read import AHEAD, ImageReader, PixelCounts, ScorerSettings, Work
from seg.storage import Place

WRITERS = 2
"""Masks that are encoded and written at a time, behind the model."""
BUSY = AHEAD + 1 + WRITERS
"""Images that keep every thread of a scorer busy."""


class ImageScorer:
    """Scores images with one model on one device: reading runs ahead of it, writing behind it.

    A plain class; cluster/scorer_workers.py makes actors of it.
    """

    def __init__(
        self, settings: ScorerSettings, device: str | None = None, *, process: str | None = None
    ) -> None:
        """`device`: None is the GPU where there is one. `process`: its name in inflight/; None: no notes.

        RequestError: the model file cannot be used.
        """
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.predictor, self.card = open_predictor(
            settings.model,
            self.device,
            tiling=settings.tiling,
            batch=settings.batch,
            precision=settings.precision,
            blend=settings.blend,
        )
        self.num_classes = len(self.card.classes)
        self.inflight = InFlight(settings.out.below("inflight") if process else None, process or "")
        self.reader = ImageReader(settings, self.card, self.inflight)
        self._readers = ThreadPoolExecutor(AHEAD, "read")
        self._model = ThreadPoolExecutor(1, "model")
        self._writers = ThreadPoolExecutor(WRITERS, "write")
        self._lock, self._free = threading.Lock(), AHEAD + 1
        self._waiting: deque[tuple[Order, Future[Work], Turn]] = deque()
        """Asked for and not begun: what is held in memory is bounded, however much is asked for."""

    def submit(self, order: Order) -> Future[Outcome]:
        """Score an image in its turn. OSError, from the result: storage stayed away.

        To be called by any number of threads. Readers and model get images in one order: a model that waits
        for one which later ones keep from being read would wait for ever.
        """
        prepared: Future[Work] = Future()
        with self._lock:
            turn = self.reader.memory.queue()
            self._waiting.append((order, prepared, turn))
            predicted = self._model.submit(self._predict, prepared)
            finished = self._writers.submit(self._finish, predicted, turn)
        self._begin_next()
        return finished

    def score(self, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Score images, in order."""
        source = iter(orders)
        begun = deque(map(self.submit, islice(source, BUSY)))
        while begun:
            outcome = begun.popleft().result()
            begun.extend(map(self.submit, islice(source, 1)))
            yield outcome

    def notes(self) -> dict[str, Note]:
        """The images in work, their stages and ages."""
        return self.inflight.notes()

    def close(self) -> None:
        """Let go of what has not begun."""
        self.reader.memory.close()
        with self._lock:
            while self._waiting:
                self._waiting.pop()[1].cancel()
        for pool in (self._model, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False)

    def _begin_next(self) -> None:
        """Let a reader begin the next image, if there is room: in order, as the model wants the oldest."""
        with self._lock:
            if not (self._waiting and self._free):
                return
            self._free -= 1
            self._readers.submit(self._prepare, *self._waiting.popleft())

    def _prepare(self, order: Order, prepared: Future[Work], turn: Turn) -> None:
        try:
            prepared.set_result(self.reader.prepare(order, turn))
        except BaseException as error:
            prepared.set_exception(error)

    def _predict(self, prepared: Future[Work]) -> tuple[Work, Prediction | None]:
        try:
            work = prepared.result()
            return work, self.predict(work) if work.frames else None
        finally:
            with self._lock:
                self._free += 1
            self._begin_next()

    def predict(self, work: Work) -> Prediction:
        """Predict a prepared image and count it; its Work gets the counts."""
        assert work.pixels is not None, "it was decoded"
        self.inflight.enter(work.order.image, MODEL)
        with work.timed("model"):
            prediction = self.predictor.predict_frames(work.frames, work.pixels.size, probability=True)
            work.counts = count_pixels(prediction.ids, work.truth, self.num_classes)
            work.frames = []
        self.inflight.wait(work.order.image)
        return prediction

    def _finish(self, predicted: Future[tuple[Work, Prediction | None]], turn: Turn) -> Outcome:
        with turn:
            work, prediction = predicted.result()  # raises: the image stays noted, which tells its stage
            outcome = work.aside
            if prediction is not None:
                self.inflight.enter(work.order.image, WRITE)
                outcome = finish(work, prediction, self.settings, self.num_classes)
            self.inflight.end(work.order.image)
            assert outcome is not None, "an image without a prediction is set aside"
            return outcome


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask's file as it was written; None: there is none."""

    mask_bytes: int | None = None
    mask_sha256: str | None = None


def write_mask(place: Place, name: str, ids: NDArray[np.uint8]) -> MaskFile:
    """Write class ids as an 8-bit PNG of one channel, whole or not at all.

    The folders of sequences are made below place. OSError: storage refused, also after a while.
    """
    content = encode_mask(ids)
    persistently(partial(place.write_below, name, content), f"{place}/{name}")
    return MaskFile(len(content), hashlib.sha256(content).hexdigest())


def count_pixels(ids: Tensor, truth: NDArray[np.uint8] | None, num_classes: int) -> PixelCounts:
    """Count ids, and truth against them where there is one; both uint8 of one shape [H, W]."""
    class_pixels = tuple(count_classes(ids, num_classes).tolist())
    if truth is None:
        return PixelCounts(class_pixels)
    confusion = confusion_matrix(truth, ids, num_classes)
    ignored = truth.size - int(confusion.sum())  # a pixel is in the matrix, or ignored
    return PixelCounts(class_pixels, tuple(confusion.flatten().tolist()), ignored)


def finish(work: Work, prediction: Prediction, settings: ScorerSettings, num_classes: int) -> Scored:
    """Find a counted image's objects, write its mask. OSError: that cannot be written, also after a while."""
    assert work.file is not None, "it was read"
    assert work.pixels is not None, "it was decoded"
    assert work.counts is not None, "it was counted"
    assert prediction.probability is not None, "it was asked for"
    ids, probability = prediction.ids.cpu().numpy(), prediction.probability.cpu().numpy()
    with work.timed("write"):
        found = find_objects(ids, num_classes, settings.min_object_px, probability)
        matches = work.label and match_objects(found, work.label, num_classes, settings.min_object_px)
        objects = object_rows(work.order.image, found, matches and matches.ious)
        masks, name = settings.out.below("masks"), mask_name(work.order.image)
        mask = write_mask(masks, name, ids) if settings.masks else MaskFile()
    return Scored(
        image=work.order.image,
        **asdict(work.file),
        **asdict(work.label_file),
        **asdict(work.pixels),
        labelled=work.label is not None,
        **asdict(work.counts),
        confidence=prediction.confidence,
        objects_found=matches and tuple(matches.found.tolist()),
        objects_missed=matches and tuple(matches.missed.tolist()),
        objects_invented=matches and tuple(matches.invented.tolist()),
        **asdict(mask),
        background_frames=work.background_frames,
        seconds_read=work.seconds["read"],
        seconds_decode=work.seconds["decode"],
        seconds_model=work.seconds["model"],
        seconds_write=work.seconds["write"],
        attempt=work.order.attempt,
        finished_at=datetime.now(UTC),
        objects=objects,
        orientation=work.orientation,
    )
