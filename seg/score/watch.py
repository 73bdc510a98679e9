"""What the job's process sees of a round elsewhere: by notes and marks in a folder, without Ray."""

import time
from collections import Counter
from dataclasses import dataclass

from seg.score.blame import MODEL, Note, find_notes, read_sight
from seg.score.limits import Limits, Watchdog
from seg.score.parcels import Mark, Round, read_marks
from seg.score.status import Held

LOOK_EVERY_S, LOOK_FAR_S = 1.0, 5.0
"""How often notes are looked at, on a disk and in an object store."""
FROZEN_S = 5.0
"""How much later than its own watch the job ends a process whose notes stand still."""
END_EVERY_S = 60.0
"""How often a process is told to end: that takes another process each time, on a node that may be slow."""
START_S = 1800.0
"""How long processes are waited for at least where there is none: nodes have to be started."""


@dataclass(slots=True)
class _Seen:
    """A note as it was seen first."""

    pid: int
    note: Note
    since_s: float

    def seconds(self, now_s: float) -> float:
        """How long its image was worked at, as far as is known."""
        return self.note.seconds + (0.0 if self.note.waits else now_s - self.since_s)


class Watch:
    """A round's processes and the images in work, as they were seen last."""

    def __init__(self, round_: Round, limits: Limits, expected: dict[str, int]) -> None:
        """`expected`: processes of each stage that there are to be."""
        self.round, self.limits, self.expected = round_, limits, expected
        self.inflight = round_.inflight
        self.marks: dict[str, Mark] = {}
        self._seen: dict[str, _Seen] = {}
        self._ended: dict[Mark, float] = {}
        self._deaths = 0
        self._looked_s, now = 0.0, time.monotonic()
        limit_s = limits.stall_s or float("inf")
        self._watchdog, self._start_watchdog = Watchdog(limit_s, now), Watchdog(max(limit_s, START_S), now)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        every_s = LOOK_EVERY_S if self.inflight.is_local else LOOK_FAR_S
        return time.monotonic() - self._looked_s >= every_s

    @property
    def is_up(self) -> bool:
        """Whether a model is loaded."""
        return any(mark.ready for mark in self.marks.values() if mark.stage == MODEL)

    @property
    def is_idle(self) -> bool:
        """Whether no image is in work."""
        return not self._seen

    def look(self) -> None:
        """See what there is now."""
        now = self._looked_s = time.monotonic()
        names = self.inflight.names()
        self.marks = read_marks(self.round, names, self.marks)
        seen: dict[str, _Seen] = {}
        for name in find_notes(names, self.round.name):
            pid, notes = read_sight(self.inflight, name)
            for image, note in notes.items():
                known = self._seen.get(image)
                is_old = known is not None and (known.pid, known.note) == (pid, note)
                seen[image] = known if known is not None and is_old else _Seen(pid, note, now)
        self._seen = seen

    def held(self) -> list[Held]:
        """The images in work; the longest first."""
        now = time.monotonic()
        found = [Held(image, seen.note.stage, seen.seconds(now)) for image, seen in self._seen.items()]
        return sorted(found, key=lambda held: -held.seconds)

    def touched(self) -> dict[str, Note]:
        """The images in work, and where they are."""
        return {image: seen.note for image, seen in self._seen.items()}

    def new_deaths(self) -> int:
        """Processes that died before they were ready, beyond those that were counted before."""
        waiting = Counter(mark.stage for mark in self.marks.values() if not mark.ready)
        deaths = sum(max(0, count - self.expected.get(stage, 0)) for stage, count in waiting.items())
        found, self._deaths = deaths - self._deaths, max(deaths, self._deaths)
        return max(0, found)

    def take_frozen(self) -> list[Mark]:
        """Processes whose notes stand still for longer than an image may be worked at, and then some.

        To be ended; one that is among them is not again for a minute.
        """
        pids, now = {seen.pid for seen in self._late().values()}, time.monotonic()
        late = [mark for mark in self.marks.values() if mark.pid in pids]
        found = [mark for mark in late if now - self._ended.get(mark, -END_EVERY_S) >= END_EVERY_S]
        self._ended |= dict.fromkeys(found, now)
        return found

    def frozen_images(self) -> list[str]:
        """The images at which they stand still."""
        return list(self._late())

    def _late(self) -> dict[str, _Seen]:
        limit_s, now = self.limits.image_s, time.monotonic()
        if limit_s is None or not self.inflight.is_local:  # elsewhere notes do not tell of each stage
            return {}
        return {image: seen for image, seen in self._seen.items() if seen.seconds(now) > limit_s + FROZEN_S}

    def stalled_s(self, finished: int) -> float | None:
        """For how long nothing has moved, where that is too long; then the clock starts again."""
        stages = {image: seen.note.stage for image, seen in self._seen.items()}
        watchdog = self._watchdog if any(mark.ready for mark in self.marks.values()) else self._start_watchdog
        moved = watchdog.look((finished, len(self.marks), stages), time.monotonic())
        return watchdog.limit_s if moved else None

    def forget(self) -> None:
        """Remove all that this round has left."""
        for name in self.inflight.names():
            if name.startswith(self.round.name):
                self.inflight.remove(name)
