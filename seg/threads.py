"""Pools of threads that work ahead of who consumes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
