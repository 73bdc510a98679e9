import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.listing import Sequences, fill_window, window_places
from seg.errors import RequestError


@given(st.integers(0, 50), st.integers(1, 9))
def test_a_window_holds_the_frames_up_to_its_own(place: int, frames: int) -> None:
    window = window_places(place, frames)
    assert len(window) == frames
    assert window[-1] == place
    assert [k for k in window if k > 0] == [k for k in range(place - frames + 1, place + 1) if k > 0]
    assert min(window) == max(0, place - frames + 1)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_a_missing_frame_is_the_nearest_later_one(there: list[bool]) -> None:
    there[-1] = True
    filled = fill_window([place if present else None for place, present in enumerate(there)])
    expected = [min(k for k in range(place, len(there)) if there[k]) for place in range(len(there))]
    assert filled == expected


def test_windows_stay_within_their_sequence() -> None:
    images = ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "t.tif#0", "t.tif#1"]
    sequences = Sequences(images)
    assert sequences.frames("a") == ["a/1.png", "a/2.png", "a/10.png"]
    assert sequences.window("a/10.png", 2) == ["a/2.png", "a/10.png"]
    assert sequences.window("b/1.png", 3) == ["b/1.png"] * 3
    assert sequences.sequence("t.tif#1") == "t.tif"


def test_a_pattern_says_what_a_sequence_is() -> None:
    sequences = Sequences(["cam1-1.png", "cam2-1.png", "cam1-2.png"], r"^(cam\d)")
    assert sequences.window("cam1-2.png", 2) == ["cam1-1.png", "cam1-2.png"]
    with pytest.raises(RequestError, match=r"does not match odd\.png"):
        Sequences(["odd.png"], r"^(cam\d)")
