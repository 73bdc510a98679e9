import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from seg.errors import RequestError, StoppedBy
from seg.score.deadline import REMEMBERED, Pace, Stopping, heeding_ctrl_c, parse_deadline

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("text", "now", "wanted", "hours"),
    [
        ("07:00", "2026-06-01T18:00", "2026-06-02T07:00+02:00", 13),
        ("7:00", "2026-06-01T06:59", "2026-06-01T07:00+02:00", 1 / 60),
        ("07:00", "2026-06-01T07:00", "2026-06-02T07:00+02:00", 24),
        ("07:00", "2026-10-24T18:00", "2026-10-25T07:00+01:00", 14),  # summer time ends in that night
        ("07:00", "2027-03-27T18:00", "2027-03-28T07:00+02:00", 12),  # and begins in this one
        ("2026-06-03T07:30", "2026-06-01T18:00", "2026-06-03T07:30+02:00", 37.5),
        ("2026-06-01T18:00Z", "2026-06-01T18:00", "2026-06-01T18:00+00:00", 2),
    ],
)
def test_a_deadline_is_the_next_such_time_by_the_local_clock(
    text: str, now: str, wanted: str, hours: float
) -> None:
    began = datetime.fromisoformat(now).replace(tzinfo=BERLIN)
    deadline = parse_deadline(text, began)
    assert deadline == datetime.fromisoformat(wanted)
    assert (deadline.timestamp() - began.timestamp()) / 3600 == pytest.approx(hours)


@pytest.mark.parametrize("text", ["", "7", "25:00", "07:60", "tomorrow", "2026-13-01", "07:00:00 pm"])
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(RequestError, match="is neither a time of day nor an ISO time; try 07:00"):
        parse_deadline(text, datetime.now().astimezone())


def test_a_time_that_is_past_is_refused() -> None:
    with pytest.raises(RequestError, match="`deadline=2020-01-01T07:00` is past"):
        parse_deadline("2020-01-01T07:00", datetime.now().astimezone())


def test_nothing_is_handed_out_that_would_end_after_the_deadline() -> None:
    pace = Pace()
    deadline = datetime.now().astimezone() + timedelta(hours=1)
    stopping, end_s = Stopping(deadline), deadline.timestamp()
    assert stopping.check(pace, end_s - 1) is None  # nothing is known yet
    pace.add(30)
    pace.add(5)
    assert stopping.check(pace, end_s - 31) is None
    assert stopping.check(pace, end_s - 29) is StoppedBy.DEADLINE
    assert stopping.check(pace, end_s - 100) is StoppedBy.DEADLINE  # it stays


def test_a_slow_image_is_forgotten_after_some_quick_ones() -> None:
    pace = Pace()
    assert pace.slowest_s == 0
    for seconds in (60, *[1.0] * REMEMBERED):
        pace.add(seconds)
    assert pace.slowest_s == 1


def test_the_first_ctrl_c_is_noted_and_the_second_one_stops() -> None:
    stopping = Stopping()
    before = signal.getsignal(signal.SIGINT)
    with heeding_ctrl_c(stopping):
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.check(Pace()) is StoppedBy.INTERRUPT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
