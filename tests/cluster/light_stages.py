"""Stages without a model: a process has one in a second, as no torch comes along."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pyarrow as pa

from cluster.score_stages import answers_table, node_id, read_parcels, read_works, telling, works_table
from seg.errors import RequestError
from seg.ledger.outcome import Outcome
from seg.score.blame import MODEL, READ, WRITE, InFlight
from seg.score.parcels import Answered, Round, Stage, in_background, raised
from seg.score.queue import Answer, Order
from seg.score.work import Work
from tests.outcomes import make_scored


class LightStage:
    """Does to its process what an image's name asks for, as in `exit-model.png`, in the stage named there."""

    name = MODEL
    others: tuple[str, ...] = ()
    """Stages that it has besides."""

    def __init__(self, round_: Round) -> None:
        self.stage = Stage(round_, self.name, node_id())
        self.stage.is_ready()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Blocks, as they are done."""
        return telling(table, self.run)

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """The same, but for what it raises."""
        raise NotImplementedError

    def touch(self, order: Order, notes: InFlight) -> Answer | None:
        """What is to be said of an image now; None: it goes on."""
        refusal = self.stage.refusal(order.image, notes)
        if refusal is not None:
            return refusal
        does, _, where = order.image.removesuffix(".png").partition("-")
        acts = does in DEEDS and where in (self.name, *self.others)
        notes.begin(order.image, order.attempt, alone=order.alone, stage=where if acts else self.name)
        try:
            if acts:
                DEEDS[does]()
        except ZeroDivisionError as error:
            return raised(order.image, notes, error)
        notes.end(order.image)
        return None


class LightScore(LightStage):
    """All in one."""

    others = (READ, WRITE)

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in read_parcels(table):
            with self.stage.notes(parcel.name) as notes:
                answers = [self.touch(order, notes) or score(order) for order in parcel.orders]
            yield answers_table([Answered(answer, {}) for answer in answers])


class LightRead(LightStage):
    """The first of three."""

    name = READ

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in read_parcels(table):
            with self.stage.notes(parcel.name) as notes:
                works = [Work(order, answer=self.touch(order, notes)) for order in parcel.orders]
            yield works_table(parcel.name, works)


class LightPredict(LightStage):
    """The second."""

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        for name, works in read_works(table):
            with self.stage.notes(name) as notes:
                for work in works:
                    work.answer = work.answer or self.touch(work.order, notes)
            yield works_table(name, works)


class LightFinish(LightStage):
    """The last."""

    name = WRITE

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        for name, works in read_works(table):
            with self.stage.notes(name) as notes:
                answers = [
                    work.answer or self.touch(work.order, notes) or score(work.order) for work in works
                ]
            yield answers_table([Answered(answer, {}) for answer in answers])


LIGHT = {"score": LightScore, "read": LightRead, "predict": LightPredict, "finish": LightFinish}


def score(order: Order) -> Outcome:
    return make_scored(order.image, attempt=order.attempt)


class Unloadable(LightScore):
    """Its model is missing."""

    def __init__(self, round_: Round) -> None:
        super().__init__(round_)
        self.model = in_background(refuse)

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        self.model.result()
        return super().run(table)


def refuse() -> None:
    raise RequestError("the model is not there")


class DiesLoading(LightScore):
    """Takes its process with it before it begins."""

    def __init__(self, round_: Round) -> None:
        Stage(round_, self.name, node_id())
        os._exit(1)


def _crash() -> None:
    _signal_and_wait(signal.SIGSEGV)


def _freeze() -> None:
    _signal_and_wait(signal.SIGSTOP)


def _signal_and_wait(number: int) -> None:
    """The main thread may be the one that gets it, a moment later."""
    os.kill(os.getpid(), number)
    threading.Event().wait()


def _raise() -> None:
    raise ZeroDivisionError("no kernel for this")


def _refuse_to_write() -> None:
    raise OSError(28, "No space left on device")


DEEDS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(1),
    "crash": _crash,
    "freeze": _freeze,
    "hang": threading.Event().wait,
    "raise": _raise,
    "full": _refuse_to_write,
}
