import json
import os
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import _MockFileSystem  # type: ignore[attr-defined]

from seg.errors import DataWarning
from seg.score.blame import (
    SUSPECTS,
    InFlight,
    Note,
    find_notes,
    read_notes,
    read_sight,
    take_over,
    write_suspects,
)
from seg.storage import Place, as_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return as_place(tmp_path / "inflight")


def noted(place: Place, name: str) -> dict[str, Note]:
    """What is noted under a name, but for the seconds."""
    return {image: note._replace(seconds=0.0) for image, note in read_notes(place, name).items()}


def test_notes_name_each_image_and_its_stage_before_it_is_touched(place: Place) -> None:
    notes = InFlight(place, "w1")
    notes.begin("s/a.png", 1)
    assert noted(place, "w1") == {"s/a.png": Note("read", 1)}
    notes.begin("b.png", 2)
    notes.enter("s/a.png", "decode")
    assert noted(place, "w1") == {"s/a.png": Note("decode", 1), "b.png": Note("read", 2)}
    assert {image: note.stage for image, note in notes.notes().items()} == {
        "s/a.png": "decode",
        "b.png": "read",
    }
    notes.end("s/a.png")
    assert noted(place, "w1") == {"b.png": Note("read", 2)}
    notes.end("b.png")
    assert read_notes(place, "w1") == {}


def test_a_step_that_is_done_lets_the_time_count_afresh(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("seg.score.blame.time.monotonic", lambda: now[0])
    notes = InFlight(place, "w1")
    notes.begin("a", 1)
    now[0] += 3
    notes.wait("a")
    now[0] += 50
    notes.go_on("a")
    now[0] += 4
    assert notes.notes()["a"].seconds == 7
    notes.go_on("a", afresh=True)
    now[0] += 5
    assert notes.notes()["a"].seconds == 5
    notes.go_on("never begun")
    assert notes.notes().keys() == {"a"}


def test_waiting_for_others_is_not_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("seg.score.blame.time.monotonic", lambda: now[0])
    notes = InFlight(place, "w1")
    notes.begin("a", 1)
    now[0] += 3
    notes.wait("a")
    now[0] += 50
    assert notes.notes()["a"].seconds == 3
    notes.enter("a", "model")
    now[0] += 4
    assert notes.notes()["a"] == Note("model", 1, 7.0)


def test_who_waits_is_noted_as_waiting_with_its_seconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("seg.score.blame.time.monotonic", lambda: now[0])
    notes = InFlight(place, "w1")
    notes.begin("a", 1)
    now[0] += 3
    notes.wait("a")
    now[0] += 9
    assert read_notes(place, "w1") == {"a": Note("read", 1, 3.0, waits=True)}
    notes.enter("a", "write")
    assert read_notes(place, "w1") == {"a": Note("write", 1, 3.0)}
    assert read_sight(place, "w1") == (os.getpid(), read_notes(place, "w1"))


def test_a_parcel_s_notes_tell_the_next_process_what_the_one_before_died_with(place: Place) -> None:
    first = InFlight(place, "round-1-7-read")
    assert first.dead == {}
    first.begin("a", 1)
    first.begin("done", 1)
    first.enter("a", "decode")
    first.end("done")
    second = InFlight(place, "round-1-7-read")
    assert {image: note.stage for image, note in second.dead.items()} == {"a": "decode"}
    second.begin("b", 1)
    third = InFlight(place, "round-1-7-read")
    assert third.dead.keys() == {"a", "b"}  # who died first is not forgotten
    assert find_notes([*place.names(), "round-1-read-0a.process"], "round-1") == ["round-1-7-read"]
    assert find_notes(place.names(), "round-11") == []
    third.close()
    assert place.names() == []


def test_who_ends_itself_says_with_which_images_and_why(place: Place) -> None:
    notes = InFlight(place, "w1")
    for image in "abc":
        notes.begin(image, 1)
    notes.give_up(["b"], "RuntimeError: CUDA error")
    assert noted(place, "w1") == {"b": Note("read", 1, cause="RuntimeError: CUDA error")}
    assert take_over(place) == {"b": Note("read", 1)}


def test_notes_without_a_place_stay_in_memory(tmp_path: Path) -> None:
    notes = InFlight(None, "")
    notes.begin("a", 1)
    notes.enter("a", "model")
    assert notes.notes()["a"].stage == "model"
    notes.end("a")
    assert notes.notes() == {}
    assert list(tmp_path.iterdir()) == []


def test_what_dead_commands_left_is_suspect_and_stays_noted(place: Place) -> None:
    write_suspects(place, {"again.png": Note("model", 2), "old.png": Note("read", 2)})
    for process, image, attempt in (("w1", "a.png", 1), ("w2", "again.png", 2)):
        InFlight(place, process).begin(image, attempt)
    expected = {"again.png": Note("read", 2), "old.png": Note("read", 2), "a.png": Note("read", 1)}
    assert take_over(place) == expected
    assert place.names() == [SUSPECTS]
    assert take_over(place) == expected  # killed before anything was tried: nothing is counted twice
    write_suspects(place, {})
    assert take_over(place) == {}


def test_a_job_that_died_is_an_attempt_of_the_image_that_was_alone_in_work_and_of_no_other(
    place: Place,
) -> None:
    InFlight(place, "w1").begin("alone.png", 3, alone=True)
    assert take_over(place) == {"alone.png": Note("read", 4)}
    two = InFlight(place, "w2")
    two.begin("a.png", 1)
    two.begin("b.png", 1)
    two.enter("b.png", "model")
    expected = {"alone.png": Note("read", 4), "a.png": Note("read", 1), "b.png": Note("model", 1)}
    assert take_over(place) == expected


def test_notes_that_a_crash_emptied_name_nobody(place: Place) -> None:
    place.write("w1.json", b"")
    place.write("w2.json", json.dumps({"images": {"a": {"stage": "read", "attempt": 1}}}).encode())
    assert take_over(place) == {"a": Note("read", 1)}  # also a note as it was before it had a checksum


NOT_NOTES = [
    b'{"host": "node-3", "pid": 77, "images": {"a.png": {"sta',
    b"\0" * 300,
    b"   ",
    b"\xff\xfe not UTF-8",
    b"[" * 100_000,
    b"[]",
    b"7",
    b"{}",
    b'{"images": []}',
    b'{"images": {"a": 1}}',
    b'{"images": {"a": {"stage": "read"}}}',
    b'{"images": {"a": {"stage": 1, "attempt": 1}}}',
    *(
        b'{"images": {"a": {"stage": "read", "attempt": %s}}}' % bad
        for bad in (b'"1"', b"true", b"1e0", b"0")
    ),
    b'{"images": {"a": {"stage": "read", "attempt": 1000000000000}}}',
    b'{"images": {"\\ud800": {"stage": "read", "attempt": 1}}}',
    b'{"images": {"a": {"stage": "read", "attempt": 1}}, "crc32": 1}',
]


@pytest.mark.parametrize("content", NOT_NOTES, ids=range(len(NOT_NOTES)))
@pytest.mark.parametrize("name", ["w1.json", SUSPECTS])
def test_a_damaged_note_names_nobody_is_told_of_and_gone(place: Place, name: str, content: bytes) -> None:
    InFlight(place, "w2").begin("good.png", 1)
    place.write(name, content)
    with pytest.warns(DataWarning, match=rf"inflight/{name} is damaged \(.*\) and left out"):
        assert take_over(place) == {"good.png": Note("read", 1)}
    assert take_over(place) == {"good.png": Note("read", 1)}  # and without a warning
    write_suspects(place, {})
    assert place.names() == []


@given(content=st.binary(max_size=200))
def test_whatever_a_note_holds_the_next_command_goes_on(content: bytes) -> None:
    place = in_memory()
    place.write("w1.json", content)
    place.write(SUSPECTS, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        take_over(place)
    assert place.names() in ([], [SUSPECTS])


def in_memory() -> Place:
    """A folder that takes no time."""
    filesystem = _MockFileSystem()
    filesystem.create_dir("inflight")
    return Place("inflight", filesystem, "inflight")


@pytest.mark.parametrize("name", ["w1.json", SUSPECTS])
def test_every_single_bit_that_flips_in_a_note_is_noticed_or_without_effect(name: str) -> None:
    place = in_memory()
    if name == SUSPECTS:
        write_suspects(place, {"s/1.png": Note("model", 2), "µ.tif#7": Note("read", 1)})
    else:
        notes = InFlight(place, "w1")
        notes.begin("s/1.png", 1, alone=True)
        notes.begin("µ.tif#7", 1)
    whole = place.read(name)
    assert whole is not None
    expected, noticed = take_over(place), 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        place.remove(SUSPECTS)
        place.write(name, bytes(damaged))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = take_over(place)
        assert found == ({} if caught else expected), bytes(damaged)
        noticed += bool(caught)
    assert noticed > 4 * len(whole)


def test_of_an_old_and_a_new_note_a_crash_may_keep_a_half_each_and_neither_is_misread() -> None:
    place = in_memory()
    notes, chance = InFlight(place, "w1"), random.Random(0)
    contents = []
    for attempt, stage in enumerate(("decode", "model", "write"), start=1):
        notes.begin("a.png", attempt, alone=stage == "model")
        notes.begin("b.png", 1, alone=stage == "write")
        contents.append(place.read("w1.json") or b"")
    size, misread = max(map(len, contents)), 0
    for _ in range(300):
        old, new = chance.sample([content.ljust(size) for content in contents], 2)
        cut = chance.randrange(size)
        place.write("w1.json", old[:cut] + new[cut:])
        try:
            found = read_notes(place, "w1")
        except ValueError:
            misread += 1
        else:
            place.write("w1.json", old)
            allowed = [read_notes(place, "w1")]
            place.write("w1.json", new)
            assert found in [*allowed, read_notes(place, "w1")]
    assert misread > 100


def test_in_a_new_folder_there_is_nothing(place: Place) -> None:
    assert take_over(place) == {}
    assert read_notes(place, "nobody") == {}
    assert not place.local().exists()
