"""One image a row, read, predicted and counted where its logits are; only small rows leave."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.labels import encode_mask
from seg.data.reading_memory import Turn
from seg.files import persistently
from seg.metrics import confusion_matrix, count_classes
from seg.objects import find_objects, match_objects, object_rows
from seg.predict.predictor import Prediction, open_predictor
from seg.score.blame import MODEL, WRITE, InFlight, Note
from seg.score.read import AHEAD, ImageReader, ScoreRow, ScorerSettings, Work
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
        self._waiting: deque[tuple[ScoreRow, Future[Work], Turn]] = deque()
        """Asked for and not begun: what is held in memory is bounded, however much is asked for."""

    def submit(self, request: ScoreRow) -> Future[dict[str, Any]]:
        """Score an image in its turn; its outcome row. OSError, from the result: storage stayed away.

        To be called by any number of threads. Readers and model get images in one order: a model that waits
        for one which later ones keep from being read would wait for ever.
        """
        prepared: Future[Work] = Future()
        with self._lock:
            turn = self.reader.memory.queue()
            self._waiting.append((request, prepared, turn))
            predicted = self._model.submit(self._predict, prepared)
            finished = self._writers.submit(self._finish, request["image"], predicted, turn)
        self._begin_next()
        return finished

    def score(self, requests: Iterable[ScoreRow]) -> Iterator[dict[str, Any]]:
        """One outcome row an image, in order."""
        source = iter(requests)
        rows = deque(self.submit(request) for request in islice(source, BUSY))
        while rows:
            row = rows.popleft().result()
            rows.extend(self.submit(request) for request in islice(source, 1))
            yield row

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

    def _prepare(self, request: ScoreRow, prepared: Future[Work], turn: Turn) -> None:
        try:
            prepared.set_result(self.reader.prepare(request, turn))
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
        """Predict a prepared image and count it; its row gets the counts."""
        self.inflight.enter(work.row["image"], MODEL)
        with work.timed("model"):
            size = (work.row["height"], work.row["width"])
            prediction = self.predictor.predict_frames(work.frames, size, probability=True)
            work.row |= count_pixels(prediction.ids, work.truth, self.num_classes)
            work.row["confidence"] = prediction.confidence
            work.frames = []
        self.inflight.wait(work.row["image"])
        return prediction

    def _finish(
        self, image: str, predicted: Future[tuple[Work, Prediction | None]], turn: Turn
    ) -> dict[str, Any]:
        with turn:
            return self._finish_predicted(image, predicted)

    def _finish_predicted(
        self, image: str, predicted: Future[tuple[Work, Prediction | None]]
    ) -> dict[str, Any]:
        work, prediction = predicted.result()  # raises: the image stays noted, which tells its stage
        if prediction is not None:
            self.inflight.enter(image, WRITE)
            assert prediction.probability is not None, "it was asked for"
            ids, probability = prediction.ids.cpu().numpy(), prediction.probability.cpu().numpy()
            finish(work, ids, probability, self.settings, self.num_classes)
        self.inflight.end(image)
        return work.row


def count_pixels(ids: Tensor, truth: NDArray[np.uint8] | None, num_classes: int) -> dict[str, Any]:
    """The ledger's counts of an image or a part of one: `class_pixels`, and, of a labelled one, the others.

    ids, truth: uint8 of one shape [H, W]. None: unlabelled.
    """
    counts: dict[str, Any] = {
        "class_pixels": count_classes(ids, num_classes).tolist(),
        "confusion": None,
        "ignored": None,
    }
    if truth is not None:
        confusion = confusion_matrix(truth, ids, num_classes)
        counts["confusion"] = confusion.flatten().tolist()
        counts["ignored"] = truth.size - int(confusion.sum())  # a pixel is in the matrix, or ignored
    return counts


def finish(
    work: Work,
    ids: NDArray[np.uint8],
    probability: NDArray[np.float32] | None,
    settings: ScorerSettings,
    num_classes: int,
) -> dict[str, Any]:
    """Find an image's objects, write its mask, complete its row.

    ids: uint8 [H, W]. probability: of each working pixel, float32 [h, w]. OSError: the mask cannot be
    written, also after a while.
    """
    with work.timed("write"):
        work.row |= count_objects(work, ids, probability, settings.min_object_px, num_classes)
        if settings.masks:
            work.row |= write_mask(settings.out.below("masks"), f"{work.row['image']}.png", ids)
    work.row |= {f"seconds_{stage}": seconds for stage, seconds in work.seconds.items()}
    work.row["finished_at"] = datetime.now(UTC)
    return work.row


def count_objects(
    work: Work,
    ids: NDArray[np.uint8],
    probability: NDArray[np.float32] | None,
    min_object_px: int,
    num_classes: int,
) -> dict[str, Any]:
    """An image's `objects`, rows of OBJECTS_SCHEMA, and, of a labelled one, how many were found or not."""
    objects = find_objects(ids, num_classes, min_object_px, probability)
    if work.label is None:
        return {"objects": object_rows(work.row["image"], objects, None)}
    matches = match_objects(objects, work.label, num_classes, min_object_px)
    return {
        "objects": object_rows(work.row["image"], objects, matches.ious),
        "objects_found": matches.found.tolist(),
        "objects_missed": matches.missed.tolist(),
        "objects_invented": matches.invented.tolist(),
    }


def write_mask(place: Place, name: str, ids: NDArray[np.uint8]) -> dict[str, Any]:
    """Write class ids as an 8-bit PNG of one channel, whole or not at all; what the ledger says of that file.

    A dictionary of `mask_bytes` and `mask_sha256`. The folders of sequences are made below place. OSError:
    storage refused, also after a while.
    """
    content = encode_mask(ids)
    persistently(partial(place.write_below, name, content), f"{place}/{name}")
    return {"mask_bytes": len(content), "mask_sha256": hashlib.sha256(content).hexdigest()}
