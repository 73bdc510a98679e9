"""Where images are scored: Ray actors, or this process; both tell what happens as a stream of events."""

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from seg.ledger.outcome import Outcome
from seg.score.blame import Note
from seg.score.queue import Order

if TYPE_CHECKING:  # a worker imports torch with its scorer
    from seg.score.read import ScorerSettings

DEEPEST = 32
"""Images that a worker holds at most: small ones, whose rows come faster than we hand out."""
DRAIN_S = 5.0
"""How long the calls of a dead worker take at most until all have failed."""


class Scorer(Protocol):
    """What a worker needs of an ImageScorer."""

    def submit(self, order: Order) -> Future[Outcome]:
        """Score an image in its turn."""
        ...

    def notes(self) -> dict[str, Note]:
        """The images in work."""
        ...

    def close(self) -> None:
        """Let go of what has not begun."""
        ...


MakeScorer = Callable[..., Scorer]
"""Called as ImageScorer is: with settings and `process`."""


def make_image_scorer(settings: "ScorerSettings", *, process: str) -> Scorer:
    """What scores where nothing else is asked for."""
    from seg.score.predict import ImageScorer

    return ImageScorer(settings, process=process)


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has loaded its model."""

    worker: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker has returned what came of an image."""

    worker: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Raised:
    """Python raised in a worker that lives on; image: empty where it was while starting."""

    worker: str
    image: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Told:
    """A worker has told which images are in work."""

    worker: str
    notes: dict[str, Note]


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process is gone."""

    worker: str
    cause: str


Event = Started | Returned | Raised | Told | Died


class Crew(Protocol):
    """Workers by name. Nothing waits but `wait`, and `end` for the outcomes that were on their way."""

    @property
    def is_spoiled_by_errors(self) -> bool:
        """Whether a process in which Python raised is of no more use: an error of CUDA stays."""
        ...

    @property
    def can_be_ended(self) -> bool:
        """Whether `end` stops what a worker does, so that an image may be taken from it."""
        ...

    def start(self, worker: str) -> None:
        """Begin a worker; Started or Raised follows."""
        ...

    def hand(self, worker: str, order: Order) -> None:
        """Give it an image; Returned, Raised or Died follows."""
        ...

    def ask(self, worker: str) -> None:
        """Ask which images are in work; Told follows, unless it still owes an answer."""
        ...

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened, as soon as anything has; of a worker that died its outcomes come first."""
        ...

    def end(self, worker: str) -> list[Event]:
        """End a worker, whatever it does; the outcomes that were on their way."""
        ...


class ScoringWorker:
    """A process that scores; Ray makes an actor of it, with a thread for each image that it holds.

    The model is loaded by `start`, so that what fails there comes back as the exception that it is.
    """

    def start(self, make_scorer: MakeScorer, settings: "ScorerSettings", process: str) -> None:
        """Load the model."""
        self.scorer = make_scorer(settings, process=process)

    def score(self, order: Order) -> Outcome:
        """Score an image in its turn."""
        return self.scorer.submit(order).result()

    def notes(self) -> dict[str, Note]:
        """The images in work."""
        return self.scorer.notes()


class _Call(NamedTuple):
    worker: str
    what: Literal["start", "score", "notes"]
    image: str = ""


@dataclass(slots=True)
class RayCrew:
    """Workers as Ray actors, of which none is restarted by Ray."""

    settings: "ScorerSettings"
    gpus: float = 0.0
    """Of each worker."""
    make_scorer: MakeScorer = make_image_scorer
    can_be_ended = True
    _actors: dict[str, Any] = field(default_factory=dict)
    _calls: dict[Any, _Call] = field(default_factory=dict)
    """By the reference to its result, every call that is out."""
    _asked: set[str] = field(default_factory=set)

    @property
    def is_spoiled_by_errors(self) -> bool:
        """Where it computes on a GPU."""
        return self.gpus > 0

    def start(self, worker: str) -> None:
        """Ask Ray for an actor; it comes when there is room."""
        import ray

        make_actor: Any = ray.remote(ScoringWorker)
        actor = make_actor.options(
            num_cpus=self.settings.threads,
            num_gpus=self.gpus,
            max_concurrency=DEEPEST + 1,
            max_restarts=0,
            max_task_retries=0,
        ).remote()
        self._actors[worker] = actor
        self._calls[actor.start.remote(self.make_scorer, self.settings, worker)] = _Call(worker, "start")

    def hand(self, worker: str, order: Order) -> None:
        """Call the actor."""
        self._calls[self._actors[worker].score.remote(order)] = _Call(worker, "score", order.image)

    def ask(self, worker: str) -> None:
        """Call the actor, unless it still owes an answer."""
        if worker not in self._asked:
            self._asked.add(worker)
            self._calls[self._actors[worker].notes.remote()] = _Call(worker, "notes")

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened."""
        import ray

        calls = list(self._calls)
        if not calls:
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        events: list[Event] = [self._look(call) for call in ready]
        deaths = {event.worker: event for event in events if isinstance(event, Died)}
        events = [event for event in events if not isinstance(event, Died)]
        for worker, death in deaths.items():
            events += [*self.end(worker), death]
        return events

    def end(self, worker: str) -> list[Event]:
        """Kill the actor."""
        import ray

        ray.kill(self._actors.pop(worker))
        self._asked.discard(worker)
        calls = [call for call, made in self._calls.items() if made.worker == worker]
        if not calls:
            return []
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=DRAIN_S)
        events = [self._look(call) for call in ready]
        for call in calls:
            self._calls.pop(call, None)
        return [event for event in events if isinstance(event, Returned)]

    def _look(self, call: Any) -> Event:
        """The event that a call's end is."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker, what, image = self._calls.pop(call)
        if what == "notes":
            self._asked.discard(worker)
        try:
            value: Any = ray.get(call)
        except RayTaskError as error:
            return Raised(worker, image, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:
            return Died(worker, describe_death(error))
        if what == "notes":
            return Told(worker, value)
        return Started(worker) if what == "start" else Returned(worker, value)


def describe_death(error: Exception) -> str:
    """Why a worker is gone, in a few words, of what Ray says in a page."""
    text = str(error)
    if "memory" in text and ("OutOfMemory" in type(error).__name__ or "memory monitor" in text):
        return "Ray ended it because its machine ran out of memory"
    if "node" in text and ("node has died" in text or "node was terminated" in text):
        return "its machine is gone"
    return "the process ended without a word, as by a crash or a signal"


class LocalCrew:
    """One worker, in this process: it cannot be ended, and its death is ours."""

    is_spoiled_by_errors = False
    can_be_ended = False

    def __init__(self, settings: "ScorerSettings", make_scorer: MakeScorer = make_image_scorer) -> None:
        self.settings, self.make_scorer = settings, make_scorer
        self._events: list[Event] = []
        self._begun: dict[Future[Outcome], tuple[str, str]] = {}

    def start(self, worker: str) -> None:
        """Load the model here and now."""
        self.scorer = self.make_scorer(self.settings, process=worker)
        self._events.append(Started(worker))

    def hand(self, worker: str, order: Order) -> None:
        """Score an image in its turn."""
        self._begun[self.scorer.submit(order)] = worker, order.image

    def ask(self, worker: str) -> None:
        """The images in work, at once."""
        self._events.append(Told(worker, self.scorer.notes()))

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened."""
        if not self._events and self._begun:
            done, _ = concurrent.futures.wait(
                self._begun, timeout_s, return_when=concurrent.futures.FIRST_COMPLETED
            )
            self._events += map(self._look, done)
        events, self._events = self._events, []
        return events

    def end(self, worker: str) -> list[Event]:
        """Let go of what has not begun, and do not wait for the rest."""
        self.scorer.close()
        done, _ = concurrent.futures.wait(self._begun, timeout=0)
        events = [self._look(outcome) for outcome in done if not outcome.cancelled()]
        self._begun.clear()
        return [event for event in events if isinstance(event, Returned)]

    def _look(self, outcome: Future[Outcome]) -> Event:
        worker, image = self._begun.pop(outcome)
        error = outcome.exception()
        if isinstance(error, Exception):
            return Raised(worker, image, error)
        if error is not None:
            raise error
        return Returned(worker, outcome.result())
