"""How far a scoring is, as the outcomes that arrive tell it: speed, quality, time left, what limits it."""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from seg.errors import StoppedBy
from seg.ledger.outcome import STAGES, Outcome, Quarantined
from seg.metrics import iou, mean_present
from seg.score import status
from seg.score.rehearsal import lanes_of
from seg.score.status import Held, ScoringStatus

RECENT_MINUTES = 5
"""This minute and those before it that recent figures and the time left are of."""
KEPT_MINUTES = 30


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a folder held when the command began."""

    done: int = 0
    """Of the images asked for, those in ledger or quarantine."""
    quarantined: int = 0
    """Of the images asked for, those in quarantine."""
    confusion: NDArray[np.int64] | None = None
    """The ledger's sum, [C, C]; None: nothing was counted."""


@dataclass(slots=True)
class Minute:
    """What arrived in one minute, or in several."""

    pixels: int = 0
    work: int = 0
    """Bytes of image files, or images: what the time left is told by."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds in each stage."""

    def add(self, other: "Minute") -> None:
        """Count what another one counted, too."""
        self.pixels, self.work = self.pixels + other.pixels, self.work + other.work
        for stage, seconds in other.stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds


class ScoringProgress:
    """Counts outcomes as they arrive; a live view's `Watched`, and the source of status.json."""

    def __init__(
        self,
        total: int,
        classes: tuple[str, ...],
        *,
        workers: int,
        earlier: Earlier = Earlier(),
        bytes_left: int = 0,
        deadline: datetime | None = None,
        title: str = "scoring",
    ) -> None:
        """total: images asked for. bytes_left: of all images to come, each counted as large as its file.

        The time left is told by these bytes; 0: by the number of images.
        """
        self.title, self.total, self.workers, self.deadline = title, total, workers, deadline
        self.lanes: Mapping[str, int] = lanes_of(workers)
        """Threads of each stage in all processes together."""
        self.skipped = self.done = earlier.done
        self.scored, self.quarantined = 0, earlier.quarantined
        self.confusion = np.zeros((len(classes),) * 2, np.int64)
        if earlier.confusion is not None:
            self.confusion += earlier.confusion
        self.by_bytes, self.work_left = bytes_left > 0, bytes_left or total - self.done
        self.suspects = 0
        self.image_limit_s: float | None = None
        self.state, self.cause = status.STARTING, ""
        self._in_flight: list[Held] = []
        self._begun: float | None = None
        self._ended: float | None = None
        self._all = Minute()
        self._minutes: dict[int, Minute] = {}

    def begin(self) -> None:
        """Workers are up and get images from now on: the clock starts."""
        self.state, self._begun = status.SCORING, time.monotonic()

    def finish(self) -> None:
        """No more images are handed out; those in flight are waited for."""
        self.state = status.FINISHING

    def end(self, stopped_by: StoppedBy, cause: str = "") -> None:
        """It is over. cause: of an error, one line."""
        self.state, self.cause, self._ended, self._in_flight = stopped_by.value, cause, time.monotonic(), []

    def hold(self, in_flight: Iterable[Held]) -> None:
        """Which images workers hold now."""
        self._in_flight = sorted(in_flight, key=lambda held: -held.seconds)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        found = Minute()
        for outcome in outcomes:
            self.done += 1
            found.work += (outcome.bytes or 0) if self.by_bytes else 1
            if isinstance(outcome, Quarantined):
                self.quarantined += 1
                continue
            self.scored += 1
            found.add(Minute(outcome.pixels, stages=outcome.seconds))
            if outcome.confusion is not None:
                self.confusion += np.reshape(outcome.confusion, self.confusion.shape)
        now = self._minute
        self._minutes.setdefault(now, Minute()).add(found)
        self._all.add(found)
        for old in [minute for minute in self._minutes if minute < now - KEPT_MINUTES]:
            del self._minutes[old]

    @property
    def seconds(self) -> float:
        """Since the first image was handed out."""
        if self._begun is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._begun

    @property
    def seconds_left(self) -> float | None:
        """Time until the last image is done, at the recent pace; None: nothing is known yet.

        That is work left / work of the last minutes * their seconds, in bytes of image files: of images of
        mixed sizes they tell more than numbers do.
        """
        if self.done >= self.total:
            return 0.0
        recent, seconds = self._recent()
        if not recent.work:
            recent, seconds = self._all, self.seconds
        return max(0, self.work_left - self._all.work) * seconds / recent.work if recent.work else None

    @property
    def note(self) -> str:
        """The rest of a log's line."""
        return status.log_note(self.status())

    def look(self) -> None:
        """Nothing to do: rows come by themselves."""

    def picture(self, height: int) -> RenderableType:
        """Six lines: see scoring_picture.py."""
        return status.draw_status(self.status())

    def status(self) -> ScoringStatus:
        """All of it, now."""
        now = datetime.now(UTC).astimezone()
        recent, seconds = self._recent()
        left = self.seconds_left if self.state in (status.SCORING, status.FINISHING) else None
        return ScoringStatus(
            title=self.title,
            state=self.state,
            images_total=self.total,
            images_done=self.done,
            images_skipped=self.skipped,
            images_scored=self.scored,
            images_quarantined=self.quarantined,
            pixels=self._all.pixels,
            seconds=self.seconds,
            megapixels_per_second=_rate(self._all.pixels, self.seconds),
            megapixels_per_second_recent=_rate(recent.pixels, seconds),
            speeds=self._speeds(),
            miou=mean_present(iou(self.confusion)) if self.confusion.any() else None,
            seconds_left=left,
            ends_at=None if left is None else _iso(now + timedelta(seconds=left)),
            deadline=self.deadline and _iso(self.deadline.astimezone()),
            limiting_stage=status.limiting_stage(recent.stages or self._all.stages, self.lanes),
            busy=self._busy(recent, seconds),
            workers=self.workers,
            suspects=self.suspects,
            in_flight=self._in_flight,
            image_limit_s=self.image_limit_s,
            cause=self.cause,
            updated=_iso(now),
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    @property
    def _minute(self) -> int:
        return int(self.seconds // 60)

    def _recent(self) -> tuple[Minute, float]:
        """What arrived in the last minutes, and how many seconds these are."""
        first = max(0, self._minute - RECENT_MINUTES + 1)
        recent = Minute()
        for minute, found in self._minutes.items():
            if minute >= first:
                recent.add(found)
        return recent, self.seconds - 60 * first

    def _speeds(self) -> list[float]:
        now = self._minute
        full = range(max(0, now - KEPT_MINUTES), now)
        return [self._minutes.get(minute, Minute()).pixels / 60e6 for minute in full]

    def _busy(self, recent: Minute, seconds: float) -> dict[str, float]:
        """An image's seconds count where it ends, so that a share may be above 1 for a moment."""
        if not seconds or not recent.stages:
            return {}
        return {stage: recent.stages[stage] / seconds / self.lanes[stage] for stage in STAGES}


def _rate(pixels: int, seconds: float) -> float | None:
    return pixels / 1e6 / seconds if seconds else None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
