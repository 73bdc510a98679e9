import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pytest

from seg.threads import SPINS, map_ahead


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


def spins_of(first: str, **variables: str) -> int:
    """How often threads of torch's OpenMP ask before they sleep, after some code: as it says itself."""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.submodule_search_locations
    library = next((Path(torch.submodule_search_locations[0]) / "lib").glob("libgomp*"))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", f"{first}; import ctypes; ctypes.CDLL({str(library)!r})"],
        env=environment | variables | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert said, done.stderr
    return int(said[1])


JOB = "from jobs.run import run_job; run_job('job', int)"


@pytest.mark.parametrize("first", [JOB, "import fringe"])
def test_threads_of_torch_that_wait_for_another_soon_leave_it_their_core(first: str) -> None:
    assert spins_of("pass") > 10 * SPINS
    assert spins_of(first) == SPINS


@pytest.mark.parametrize("variables", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_how_the_user_has_them_wait_stays(variables: dict[str, str]) -> None:
    assert spins_of(JOB, **variables) == spins_of("pass", **variables) != SPINS
