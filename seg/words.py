"""Figures and endings in words, the same on screens, in logs and on pages."""

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite

from seg.errors import StoppedBy

ENDINGS: dict[str, str] = {
    StoppedBy.FINISHED: "finished",
    StoppedBy.DEADLINE: "stopped at the deadline; the same command goes on from here",
    StoppedBy.INTERRUPT: "interrupted; the same command goes on from here",
    StoppedBy.ERROR: "stopped by an error; the same command goes on from here",
}
"""How a job ended; up to the semicolon where there is little room."""
BOUND_BY = {"read": "storage", "decode": "decode", "model": "model", "write": "write"}
"""Timed stages of an image, and what is said to limit a scoring in which they do."""
STAGES = {
    "read": "read: bytes from storage",
    "decode": "decode: pixels, label, preprocessing",
    "model": "model: prediction and counting",
    "write": "write: masks",
}
"""What happens in them."""


def time_span(seconds: float) -> str:
    """How long something takes as people say it, in at most two units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def clock(moment: datetime) -> str:
    """A moment of this week or the next, in its own zone: 'Tue 04:12'."""
    return f"{moment:%a %H:%M}"


def time_left(seconds: float | None) -> str:
    """A time left; nothing where it is not known."""
    return "" if seconds is None else f"{time_span(seconds)} left"


def file_size(num_bytes: int) -> str:
    """Bytes on a disk, to a tenth of the largest unit that they fill."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"


def ratio(value: float | None, digits: int = 4, sign: str = "") -> str:
    """A number that may be missing or not finite; sign: "+" where zero and more get one too."""
    return "-" if value is None or not isfinite(value) else f"{value:{sign}.{digits}f}"


def plural(count: int, noun: str, many: str = "") -> str:
    """So many of something; many: the noun's plural, where it is not formed with an s."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


def fringe_version() -> str:
    """What pyproject.toml said when this was installed; of a bare checkout "uninstalled"."""
    try:
        return version("fringe")
    except PackageNotFoundError:
        return "uninstalled"
