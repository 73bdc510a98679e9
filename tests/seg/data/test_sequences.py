import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.listing import Sequences, clip_places
from seg.errors import RequestError


@given(st.integers(0, 50), st.integers(1, 9))
def test_a_clip_holds_the_frames_up_to_its_own(place: int, frames: int) -> None:
    clip = clip_places(place, frames)
    assert len(clip) == frames
    assert clip[-1] == place
    assert [k for k in clip if k > 0] == [k for k in range(place - frames + 1, place + 1) if k > 0]
    assert min(clip) == max(0, place - frames + 1)


def test_clips_stay_within_their_sequence() -> None:
    images = ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "t.tif#0", "t.tif#1"]
    sequences = Sequences(images)
    assert sequences.frames("a") == ["a/1.png", "a/2.png", "a/10.png"]
    assert sequences.clip("a/10.png", 2) == ["a/2.png", "a/10.png"]
    assert sequences.clip("b/1.png", 3) == ["b/1.png"] * 3
    assert sequences.sequence("t.tif#1") == "t.tif"


def test_a_pattern_says_what_a_sequence_is() -> None:
    sequences = Sequences(["cam1-1.png", "cam2-1.png", "cam1-2.png"], r"^(cam\d)")
    assert sequences.clip("cam1-2.png", 2) == ["cam1-1.png", "cam1-2.png"]
    with pytest.raises(RequestError, match=r"does not match odd\.png"):
        Sequences(["odd.png"], r"^(cam\d)")
