"""One image over several workers: its windows in shares, its pixels once in the object store (`shard=crops`).

For a few huge images, or an answer at once. Many images are scored faster whole, an image a worker: there no
pixel crosses a process border, and an image that kills its worker is found and set aside.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seg.ledger.outcome import Outcome
from seg.model_card import ModelCard
from seg.predict.predictor import Piece, Prediction, Predictor, Rectangle, mean_confidence, open_predictor
from seg.score.predict import count_pixels, finish
from seg.score.queue import Order, WorkersKeepDying
from seg.score.read import ImageReader, PixelCounts, ScorerSettings, Work

SHARES_PER_WORKER = 4
"""Shares of an image for each worker, so that they end together."""
IMAGES_AHEAD = 1
"""Images that are read and decoded while the one before is predicted."""
TRIES = 3
"""How often pixels are asked for, where the process that held them is gone."""
DEATHS = 2
"""That a worker may die; at the next one the job ends, since all have a share of each image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a share of an image gives: of each of its pieces in turn, row by row, arrays as bytes."""

    counts: list[int]
    """Of all its pieces: class_pixels, ignored, and of a labelled image confusion."""
    sums: list[float]
    """Of each piece's top probabilities."""
    own: list[int]
    """Of each piece four edges: top, bottom, left, right."""
    working: list[int]
    ids: bytes
    probability: bytes
    seconds: float


def score_crops(
    settings: ScorerSettings, card: ModelCard, orders: Sequence[Order], workers: int, *, gpus: float
) -> Iterator[list[Outcome]]:
    """Outcomes as ImageScorer gives them, in order; each image is predicted by all workers together.

    A list comes with each share, and holds an outcome where the share was its image's last. Ray runs.
    settings.blend is core. gpus: of each worker. RequestError: the model file fits no network.
    WorkersKeepDying: one died too often.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    shared = ray.remote(SharedImages).options(
        num_cpus=0, max_concurrency=2 * workers + 2, max_restarts=-1, max_task_retries=TRIES
    )
    images: Any = shared.remote(settings, card, list(orders))
    image = ""
    try:
        shares = _predict_shares(settings, images, len(orders), workers, gpus=gpus)
        for number, order in enumerate(orders):
            image, assembly = order.image, None
            for share in islice(shares, workers * SHARES_PER_WORKER):
                assembly = assembly or ImageAssembly(fetch(images, number), len(card.classes))
                assembly.add(share)
                yield []
            assert assembly is not None, "every image has shares"
            yield [assembly.finish(settings)]
            ray.get(images.release.remote(number))  # else our end kills it half-way, which Ray reports
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        raise WorkersKeepDying(
            f"`shard=crops`: a worker has died {DEATHS + 1} times, the last time at {image} or the next "
            "image; without `shard=crops` an image that kills workers is set aside"
        ) from error
    finally:
        ray.kill(images)


def _predict_shares(
    settings: ScorerSettings, images: Any, num_images: int, workers: int, *, gpus: float
) -> Iterator[Share | None]:
    """Shares in turn, image by image, each predicted by the worker that is free first."""
    import ray
    from ray.util import ActorPool

    num_shares = workers * SHARES_PER_WORKER
    make_worker: Any = ray.remote(CropPredictor).options(
        num_cpus=settings.threads, num_gpus=gpus, max_restarts=DEATHS, max_task_retries=DEATHS
    )
    pool: Any = ActorPool([make_worker.remote(settings, images, num_shares) for _ in range(workers)])
    shares = [(number, share) for number in range(num_images) for share in range(num_shares)]
    return pool.map(lambda worker, share: worker.predict_share.remote(*share), shares)


class SharedImages:
    """Reads each image once and holds it in the object store; `score_crops` makes an actor of it."""

    def __init__(self, settings: ScorerSettings, card: ModelCard, orders: list[Order]) -> None:
        self._orders = orders
        self._reader = ImageReader(settings, card)
        self._threads = ThreadPoolExecutor(1 + IMAGES_AHEAD)
        self._lock = threading.Lock()
        self._held: dict[int, Future[Any]] = {}

    def find(self, number: int) -> list[Any]:
        """Where the Work of an image is, as a list of one reference; the next one is begun."""
        with self._lock:
            for wanted in range(number, min(number + 1 + IMAGES_AHEAD, len(self._orders))):
                if wanted not in self._held:
                    self._held[wanted] = self._threads.submit(self._put, self._orders[wanted])
            found = self._held[number]
        return [found.result()]

    def release(self, number: int) -> None:
        """Let go of an image."""
        with self._lock:
            self._held.pop(number, None)

    def _put(self, order: Order) -> Any:
        import ray

        return ray.put(self._reader.prepare(order))


def fetch(images: Any, number: int) -> Work:
    """An image's Work, its arrays read-only views of the object store; read anew where they are lost."""
    import ray
    from ray.exceptions import ObjectLostError

    for _ in range(TRIES - 1):
        try:
            return ray.get(ray.get(images.find.remote(number))[0])
        except ObjectLostError:
            ray.get(images.release.remote(number))
    return ray.get(ray.get(images.find.remote(number))[0])


class CropPredictor:
    """Predicts and counts shares of images; `score_crops` makes actors of it."""

    def __init__(self, settings: ScorerSettings, images: Any, shares: int) -> None:
        """`images`: the SharedImages; `shares`: how many an image has."""
        self.settings, self.images, self.shares = settings, images, shares
        self._last: tuple[int, Work] | None = None

    @cached_property
    def loaded(self) -> tuple[Predictor, int]:
        """Its predictor, and how many classes: loaded for a share, so that an error comes back as it is."""
        settings = self.settings
        torch.set_num_threads(settings.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        predictor, card = open_predictor(
            settings.model,
            device,
            tiling=settings.tiling,
            batch=settings.batch,
            precision=settings.precision,
        )
        return predictor, len(card.classes)

    def predict_share(self, number: int, share: int) -> Share | None:
        """A share of an image, by their numbers."""
        if self._last is None or self._last[0] != number:
            self._last = None  # before the next image comes
            self._last = (number, fetch(self.images, number))
        return self.predict(self._last[1], share)

    def predict(self, work: Work, share: int) -> Share | None:
        """A share of an image; None: the image cannot be used."""
        if work.pixels is None or not work.frames:
            return None
        started = time.perf_counter()
        predictor, num_classes = self.loaded
        pieces = list(predictor.predict_share(work.frames, work.pixels.size, share, self.shares))
        counts = [_count(piece, work.truth, num_classes) for piece in pieces]
        return Share(
            counts=np.sum(counts, axis=0).tolist() if pieces else [],
            sums=[float(piece.confidence_sum()) for piece in pieces],
            own=[edge for piece in pieces for edge in _edges(piece.own)],
            working=[edge for piece in pieces for edge in _edges(piece.working)],
            ids=b"".join(piece.ids.cpu().numpy().tobytes() for piece in pieces),
            probability=b"".join(piece.probability.cpu().numpy().tobytes() for piece in pieces),
            seconds=time.perf_counter() - started,
        )


def _count(piece: Piece, truth: NDArray[np.uint8] | None, num_classes: int) -> list[int]:
    """A piece's class_pixels, ignored, and of a labelled image confusion."""
    counts = count_pixels(piece.ids, None if truth is None else truth[piece.own], num_classes)
    return [*counts.class_pixels, counts.ignored or 0, *(counts.confusion or ())]


class ImageAssembly:
    """One image whose shares come in: counts are added up, pieces put together."""

    def __init__(self, work: Work, num_classes: int) -> None:
        self.work, self.num_classes = work, num_classes
        self._sums: list[float] = []
        if work.pixels is not None and work.frames:
            labelled = work.truth is not None
            self._counts = np.zeros(num_classes + 1 + labelled * num_classes**2, np.int64)
            self._ids = np.empty(work.pixels.size, np.uint8)
            self._small = (work.frames[-1][0].shape[0], work.frames[-1][0].shape[1])
            self._probability = np.empty(self._small, np.float32)

    def add(self, share: Share | None) -> None:
        """Add a share; empty ones are passed over."""
        if share is not None and share.sums:
            self._counts += share.counts
            self._sums += share.sums
            self.work.seconds["model"] += share.seconds
            _put_pieces(self._ids, share.own, share.ids)
            _put_pieces(self._probability, share.working, share.probability)

    def finish(self, settings: ScorerSettings) -> Outcome:
        """The outcome, once all shares are in; its mask is written."""
        if self.work.aside is not None:
            return self.work.aside
        counts, classes = tuple(self._counts.tolist()), self.num_classes
        self.work.counts = PixelCounts(counts[:classes])
        if self.work.truth is not None:
            self.work.counts = PixelCounts(counts[:classes], counts[classes + 1 :], counts[classes])
        confidence = mean_confidence(self._sums, self._small)
        whole = Prediction(torch.from_numpy(self._ids), confidence, torch.from_numpy(self._probability))
        return finish(self.work, whole, settings, classes)


def _put_pieces(whole: NDArray[Any], edges: list[int], content: bytes) -> None:
    values, used = np.frombuffer(content, whole.dtype), 0
    for top, bottom, left, right in np.reshape(edges, (-1, 4)).tolist():
        place = whole[top:bottom, left:right]
        place[:] = values[used : used + place.size].reshape(place.shape)
        used += place.size


def _edges(place: Rectangle) -> tuple[int, int, int, int]:
    down, across = place
    return down.start, down.stop, across.start, across.stop
