"""Images that end or stop whatever scores them, as damaged hardware and libraries do."""

import os
import resource
import signal
import threading
from functools import partial
from pathlib import Path

import torch

from cluster import score as workplace
from cluster.scorer_workers import LocalCrew, RayCrew
from seg.predict.predictor import Prediction
from seg.score.blame import MODEL
from seg.score.predict import ImageScorer
from seg.score.read import Work


class PoisonedScorer(ImageScorer):
    """Scores as ImageScorer does, but for images that are called exit, crash, memory or stuck."""

    def predict(self, work: Work) -> Prediction:
        """Predict an image, unless it is poison."""
        name = Path(work.order.image).stem
        if name in POISONS:
            self.inflight.enter(work.order.image, MODEL)
            POISONS[name]()
        return super().predict(work)


def _exit() -> None:
    os._exit(1)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait()  # the main thread may be the one that gets it, a moment later


def _take_too_much_memory() -> None:
    """Ask for 1 GiB where 64 MiB are left."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, limits[1]))
    try:
        torch.zeros(2**28)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _stand_still() -> None:
    threading.Event().wait()


POISONS = {"exit": _exit, "crash": _crash, "memory": _take_too_much_memory, "stuck": _stand_still}


def poison_this_process() -> None:
    """Have this process's scorings, on Ray or not, use PoisonedScorer."""
    workplace.LocalCrew = partial(LocalCrew, make_scorer=PoisonedScorer)  # type: ignore[misc]
    workplace.RayCrew = partial(RayCrew, make_scorer=PoisonedScorer)  # type: ignore[misc]
