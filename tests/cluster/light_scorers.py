"""Scorers without a model: a worker has one in a second, as no torch comes along."""

import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from seg.errors import RequestError
from seg.ledger.outcome import Outcome
from seg.score.blame import MODEL, InFlight, Note
from seg.score.queue import Order
from seg.storage import Place
from tests.outcomes import make_scored


class LightScorer:
    """Notes an image, does to its process what the image's name asks for, returns that it is scored."""

    def __init__(
        self,
        settings: Any,
        *,
        process: str,
        place: Place | None,
        exits: str = "",
        crashes: str = "",
        freezes: str = "",
    ) -> None:
        """`place`: where it is noted; None: nowhere, and nothing happens in another thread."""
        self.inflight = InFlight(place, process)
        self.does = {exits: lambda: os._exit(1), crashes: _crash, freezes: _freeze}
        self.threads = ThreadPoolExecutor(3) if place else None

    def submit(self, order: Order) -> Future[Outcome]:
        if self.threads:
            return self.threads.submit(self._score, order)
        done: Future[Outcome] = Future()
        done.set_result(self._score(order))
        return done

    def notes(self) -> dict[str, Note]:
        return self.inflight.notes()

    def close(self) -> None: ...

    def _score(self, order: Order) -> Outcome:
        self.inflight.begin(order.image, order.attempt)
        self.inflight.enter(order.image, MODEL)
        if order.image in self.does:
            self.does[order.image]()
        self.inflight.end(order.image)
        return make_scored(order.image, attempt=order.attempt)


def _crash() -> None:
    _signal_and_wait(signal.SIGSEGV)


def _freeze() -> None:
    _signal_and_wait(signal.SIGSTOP)


def _signal_and_wait(number: int) -> None:
    """The main thread may be the one that gets it, a moment later."""
    os.kill(os.getpid(), number)
    threading.Event().wait()


def refuse_to_start(settings: Any, *, process: str) -> LightScorer:
    """A scorer whose model is missing."""
    raise RequestError("the model is not there")
