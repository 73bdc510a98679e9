"""When a scoring stops before its end: at a deadline, or because somebody asks it to."""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from re import fullmatch
from types import FrameType

from seg.errors import RequestError, StoppedBy
from seg.storage import Place

REMEMBERED = 32
"""Images whose times say how long the next one takes."""


def parse_deadline(text: str, now: datetime) -> datetime:
    """The moment that '07:00', its next occurrence, or an ISO time means; with its offset from UTC.

    Times without an offset are local. The next occurrence is by the calendar: in the night that summer time
    ends, 07:00 is an hour further away. RequestError: neither form, or past.
    """
    try:
        if fullmatch(r"\d\d?:\d\d", text):
            clock = datetime.strptime(text, "%H:%M").time()
            today = now.astimezone().date()
            days = (datetime.combine(today + timedelta(days=later), clock).astimezone() for later in (0, 1))
            return next(moment for moment in days if moment > now)
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise RequestError(
            f"`deadline={text!r}` is neither a time of day nor an ISO time; try 07:00 or 2027-01-31T07:00"
        ) from None
    if moment <= now:
        raise RequestError(f"`deadline={text}` is past; give a later time")
    return moment


@dataclass(slots=True)
class Pace:
    """How long images take from being handed out to their row, by the last of them."""

    last_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def add(self, seconds: float) -> None:
        """Count one image."""
        self.last_s.append(seconds)

    @property
    def slowest_s(self) -> float:
        """The longest of the last images; 0 before the first."""
        return max(self.last_s, default=0.0)


@dataclass(slots=True)
class Stopping:
    """Whether images may still be handed out; a deadline comes early enough for what is in flight to end."""

    deadline: datetime | None = None
    asked: StoppedBy | None = None
    """Why nothing is handed out any more; None: it still is."""

    def check(self, pace: Pace, now_s: float | None = None) -> StoppedBy | None:
        """Why to hand out no image now; None: go on. Once there is a reason it stays.

        An image that is handed out now has its row about `pace.slowest_s` later. now_s: since 1970.
        """
        now_s = time.time() if now_s is None else now_s
        late = self.deadline is not None and now_s + pace.slowest_s >= self.deadline.timestamp()
        if self.asked is None and late:
            self.asked = StoppedBy.DEADLINE
        return self.asked


FLAG_EVERY_S = 0.5


class StopFlag:
    """Whether a scoring is to stop, for processes elsewhere: a file that the job's process makes."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.name = place, f"{name}.stop"
        self._seen, self._looked_s = False, 0.0

    def raise_(self) -> None:
        """Have all stop before their next image."""
        self.place.write(self.name, b"")

    def lower(self) -> None:
        """Let nobody see it any more."""
        self.place.remove(self.name)

    def is_up(self) -> bool:
        """Whether it was up when it was looked for last, FLAG_EVERY_S ago at most."""
        now = time.monotonic()
        if not self._seen and now - self._looked_s >= FLAG_EVERY_S:
            self._seen, self._looked_s = self.place.stat(self.name) is not None, now
        return self._seen


@contextmanager
def heeding_ctrl_c(stopping: Stopping) -> Iterator[None]:
    """While the block runs the first Ctrl-C only notes that it came; the next one stops at once.

    SIGTERM is Ctrl-C where the job has made it so (jobs/run.py). Outside the main thread, where signals
    are not heard, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stopping.asked is StoppedBy.INTERRUPT:
            raise KeyboardInterrupt
        stopping.asked = StoppedBy.INTERRUPT

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
