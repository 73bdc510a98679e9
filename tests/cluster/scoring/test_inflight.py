import json
from pathlib import Path

import pytest

from cluster.scoring.inflight import SUSPECTS, InFlight, Note, read_notes, take_over, write_suspects
from seg.storage import Place, as_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return as_place(tmp_path / "inflight")


def test_notes_name_each_image_and_its_stage_before_it_is_touched(place: Place) -> None:
    notes = InFlight(place, "w1")
    notes.begin("s/a.png", 1)
    assert read_notes(place, "w1") == {"s/a.png": Note("read", 1)}
    notes.begin("b.png", 2)
    notes.enter("s/a.png", "decode")
    assert read_notes(place, "w1") == {"s/a.png": Note("decode", 1), "b.png": Note("read", 2)}
    assert {image: note.stage for image, note in notes.notes().items()} == {
        "s/a.png": "decode",
        "b.png": "read",
    }
    notes.end("s/a.png")
    assert read_notes(place, "w1") == {"b.png": Note("read", 2)}
    notes.end("b.png")
    assert read_notes(place, "w1") == {}


def test_a_step_that_is_done_lets_the_time_count_afresh(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("cluster.scoring.inflight.time.monotonic", lambda: now[0])
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
    monkeypatch.setattr("cluster.scoring.inflight.time.monotonic", lambda: now[0])
    notes = InFlight(place, "w1")
    notes.begin("a", 1)
    now[0] += 3
    notes.wait("a")
    now[0] += 50
    assert notes.notes()["a"].seconds == 3
    notes.enter("a", "model")
    now[0] += 4
    assert notes.notes()["a"] == Note("model", 1, 7.0)


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
    expected = {"again.png": Note("read", 3), "old.png": Note("read", 2), "a.png": Note("read", 2)}
    assert take_over(place) == expected
    assert place.names() == [SUSPECTS]
    assert take_over(place) == expected  # killed before anything was tried: nothing is counted twice
    write_suspects(place, {})
    assert take_over(place) == {}


def test_notes_that_a_crash_emptied_name_nobody(place: Place) -> None:
    place.write("w1.json", b"")
    place.write("w2.json", json.dumps({"images": {"a": {"stage": "read", "attempt": 1}}}).encode())
    assert take_over(place) == {"a": Note("read", 2)}


def test_in_a_new_folder_there_is_nothing(place: Place) -> None:
    assert take_over(place) == {}
    assert read_notes(place, "nobody") == {}
    assert not place.local().exists()
