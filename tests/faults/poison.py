"""Images that end or stop whatever scores them, as damaged hardware and libraries do."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from cluster import score_stages
from cluster.score_stages import ScoreStage
from seg.predict.predictor import Piece
from seg.predict.tiling import ImageCrops
from seg.score.parcels import Round
from seg.score.pipeline import ImageScorer
from seg.score.predict import ImagePredictor
from seg.score.work import Work


class PoisonedPredictor(ImagePredictor):
    """Predicts as ImagePredictor does, but for images that are called exit, crash, memory or stuck."""

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        name = Path(work.order.image).stem
        if name in POISONS:
            POISONS[name]()
        super()._predict(work, image, pieces)


class PoisonedStage(ScoreStage):
    """All stages, with that predictor."""

    def __init__(self, round_: Round) -> None:
        ImageScorer.open_predictor = staticmethod(PoisonedPredictor)  # type: ignore[method-assign]
        super().__init__(round_)


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
    """Have this process's scorings, on Ray or not, use PoisonedPredictor."""
    ImageScorer.open_predictor = staticmethod(PoisonedPredictor)  # type: ignore[method-assign]
    score_stages.STAGES = {"score": PoisonedStage}
