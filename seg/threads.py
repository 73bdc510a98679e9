"""Threads: of pools that work ahead of who consumes, and those among which torch divides a computation."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

SPINS = 10_000
"""How often a thread of torch's asks whether the others are done before it sleeps.

GNU OpenMP's own 300,000 take milliseconds; where others use the cores too, the thread that is waited for
does not get one meanwhile: a small training's epoch took 2.3 to 4.7 s beside two busy processes, up to 63 s
beside more, and so 1.0 to 1.7 s. On idle cores a step of crops of 64 px takes up to a tenth longer, one of
256 px the same (bench/sharing.py).
"""


def spin_briefly() -> None:
    """Have it so in this process, where torch is not loaded yet, and in all that it starts.

    What the user has set of it stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Results of `function` in the items' order, while the pool is at most `ahead` items in front.

    Unlike Executor.map it submits nothing early, so that a million images hold the memory of `ahead`.
    Whatever `function` raises comes out at its item's turn. ahead: 1 or more; ValueError: it is not.
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}, below 1: nothing would ever be submitted")
    source = iter(items)
    pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
    while pending:
        result = pending.popleft().result()
        for item in islice(source, 1):
            pending.append(pool.submit(function, item))
        yield result
