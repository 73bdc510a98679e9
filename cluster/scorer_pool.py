"""Keeps workers supplied with images and alive, and gives their outcome rows as they come."""

import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil

from cluster.scorer_workers import DEEPEST, Crew, Died, Event, Raised, Returned, Started, Told
from seg.errors import RequestError
from seg.ledger.outcome import Outcome
from seg.score.blame import READ, Note, forget_process, read_notes, write_suspects
from seg.score.deadline import Pace, Stopping
from seg.score.predict import BUSY
from seg.score.queue import Order, ScoreQueue, Task, Watchdog, find_overdue
from seg.score.status import Held
from seg.storage import Place

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often workers are asked where they are."""
AHEAD_S = 0.3
"""Work that a worker holds beyond what keeps its threads busy: a commit keeps us so long."""
START_S = 1800.0
"""How long workers are waited for at least where there is none: nodes have to be started."""
NAMED = 5
"""Images that a message names."""


class ScoringStalled(Exception):
    """Nothing moved for so long, also after workers were started again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker is ended by us, or, where it cannot be, an image named; None: never."""

    image_s: float | None = None
    stall_s: float | None = None


class ScorerPool:
    """Workers of a crew, supervised: who dies is replaced, and what it held is scored by others.

    Each image has one outcome: what arrived is never made again, and an image with which a process died
    twice, the second time alone in it, is set aside.
    """

    def __init__(
        self,
        crew: Crew,
        queue: ScoreQueue,
        order: Callable[[Task], Order],
        *,
        workers: int,
        inflight: Place,
        stopping: Stopping,
        limits: Limits,
    ) -> None:
        """`order`: what a worker needs to know of an image. `inflight`: where workers leave their notes."""
        self.crew, self.queue, self.order = crew, queue, order
        self.workers, self.inflight, self.stopping, self.limits = workers, inflight, stopping, limits
        self.pace = Pace()
        self._name, self._count = f"worker-{secrets.token_hex(4)}", 0
        self._workers: dict[str, _Sight] = {}
        self._handed: dict[str, float] = {}
        self._finished = self._finished_at_stall = 0
        self._stalled = self._is_up = False
        self._named: set[str] = set()
        """Images that were said to take too long."""
        limit_s, now = limits.stall_s or float("inf"), time.monotonic()
        self._watchdog, self._start_watchdog = Watchdog(limit_s, now), Watchdog(max(limit_s, START_S), now)
        self._looked_s = 0.0

    def outcomes(self) -> Generator[list[Outcome], None, None]:
        """Outcomes as they come, also none, at least once a second; those set aside may lack size and time.

        RequestError: of a worker that could not start. OSError: of storage that stays away. ScoringStalled,
        WorkersKeepDying: no restart helps. However it ends, what was in flight is noted as suspect.
        """
        try:
            while not self.queue.is_done:
                self.queue.stopped = self.stopping.check(self.pace) is not None
                self._start_missing()
                self._feed()
                arrived = self._handle(self.crew.wait(LOOK_EVERY_S))
                if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
                    arrived += self._look()
                yield arrived
        finally:
            self._close()

    @property
    def is_complete(self) -> bool:
        """Whether every image has its row."""
        return self.queue.is_complete

    @property
    def is_stopped(self) -> bool:
        """Whether nothing is handed out any more."""
        return self.queue.stopped

    @property
    def num_suspects(self) -> int:
        """Images that wait to be tried alone."""
        return len(self.queue.suspects)

    @property
    def is_up(self) -> bool:
        """Whether a worker has loaded its model."""
        return self._is_up

    def held(self) -> list[Held]:
        """What workers have begun, as far as they told; the longest in work first."""
        now = time.monotonic()
        found = [
            Held(image, note.stage, note.seconds + now - sight.told_s)
            for worker, sight in self._workers.items()
            for image, note in sight.notes.items()
            if image in self.queue.held(worker)
        ]
        return sorted(found, key=lambda held: -held.seconds)

    def _start_missing(self) -> None:
        while not self.queue.stopped and len(self._workers) < self.workers:
            self._count += 1
            worker = f"{self._name}-{self._count}"
            self.crew.start(worker)
            self._workers[worker] = _Sight(time.monotonic())

    def _feed(self) -> None:
        """Give each worker what keeps it busy, the emptiest first."""
        ready = [worker for worker, sight in self._workers.items() if sight.ready]
        for depth in range(1, self._depth() + 1):
            for worker in ready:
                task = self.queue.take(worker, depth)
                if task is not None:
                    self._handed[task.image] = time.monotonic()
                    self.crew.hand(worker, self.order(task))

    def _depth(self) -> int:
        """Images that a worker should hold: BUSY, and AHEAD_S beyond, at BUSY / slowest_s a second."""
        slowest_s = self.pace.slowest_s
        return BUSY if not slowest_s else min(DEEPEST, BUSY + ceil(AHEAD_S * BUSY / slowest_s))

    def _handle(self, events: Iterable[Event]) -> list[Outcome]:
        arrived: list[Outcome] = []
        for event in events:
            sight = self._workers.get(event.worker)
            if sight is None:  # it was ended since
                continue
            match event:
                case Started():
                    sight.hear({}, ready=True)
                    self._is_up = True
                case Told(notes=notes):
                    sight.hear(notes)
                case Returned(worker=worker, outcome=outcome):
                    arrived.append(self._finish(worker, outcome))
                case Raised():
                    arrived += self._blame(event)
                case Died(worker=worker, cause=cause):
                    arrived += self._bury(worker, cause)
        return arrived

    def _finish(self, worker: str, outcome: Outcome) -> Outcome:
        self.queue.finish(worker, outcome.image)
        self.pace.add(time.monotonic() - self._handed.pop(outcome.image))
        self._finished += 1
        return outcome

    def _blame(self, event: Raised) -> list[Outcome]:
        """What follows from an exception: the end, where no image is to blame, else a mark on the image."""
        if isinstance(event.error, OSError | RequestError):
            raise event.error
        cause = f"{type(event.error).__name__}: {event.error}"
        if not event.image:
            arrived = self._end(event.worker)
            return [*arrived, *self.queue.die(event.worker, {}, cause)]
        where = self._where(event.worker, event.image)
        arrived: list[Outcome] = [*self.queue.fail(event.worker, event.image, where, cause)]
        write_suspects(self.inflight, self.queue.suspects)
        if self.crew.is_spoiled_by_errors:
            arrived += self._end(event.worker)
            self.queue.give_back(event.worker, {})
            self._settle(event.worker)
        return arrived

    def _where(self, worker: str, image: str) -> Note:
        """At which stage a living worker was with an image: by its notes, or as it was last heard."""
        told = self._workers[worker].notes.get(image, Note(READ, 1))
        return self._read_notes(worker).get(image, told) if self.inflight.is_local else told

    def _bury(self, worker: str, cause: str) -> Sequence[Outcome]:
        """Find out what a dead worker had touched, and have it replaced."""
        del self._workers[worker]
        touched = self._read_notes(worker)
        log.info(
            f"a worker is gone ({cause}), with {_name_images(touched)} in work; another one takes its place"
        )
        aside = self.queue.die(worker, touched, cause)
        self._settle(worker)
        return aside

    def _end(self, worker: str) -> list[Outcome]:
        """End a worker; what arrived from it meanwhile."""
        arrived = self._handle(self.crew.end(worker))
        del self._workers[worker]
        return arrived

    def _look(self) -> list[Outcome]:
        """Ask workers where they are; end those that are too long at an image, or all if nothing moves."""
        self._looked_s = time.monotonic()
        arrived: list[Outcome] = []
        for worker, sight in list(self._workers.items()):
            if sight.ready:
                arrived += self._end_if_overdue(worker, sight)
        for worker, sight in self._workers.items():
            if sight.ready:
                self.crew.ask(worker)
        stages = {held.image: held.stage for held in self.held()}
        is_waited_for = not any(sight.ready for sight in self._workers.values())
        watchdog = self._start_watchdog if is_waited_for else self._watchdog
        if watchdog.look((self._finished, self._count, stages), time.monotonic()):
            arrived += self._restart(watchdog.limit_s)
        return arrived

    def _end_if_overdue(self, worker: str, sight: "_Sight") -> list[Outcome]:
        limit_s = self.limits.image_s
        if limit_s is None:
            return []
        overdue = find_overdue(self.queue.held(worker), sight.notes, sight.silent_s, limit_s)
        if not overdue:
            return []
        if not self.crew.can_be_ended:
            self._name_overdue([image for image in overdue if image not in self._named], limit_s)
            return []
        arrived = self._end(worker)
        overdue = [image for image in overdue if image in self.queue.held(worker)]
        cause = f"{_name_images(overdue)} took longer than {limit_s:g} s"
        log.info(f"a worker was ended: {cause}; another one takes its place")
        touched = {image: sight.notes.get(image, Note(READ, 1)) for image in overdue}
        arrived += self.queue.die(worker, touched, cause, timed_out=overdue)
        self._settle(worker)
        return arrived

    def _name_overdue(self, images: list[str], limit_s: float) -> None:
        for image in images:
            self._named.add(image)
            stage = next((held.stage for held in self.held() if held.image == image), READ)
            log.info(
                f"{image} takes longer than {limit_s:g} s, in stage {stage}, and `workers=0` cannot end it: "
                "wait, or end this command and give `workers=1`, which sets such an image aside"
            )

    def _restart(self, still_s: float) -> list[Outcome]:
        """Start all workers again, once, as nothing moved for so long; ScoringStalled: that did not help."""
        what = f"nothing has moved for {still_s / 60:g} min; in work: {_describe(self.held())}"
        if self._stalled and self._finished == self._finished_at_stall:
            raise ScoringStalled(f"{what}; starting workers again did not help")
        log.info(f"{what}; starting all workers again")
        self._stalled, self._finished_at_stall = True, self._finished
        arrived: list[Outcome] = []
        for worker in list(self._workers):
            arrived += self._end(worker)
            self.queue.give_back(worker, self._read_notes(worker))
            self._settle(worker)
        return arrived

    def _read_notes(self, worker: str) -> dict[str, Note]:
        """What a worker had begun; all that it held where its notes cannot be read."""
        try:
            return read_notes(self.inflight, worker)
        except (OSError, ValueError):
            return {image: Note(READ, task.attempt) for image, task in self.queue.held(worker).items()}

    def _settle(self, worker: str) -> None:
        """Note the suspects, then remove the notes of a worker that is gone."""
        write_suspects(self.inflight, self.queue.suspects)
        forget_process(self.inflight, worker)

    def _close(self) -> None:
        """End all workers; what was in flight is tried last by the next command, as the same attempt."""
        for worker in list(self._workers):
            self.crew.end(worker)
            with suppress(OSError):  # then the notes stay, and the next command finds them
                self.queue.give_back(worker, self._read_notes(worker))
                self._settle(worker)


@dataclass(slots=True)
class _Sight:
    """A worker as it was last heard."""

    told_s: float
    ready: bool = False
    notes: Mapping[str, Note] = field(default_factory=dict)

    @property
    def silent_s(self) -> float:
        """Seconds since it was last heard."""
        return time.monotonic() - self.told_s

    def hear(self, notes: Mapping[str, Note], *, ready: bool = False) -> None:
        """Take what a worker told: its notes, and that it is ready."""
        self.told_s, self.notes, self.ready = time.monotonic(), notes, self.ready or ready


def _name_images(images: Iterable[str]) -> str:
    names = list(images)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest if names else "no image"


def _describe(held: list[Held]) -> str:
    found = [f"{one.image} ({one.stage}, {one.seconds:.0f} s)" for one in held]
    return _name_images(found)
