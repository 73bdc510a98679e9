import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from seg.errors import StoppedBy
from seg.ledger.outcome import Quarantined, Scored
from seg.score.progress import Earlier, ScoringProgress
from seg.score.status import Held, ScoringStatus, draw_status, limiting_stage
from tests.outcomes import make_aside, make_scored

CLASSES = ("background", "cell")
LANES = {"read": 3, "decode": 3, "model": 1, "write": 2}
SECONDS = {"read": 0.3, "decode": 0.6, "model": 1.5, "write": 0.5}


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("seg.score.progress.time.monotonic", clock)
    return clock


def scored(count: int = 1, confusion: list[int] | None = None, **other: Any) -> list[Scored]:
    size, seconds = (1000, 2000), {f"seconds_{stage}": value for stage, value in SECONDS.items()}
    return [make_scored("a.png", confusion, size, **(seconds | other))] * count


def set_aside(count: int = 1) -> list[Quarantined]:
    return [make_aside()] * count


def draw(status: ScoringStatus, width: int = 80, silence_s: float = 0.0) -> list[str]:
    console = Console(width=width, height=24, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(draw_status(status, silence_s))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_terminal_of_80_columns_shows_all_of_a_scoring(clock: Clock) -> None:
    soon = datetime.now(UTC).astimezone() + timedelta(minutes=1)
    progress = ScoringProgress(
        1000,
        CLASSES,
        workers=2,
        earlier=Earlier(400, 2, np.array([[10, 0], [0, 10]])),
        deadline=soon,
        title="scoring holograms",
    )
    progress.begin()
    clock.now += 100
    progress.add([*scored(100, confusion=[20, 10, 10, 20]), *set_aside()])
    progress.suspects = 1
    progress.hold([Held("s/1.png", "read", 0.5), Held("s/2.png", "model", 12.25)])
    first, *rest = draw(progress.status())
    assert re.fullmatch(r"scoring holograms  ━+\S* +501/1000 images  8 min left", first)
    # 100 images a 2 MPix in 100 s; shares of 2 workers with 3, 1 and 2 threads for the stages
    assert rest[:3] == [
        "  mIoU   0.5012            3 quarantined     400 done before   1 suspect",
        "  speed  2.0 MPix/s        mean 2.0          ▁",
        "  limit  ▆ model 75%       ▁ storage 5%      ▂ decode 10%      ▂ write 12%",
    ]
    ends = datetime.fromisoformat(progress.status().ends_at or "")
    assert rest[3:] == [
        f"  end    about {ends:%a %H:%M}   2 workers         deadline {soon:%a %H:%M} comes first",
        "  now    model 12 s, longest of 2: s/2.png",
    ]
    assert progress.note == "2.0 MPix/s  mIoU 0.5012  3 quarantined  1 suspect  model limits  8 min left"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("state", ["starting", "scoring", "finishing", *StoppedBy])
def test_a_picture_keeps_to_the_terminal(clock: Clock, width: int, state: str) -> None:
    progress = ScoringProgress(10**6, CLASSES, workers=64, title="scoring " + "a long name " * 9)
    progress.begin()
    clock.now += 3600
    progress.add(scored(99))
    progress.hold([Held("folder/" * 30 + "frame.png", "decode", 1e4)])
    status = replace(progress.status(), state=state, cause="OSError: no space" * 9, deadline=None)
    lines = draw(status, width, silence_s=720)
    assert len(lines) == (7 if status.runs else 6)
    assert max(map(len, lines)) <= width


def test_an_image_in_work_for_too_long_is_named_in_the_picture_and_in_a_logs_line(clock: Clock) -> None:
    progress = ScoringProgress(10, CLASSES, workers=0)
    progress.begin()
    progress.hold([Held("a.png", "model", 30.0), Held("night/slow.png", "decode", 700.0)])
    assert "OVERDUE" not in progress.note
    assert draw(progress.status())[-1] == "  now    decode 700 s, longest of 2: night/slow.png"
    progress.image_limit_s = 600.0
    assert progress.note.endswith("OVERDUE night/slow.png (decode 700 s)")
    assert draw(progress.status())[-1] == "  now    decode 700 s, OVERDUE, longest of 2: night/slow.png"
    assert progress.status().image_limit_s == 600.0


def test_the_time_left_is_the_bytes_left_at_the_pace_of_five_minutes(clock: Clock) -> None:
    progress = ScoringProgress(2000, CLASSES, workers=1, bytes_left=1_000_000)
    progress.begin()
    assert progress.seconds_left is None
    for _ in range(10):  # 10 minutes of 6,000 bytes, then 4.5 of 30,000, in larger images
        clock.now += 59
        progress.add(scored(6))
        clock.now += 1
    for _ in range(9):
        clock.now += 29
        progress.add(scored(1, bytes=15_000, height=100))
        clock.now += 1
    left = 1_000_000 - 10 * 6_000 - 9 * 15_000
    # now is 14.5 minutes: the minutes 10 to 14 are recent, 4.5 of them are over
    assert progress.seconds_left == pytest.approx(left / (9 * 15_000) * 270)
    status = progress.status()
    assert status.megapixels_per_second_recent == pytest.approx(9 * 0.2 / 270)
    assert status.megapixels_per_second == pytest.approx((60 * 2 + 9 * 0.2) / 870)
    assert status.speeds == pytest.approx([6 * 2 / 60] * 10 + [2 * 0.2 / 60] * 4)


def test_where_nothing_came_for_five_minutes_the_mean_pace_tells_the_time_left(clock: Clock) -> None:
    progress = ScoringProgress(100, CLASSES, workers=1, earlier=Earlier(50))
    progress.begin()
    clock.now += 10
    progress.add(scored(10))
    clock.now += 990
    assert progress.seconds_left == pytest.approx(40 * 1000 / 10)
    assert progress.status().megapixels_per_second_recent == 0
    progress.add([*scored(39), *set_aside()])
    assert progress.seconds_left == 0


def test_only_the_last_half_hour_is_kept(clock: Clock) -> None:
    progress = ScoringProgress(10**6, CLASSES, workers=1)
    progress.begin()
    for _ in range(300):
        clock.now += 60
        progress.add(scored(3))
    assert len(progress.status().speeds) == 30
    assert len(progress._minutes) <= 31


def test_a_scoring_goes_through_its_states_and_its_clock_stops_with_it(clock: Clock) -> None:
    progress = ScoringProgress(3, CLASSES, workers=1)
    clock.now += 500
    assert (progress.status().state, progress.status().seconds) == ("starting", 0)
    progress.begin()
    clock.now += 4
    progress.add(scored(2))
    progress.hold([Held("c.png", "model", 1.0)])
    assert (progress.status().state, progress.status().seconds_left) == ("scoring", 2)
    progress.finish()
    assert progress.status().state == "finishing"
    progress.end(StoppedBy.ERROR, "OSError: no space")
    clock.now += 1000
    status = progress.status()
    assert (status.state, status.cause, status.seconds, status.in_flight) == (
        "error",
        "OSError: no space",
        4,
        [],
    )
    assert (status.seconds_left, status.megapixels_per_second) == (None, 1.0)
    assert draw(status)[-1] == "  cause  OSError: no space"


@pytest.mark.parametrize(
    ("read", "decode", "model", "write", "stage"),
    [
        (1, 8, 4, 1, "model"),  # 9 seconds on 3 threads are 3 of a clock
        (1, 12, 4, 1, "decode"),
        (12, 1, 4, 1, "storage"),
        (0, 0, 4, 9, "write"),
        (0, 0, 4, 7, "model"),
        (0, 0, 0, 0, None),
    ],
)
def test_what_limits_is_the_stage_whose_threads_are_busiest(
    read: float, decode: float, model: float, write: float, stage: str | None
) -> None:
    seconds = {"read": read, "decode": decode, "model": model, "write": write}
    assert limiting_stage(seconds, LANES) == stage


def test_the_miou_is_that_of_the_folder_not_of_the_command_alone(clock: Clock) -> None:
    parts = [np.array([[5, 1], [2, 7]]), np.array([[50, 3], [0, 1]]), np.array([[0, 0], [9, 1]])]
    progress = ScoringProgress(9, CLASSES, workers=1, earlier=Earlier(1, 0, parts[0]))
    for part in parts[1:]:
        progress.add(scored(confusion=part.flatten().tolist()))
    total = parts[0] + parts[1] + parts[2]
    ious = [total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k]) for k in range(2)]
    assert progress.status().miou == pytest.approx(sum(ious) / 2)
    assert parts[0].tolist() == [[5, 1], [2, 7]]
