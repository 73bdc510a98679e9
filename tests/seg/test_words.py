import pytest

from seg.errors import StoppedBy
from seg.ledger.outcome import STAGES as TIMED
from seg.words import BOUND_BY, ENDINGS, STAGES, file_size, plural, ratio, time_left, time_span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0 s left"),
        (59.4, "59 s left"),
        (90, "2 min left"),
        (3599, "1 h 00 min left"),
        (5 * 3600 + 7 * 60, "5 h 07 min left"),
        (86399, "1 d 0 h left"),
        (50 * 3600, "2 d 2 h left"),
    ],
)
def test_a_time_left_reads_as_people_say_it(seconds: float | None, text: str) -> None:
    assert time_left(seconds) == text


def test_what_is_no_number_is_a_dash() -> None:
    assert [ratio(value) for value in (None, float("nan"), 0.5)] == ["-", "-", "0.5000"]
    assert [ratio(value, sign="+") for value in (float("nan"), 0.5, -0.5)] == ["-", "+0.5000", "-0.5000"]


def test_a_span_is_a_time_left_without_its_last_word() -> None:
    assert [time_span(seconds) for seconds in (3, 7200)] == ["3 s", "2 h 00 min"]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0.0 kB"),
        (999_900, "999.9 kB"),
        (10**6, "1.0 MB"),
        (14_200_000_000, "14.2 GB"),
        (3 * 10**12, "3.0 TB"),
    ],
)
def test_a_size_is_in_the_largest_unit_that_it_fills(num_bytes: int, text: str) -> None:
    assert file_size(num_bytes) == text


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [plural(count, "image") for count in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert [plural(count, "box", "boxes") for count in (1, 2)] == ["1 box", "2 boxes"]


def test_every_end_and_every_timed_stage_has_its_words() -> None:
    assert ENDINGS.keys() == set(StoppedBy)
    assert tuple(STAGES) == tuple(BOUND_BY) == TIMED
