"""The three stages in one process, with threads: reading runs ahead of the model, writing behind it."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from seg.data.reading_memory import Turn
from seg.ledger.outcome import Outcome
from seg.score.blame import WRITE, InFlight
from seg.score.finish import WRITERS, ImageFinisher
from seg.score.predict import ImagePredictor
from seg.score.queue import Order
from seg.score.read import AHEAD, ImageReader, ScorerSettings
from seg.score.work import Work

BUSY = AHEAD + 1 + WRITERS
"""Images of more crops than a pass has that keep every thread busy."""
COMPANY_S = 0.1
"""How long a pass that is not full waits for an image that is being read."""


class DeviceLost(Exception):
    """The device computes no more, and no image is to blame for what comes after."""


@dataclass(slots=True, eq=False)
class _Asked:
    """An image that was asked for."""

    order: Order
    notes: InFlight
    turn: Turn
    outcome: Future[Outcome]


class ImageScorer:
    """Scores images with one model on one device: the stages of seg/score, each with threads of its own."""

    def __init__(self, settings: ScorerSettings, device: str) -> None:
        """`device`: cpu or cuda. RequestError: the model file cannot be used."""
        self.settings = settings
        self.predictor = self.open_predictor(settings, device)
        self.reader = ImageReader(settings, self.predictor.card)
        self.finisher = ImageFinisher(settings, self.predictor.card.classes)
        self._changed = threading.Condition()
        self._waiting: deque[_Asked] = deque()
        """Asked for and not begun: what is held in memory is bounded, however much is asked for."""
        self._free, self._reading = AHEAD + settings.batch, 0
        self._ready: deque[tuple[_Asked, Work]] = deque()
        self._at_model: dict[Work, _Asked] = {}
        self._closed = False
        self._readers = ThreadPoolExecutor(AHEAD, "read")
        self._writers = ThreadPoolExecutor(WRITERS, "write")
        self._model = threading.Thread(target=self._run_model, name="model", daemon=True)
        self._model.start()

    @staticmethod
    def open_predictor(settings: ScorerSettings, device: str) -> ImagePredictor:
        """The middle stage."""
        return ImagePredictor(settings, device)

    def submit(self, order: Order, notes: InFlight | None = None) -> Future[Outcome]:
        """Score an image in its turn, for any number of threads. notes: get it before it is touched.

        From the result: OSError, storage stayed away; DeviceLost; else what Python raised for this image.
        """
        with self._changed:  # turns in the order in which readers get them
            asked = _Asked(order, notes or InFlight(None, ""), self.reader.memory.queue(), Future())
            self._waiting.append(asked)
        self._begin_next()
        return asked.outcome

    def score(self, orders: Iterable[Order], notes: InFlight | None = None) -> Iterator[Outcome]:
        """Score images, in order."""
        source = iter(orders)
        ahead = BUSY + self.settings.batch
        begun = deque(self.submit(order, notes) for order in islice(source, ahead))
        while begun:
            outcome = begun.popleft().result()
            begun.extend(self.submit(order, notes) for order in islice(source, 1))
            yield outcome

    def close(self) -> None:
        """Let go of what has not begun, and do not wait for the rest."""
        self.reader.memory.close()
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.pop().outcome.cancel()
            self._changed.notify_all()
        for pool in (self._readers, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin_next(self) -> None:
        """Let readers begin what there is room for, in order."""
        with self._changed:
            while self._waiting and self._free and not self._closed:
                self._free, self._reading = self._free - 1, self._reading + 1
                self._readers.submit(self._read, self._waiting.popleft())

    def _read(self, asked: _Asked) -> None:
        try:
            work = self.reader.prepare(asked.order, asked.notes, asked.turn)
        except BaseException as error:
            self._fail(asked, error)
            work = None
        with self._changed:
            self._reading -= 1
            if work is not None and work.crops is not None:
                self._ready.append((asked, work))
            else:
                self._free += 1
            self._changed.notify_all()
        if work is not None and work.crops is None:
            self._write(asked, work)
        self._begin_next()

    def _run_model(self) -> None:
        while not self._closed:
            try:
                for work in self.predictor.predict(self._arriving()):
                    asked = self._at_model.pop(work)
                    self._release()
                    self._write(asked, work)
            except BaseException as error:  # of the images at hand; the others go on
                self._lose(error)

    def _arriving(self) -> Iterator[tuple[Work, InFlight] | None]:
        """Images for the model as they are read; None: no company comes for what waits in a pass."""
        while True:
            with self._changed:
                if self._reading and not self._ready:
                    self._changed.wait_for(
                        lambda: self._ready or not self._reading or self._closed, COMPANY_S
                    )
            if not self._ready:
                yield None
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return
                asked, work = self._ready.popleft()
                self._at_model[work] = asked
            yield work, asked.notes

    def _lose(self, error: BaseException) -> None:
        if isinstance(error, Exception) and not self.predictor.is_sound():
            error = DeviceLost(f"{self.predictor.device} computes no more: {type(error).__name__}: {error}")
        for work in list(self._at_model):
            self._fail(self._at_model.pop(work), error)
            self._release()

    def _release(self) -> None:
        with self._changed:
            self._free += 1
        self._begin_next()

    def _fail(self, asked: _Asked, error: BaseException) -> None:
        """The image stays noted, which tells its stage."""
        asked.turn.leave()
        asked.outcome.set_exception(error)

    def _write(self, asked: _Asked, work: Work) -> None:
        if not self._closed:
            self._writers.submit(self._finish, asked, work)

    def _finish(self, asked: _Asked, work: Work) -> None:
        try:
            with asked.turn:
                outcome: Outcome | None = work.aside
                if work.predicted is not None:
                    asked.notes.enter(asked.order.image, WRITE)
                    outcome = self.finisher.finish(work)
                asked.notes.end(asked.order.image)
            assert outcome is not None, "an image without a prediction is set aside"
        except BaseException as error:
            self._fail(asked, error)
        else:
            asked.outcome.set_result(outcome)
