"""Parcels of images, and what each stage of a scoring does with one in a process of its own; no Ray here.

A stage that finds the notes of its own parcel knows that a process died of it: the images named there are
answered as dead and not touched, and the others go on.
"""

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from seg.errors import RequestError
from seg.files import json_bytes
from seg.ledger.outcome import Outcome
from seg.model_card import ModelCard
from seg.plain_data import parse_json
from seg.predict.tiling import FrameCrops
from seg.score.blame import MODEL, READ, WRITE, InFlight, Note
from seg.score.deadline import StopFlag
from seg.score.finish import ImageFinisher
from seg.score.limits import Sentinel
from seg.score.queue import Answer, Died, Order, Unbegun
from seg.score.read import ImageReader, ScorerSettings
from seg.score.work import Assembly, Work
from seg.storage import Place

if TYPE_CHECKING:  # who reads or finishes does without torch
    from seg.score.pipeline import ImageScorer
    from seg.score.predict import ImagePredictor

MOST_IMAGES, MOST_BYTES = 64, 2**28
"""Of a parcel: images, and bytes between stages."""
BYTES_A_PIXEL = 2.5
"""About what lies between stages of one of 8 bits: crops and truth, then ids and confidence."""
PIXELS_A_SECOND = {"cpu": 10e6, "cuda": 400e6}
"""About what a device predicts: a frame of 3072 x 3072, or forty."""
PIXELS_A_BYTE = {".png": 1.5, ".jpg": 10.0, ".jpeg": 10.0}
"""About how many of 8 bits a file has, by its ending; of other files one."""
Result = TypeVar("Result")


def images_in_parcel(pixels: int, device: str) -> int:
    """How many images of so many pixels go in one: about a second of a device's work, within the bounds."""
    most = min(PIXELS_A_SECOND[device], MOST_BYTES / BYTES_A_PIXEL)
    return max(1, min(MOST_IMAGES, int(most / max(1, pixels))))


def fill_parcels(groups: Iterable[list[str]], most: int) -> Iterator[list[str]]:
    """Groups put together, in order, up to so many images; a group is never divided."""
    parcel: list[str] = []
    for group in groups:
        if parcel and len(parcel) + len(group) > most:
            yield parcel
            parcel = []
        parcel = parcel + group
        if len(parcel) >= most:
            yield parcel
            parcel = []
    if parcel:
        yield parcel


@dataclass(frozen=True, slots=True)
class Parcel:
    """Images that travel together."""

    name: str
    orders: tuple[Order, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What the processes of one pass over a queue are told; plain, so that it travels."""

    name: str
    """Notes are ROUND-PARCEL-STAGE, marks and flags ROUND..."""
    settings: ScorerSettings
    card: ModelCard
    device: str
    """What is predicted on: cpu or cuda. Nobody looks for another."""
    image_limit_s: float | None
    shares: int = 1
    """Works that each image is divided into, at most."""

    @property
    def inflight(self) -> Place:
        """Where notes, marks and flags are."""
        return self.settings.out.below("inflight")


class Mark(NamedTuple):
    """A process that works for a round, from its start on."""

    stage: str
    node: str
    """By the name that the cluster has for it."""
    pid: int
    ready: bool
    """Whether it has loaded what it needs."""


def read_marks(round_: Round, names: Iterable[str], known: Mapping[str, Mark]) -> dict[str, Mark]:
    """The processes that were started for a round, by the names of their files, which are among these.

    known: as they were seen before; of those that were ready nothing changes, and they are not read again.
    """
    found = {}
    for name in names:
        if not (name.startswith(f"{round_.name}-") and name.endswith(".process")):
            continue
        if name in known and known[name].ready:
            found[name] = known[name]
        elif content := round_.inflight.read(name):
            found[name] = Mark(*parse_json(content.decode(), f"{round_.inflight}/{name}"))
    return found


class Stage:
    """A process of one stage."""

    def __init__(self, round_: Round, stage: str, node: str) -> None:
        """`node`: where it is, for the log and for who has to end it."""
        self.round, self.stage, self.node = round_, stage, node
        self._file = f"{round_.name}-{stage}-{secrets.token_hex(4)}.process"
        self.flag = StopFlag(round_.inflight, round_.name)
        self.sentinel = Sentinel(round_.image_limit_s)
        self._mark(ready=False)

    def is_ready(self) -> None:
        """Have it known that all is loaded."""
        self._mark(ready=True)

    @contextmanager
    def notes(self, parcel: str) -> Iterator[InFlight]:
        """The notes of a parcel in this stage, while it is at work; they stay where that raises."""
        notes = InFlight(self.round.inflight, f"{self.round.name}-{parcel}-{self.stage}")
        self.sentinel.watch(notes)
        try:
            yield notes
            notes.close()
        finally:
            self.sentinel.leave(notes)

    def refusal(self, image: str, notes: InFlight) -> Answer | None:
        """What is said of an image that is not to be touched; None: it is."""
        if image in notes.dead:
            return Died(image, notes.dead[image])
        return Unbegun(image) if self.flag.is_up() else None

    def _mark(self, *, ready: bool) -> None:
        mark = Mark(self.stage, self.node, os.getpid(), ready)
        self.round.inflight.write(self._file, json_bytes(list(mark)))


def raised(image: str, notes: InFlight, error: Exception) -> Died:
    """What is said of an image at which Python raised, in a process that lives on.

    OSError and RequestError are raised again: no image is to blame for them.
    """
    if isinstance(error, OSError | RequestError):
        raise error
    note = notes.notes().get(image, Note(READ, 1))
    notes.end(image)
    return Died(image, note._replace(cause=f"{type(error).__name__}: {error}"), lives=True)


def end_process(images: Collection[str], notes: InFlight, error: BaseException) -> NoReturn:
    """End this process, whose device computes no more: the images at hand are noted as what it died of."""
    notes.give_up(images, f"{type(error).__name__}: {error}")
    os._exit(1)  # not sys.exit: Ray Data waits for ever for an actor that ends as it should


@dataclass(slots=True)
class Answered:
    """What came of an image, and on which node each stage was."""

    answer: Answer
    nodes: dict[str, str]


class ParcelReader:
    """The first stage, on any CPU: files to crops."""

    def __init__(self, round_: Round, node: str) -> None:
        self.stage = Stage(round_, READ, node)
        self.reader = ImageReader(round_.settings, round_.card)
        self.stage.is_ready()

    def read(self, parcel: Parcel) -> Iterator[tuple[str, list[Work]]]:
        """Its images, their crops cut, under its name; or each share of each under a name of its own.

        OSError: storage stays away.
        """
        with self.stage.notes(parcel.name) as notes:
            works = (self._read(order, notes) for order in parcel.orders)
            if self.stage.round.shares == 1:
                yield parcel.name, list(works)
            else:  # one image after another, as each may be huge
                for number, share in enumerate(chain.from_iterable(map(self._divide, works))):
                    yield f"{parcel.name}.{number}", [share]

    def _divide(self, work: Work) -> list[Work]:
        if work.answer is not None:
            return [work]
        return work.divide(self.stage.round.shares, self.stage.round.settings.batch)

    def _read(self, order: Order, notes: InFlight) -> Work:
        work, refusal = Work(order), self.stage.refusal(order.image, notes)
        try:
            if refusal is None:
                work = self.reader.prepare(order, notes)
                if isinstance(work.crops, FrameCrops):
                    work.crops = work.crops.gather()
                notes.end(order.image)
            work.answer = refusal or work.aside
        except Exception as error:
            work = Work(order, answer=raised(order.image, notes, error))
        work.nodes[READ] = self.stage.node
        return work


class ParcelPredictor:
    """The middle stage, on a GPU where there are any: crops to ids, confidence and counts.

    For two parcels at a time: one is predicted while what came of the other travels on.
    """

    def __init__(self, round_: Round, node: str) -> None:
        self.stage = Stage(round_, MODEL, node)
        self._at_model = threading.Lock()
        self._predictor = in_background(self._open)

    def _open(self) -> "ImagePredictor":
        from seg.score.predict import ImagePredictor

        predictor = ImagePredictor(self.stage.round.settings, self.stage.round.device)
        self.stage.is_ready()
        return predictor

    def predict(self, parcel: str, works: list[Work]) -> list[Work]:
        """The same works, predicted. RequestError: the model file cannot be used."""
        predictor, todo = self._predictor.result(), deque(works)
        with self._at_model, self.stage.notes(parcel) as notes:  # who waits is not at work
            while todo:
                try:
                    for work in predictor.predict(self._arriving(todo, notes)):
                        notes.end(work.order.image)
                except (OSError, RequestError):  # as of `raised`
                    raise
                except Exception as error:
                    self._lose(predictor, notes, error)
        return works

    def _arriving(self, todo: deque[Work], notes: InFlight) -> Iterator[tuple[Work, InFlight]]:
        """Those that go through the model, noted once they are in a pass."""
        while todo:
            work = todo.popleft()
            if work.answer is None:
                work.nodes[MODEL] = self.stage.node
                work.answer = self.stage.refusal(work.order.image, notes)
            if work.answer is None:
                notes.begin(work.order.image, work.order.attempt, alone=work.order.alone, stage=MODEL)
                yield work, notes

    def _lose(self, predictor: "ImagePredictor", notes: InFlight, error: Exception) -> None:
        lost = predictor.in_hand
        if not predictor.is_sound():
            end_process([work.order.image for work in lost], notes, error)
        for work in lost:
            work.crops, work.answer = None, raised(work.order.image, notes, error)


class ParcelFinisher:
    """The last stage, on any CPU: objects, masks, outcomes."""

    def __init__(self, round_: Round, node: str) -> None:
        self.stage = Stage(round_, WRITE, node)
        self.finisher = ImageFinisher(round_.settings, round_.card.classes)
        self._assemblies: dict[str, Assembly] = {}
        self.stage.is_ready()

    def finish(self, parcel: str, works: list[Work]) -> list[Answered]:
        """What came of them, of shares with the last one. OSError: storage refuses, also after a while."""
        with self.stage.notes(parcel) as notes:
            return [self._finish(work, notes) for work in filter(None, map(self._gather, works))]

    def _gather(self, work: Work) -> Work | None:
        if work.share is None:
            return work
        image = work.order.image
        whole = self._assemblies.setdefault(image, Assembly()).add(work)
        if whole is not None:
            del self._assemblies[image]
        return whole

    def _finish(self, work: Work, notes: InFlight) -> Answered:
        image = work.order.image
        answer = work.answer
        if answer is None:
            work.nodes[WRITE] = self.stage.node
            answer = self.stage.refusal(image, notes) if image in notes.dead else None
        if answer is None:
            notes.begin(image, work.order.attempt, alone=work.order.alone, stage=WRITE)
            try:
                answer = self.finisher.finish(work)
                notes.end(image)
            except Exception as error:
                answer = raised(image, notes, error)
        return Answered(answer, work.nodes)


class ParcelScorer:
    """All stages in one process, with threads; for two parcels at a time, so that none of them rests."""

    def __init__(self, round_: Round, node: str) -> None:
        self.stage = Stage(round_, MODEL, node)
        self._scorer = in_background(self._open)
        self._nodes: dict[str, str] = dict.fromkeys((READ, MODEL, WRITE), node)

    def _open(self) -> "ImageScorer":
        from seg.score.pipeline import ImageScorer

        scorer = ImageScorer(self.stage.round.settings, self.stage.round.device)
        self.stage.is_ready()
        return scorer

    def score(self, parcel: Parcel) -> list[Answered]:
        """What came of its images. RequestError: the model file is unusable. OSError: storage stays away."""
        from seg.score.pipeline import BUSY

        scorer, answers, begun = self._scorer.result(), [], deque[tuple[str, Future[Outcome] | Answer]]()
        with self.stage.notes(parcel.name) as notes:
            for order in parcel.orders:
                refusal = self.stage.refusal(order.image, notes)
                begun.append((order.image, refusal or scorer.submit(order, notes)))
                if len(begun) > BUSY + scorer.settings.batch:
                    answers.append(self._answer(*begun.popleft(), notes))
            answers += [self._answer(image, found, notes) for image, found in begun]
        return [Answered(answer, self._nodes) for answer in answers]

    def _answer(self, image: str, found: "Future[Outcome] | Answer", notes: InFlight) -> Answer:
        from seg.score.pipeline import DeviceLost

        if not isinstance(found, Future):
            return found
        try:
            return found.result()
        except DeviceLost as error:
            at_model = [name for name, note in notes.notes().items() if note.stage == MODEL]
            end_process(at_model, notes, error)
        except Exception as error:
            return raised(image, notes, error)


def in_background(make: Callable[[], Result]) -> Future[Result]:
    """What `make` gives, later: what it raises is then raised where it is used, and not by a constructor."""
    thread = ThreadPoolExecutor(1)
    made = thread.submit(make)
    thread.shutdown(wait=False)
    return made
