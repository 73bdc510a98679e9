"""Where round numbers stand on an axis of a page's plot."""

import math
from collections.abc import Sequence

TICKS = 4
"""About so many steps along an axis."""
Tick = tuple[float, str]
"""Where a label stands, from 0 to 1, and what it says."""


def nice_ticks(values: Sequence[float]) -> list[float]:
    """Round numbers at even steps of 1, 2 or 5 times a power of ten, the first and last around all values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    rough = max(high - low, 1e-6 + abs(high) / 1e3) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def share(value: float, ends: Sequence[float]) -> float:
    """Where a value lies between the first and the last of some, from 0 to 1; 0.5 where these meet."""
    low, high = ends[0], ends[-1]
    return 0.5 if high == low else (value - low) / (high - low)
