from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from seg.threads import map_ahead


@pytest.mark.parametrize("count", [0, 1, 3, 50])
@pytest.mark.parametrize("ahead", [1, 3, 99])
def test_results_come_in_the_items_order(count: int, ahead: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, lambda item: item * item, range(count), ahead)) == [
            item * item for item in range(count)
        ]


def test_no_more_is_taken_than_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(4) as pool:
        results = map_ahead(pool, lambda item: item, items(), 5)
        assert not taken
        for consumed in range(1, 4):
            next(results)
            assert len(taken) == consumed + 5


def test_work_runs_before_it_is_asked_for() -> None:
    second_began = Event()

    def work(item: int) -> int:
        if item == 1:
            second_began.set()
        else:
            assert second_began.wait(60)  # deadlocks, and fails, were they one after the other
        return item

    with ThreadPoolExecutor(2) as pool:
        assert list(map_ahead(pool, work, range(2), 2)) == [0, 1]


def test_an_error_comes_at_its_items_turn() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda item: 6 // (2 - item), range(4), 4)
        assert [next(results), next(results)] == [3, 6]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_nothing_ahead_is_refused() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="ahead is 0"):
        list(map_ahead(pool, str, [1], 0))
