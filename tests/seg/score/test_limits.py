from pathlib import Path

import pytest

from seg.score.blame import InFlight, Note, read_notes
from seg.score.limits import Sentinel, Watchdog
from seg.storage import as_place


def test_the_watchdog_barks_once_for_each_time_that_nothing_moved() -> None:
    watchdog = Watchdog(10, now_s=0)
    looks = [(0, "a"), (9, "a"), (10, "b"), (19, "b"), (20, "b"), (21, "b"), (29, "b"), (30, "b")]
    assert [watchdog.look(sight, now) for now, sight in looks] == [0, 0, 0, 0, 1, 0, 0, 1]


def test_an_image_that_takes_too_long_is_noted_as_what_its_process_ends_for_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr("seg.score.blame.time.monotonic", lambda: now[0])
    place = as_place(tmp_path)
    sentinel = Sentinel(None, lambda: ended.append(1))
    sentinel.limit_s = 10
    notes = {name: InFlight(place, name) for name in ("p1", "p2")}
    for one in notes.values():
        sentinel.watch(one)
    notes["p1"].begin("slow", 1)
    notes["p1"].begin("waits", 1)
    notes["p1"].wait("waits")
    now[0] += 8
    notes["p2"].begin("quick", 1)
    sentinel.look()
    assert not ended
    now[0] += 3
    sentinel.look()
    assert ended == [1]
    (image, note), *others = read_notes(place, "p1").items()
    assert (image, note.timed_out, others) == ("slow", True, [])
    assert note.cause == "slow took longer than 10 s"
    assert read_notes(place, "p2") == {}
    found = InFlight(place, "p1").dead
    assert found == {"slow": Note("read", 1, 11.0, cause=note.cause, timed_out=True)}


def test_what_is_left_is_not_looked_at(tmp_path: Path) -> None:
    ended: list[int] = []
    sentinel = Sentinel(None, lambda: ended.append(1))
    sentinel.limit_s = -1
    notes = InFlight(as_place(tmp_path), "p1")
    notes.begin("a", 1)
    sentinel.watch(notes)
    sentinel.leave(notes)
    sentinel.look()
    assert not ended
