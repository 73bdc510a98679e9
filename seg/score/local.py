"""Scoring in this process, without Ray (`workers=0`): nothing ends an image; one that crashes ends all."""

import concurrent.futures
import logging
import secrets
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress

from seg.errors import RequestError
from seg.ledger.outcome import Outcome
from seg.score.blame import READ, InFlight, Note, forget_process, write_suspects
from seg.score.deadline import Pace, Stopping
from seg.score.limits import Limits
from seg.score.pipeline import BUSY, DeviceLost, ImageScorer
from seg.score.queue import Order, ScoreQueue, Task
from seg.score.status import Held
from seg.storage import Place

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class LocalSource:
    """Outcomes of a queue's images, each once: an image at which Python raised is tried again, alone."""

    def __init__(
        self,
        queue: ScoreQueue,
        order: Callable[[Task], Order],
        *,
        open_scorer: Callable[[], ImageScorer],
        inflight: Place,
        stopping: Stopping,
        limits: Limits,
    ) -> None:
        """`order`: what a scorer needs to know of an image. inflight: where this process leaves its notes."""
        self.queue, self.order, self.open_scorer = queue, order, open_scorer
        self.inflight, self.stopping, self.limits = inflight, stopping, limits
        self.is_up = False
        self.pace = Pace()
        self._notes = InFlight(inflight, f"worker-{secrets.token_hex(4)}")
        self._begun: dict[Future[Outcome], tuple[str, float]] = {}
        self._named: set[str] = set()
        """Images that were said to take too long."""

    def outcomes(self) -> Generator[list[Outcome], None, None]:
        """Outcomes as they come, also none, at least once a second; those set aside may lack size and time.

        RequestError: the model file cannot be used. OSError: of storage that stays away. DeviceLost: the
        device is. However it ends, what was in flight is noted as suspect.
        """
        scorer = self.open_scorer()
        self.is_up = True
        depth = BUSY + scorer.settings.batch
        try:
            while not self.queue.is_done:
                self.queue.stopped = self.stopping.check(self.pace) is not None
                while len(self._begun) < depth and (task := self.queue.take()):
                    future = scorer.submit(self.order(task), self._notes)
                    self._begun[future] = task.image, time.monotonic()
                yield self._wait()
        finally:
            scorer.close()
            with suppress(OSError):  # then the notes stay, and the next command finds them
                self.queue.give_back(self._notes.notes())
                write_suspects(self.inflight, self.queue.suspects)
                forget_process(self.inflight, self._notes.name)

    def held(self) -> list[Held]:
        """What was begun; the longest in work first."""
        found = [Held(image, note.stage, note.seconds) for image, note in self._notes.notes().items()]
        return sorted(found, key=lambda held: -held.seconds)

    def _wait(self) -> list[Outcome]:
        done, _ = concurrent.futures.wait(
            self._begun, LOOK_EVERY_S, return_when=concurrent.futures.FIRST_COMPLETED
        )
        self._name_overdue()
        ended = [future for future in self._begun if future in done]  # in the order in which they were begun
        return [outcome for future in ended for outcome in self._take(future)]

    def _take(self, future: Future[Outcome]) -> list[Outcome]:
        image, begun_s = self._begun.pop(future)
        error = future.exception()
        if error is None:
            self.queue.finish(image)
            self.pace.add(time.monotonic() - begun_s)
            return [future.result()]
        if not isinstance(error, Exception) or isinstance(error, OSError | RequestError | DeviceLost):
            raise error
        note = self._notes.notes().get(image, Note(READ, 1))
        self._notes.end(image)
        aside = self.queue.fail(image, note._replace(cause=f"{type(error).__name__}: {error}"))
        write_suspects(self.inflight, self.queue.suspects)
        return [*aside]

    def _name_overdue(self) -> None:
        limit_s = self.limits.image_s
        if limit_s is None:
            return
        for held in self.held():
            if held.seconds > limit_s and held.image not in self._named:
                self._named.add(held.image)
                log.info(
                    f"{held.image} takes longer than {limit_s:g} s, in stage {held.stage}, and `workers=0` "
                    "cannot end it: wait, or end this command and give `workers=1`, which sets it aside"
                )
