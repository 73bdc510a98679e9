"""Pages that jobs write: their templates, round numbers along their axes, and where they are put."""

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seg.errors import RequestError
from seg.files import write_bytes
from seg.screen import visible
from seg.storage import Place

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)
TICKS = 4
"""About so many steps along an axis."""
Tick = tuple[float, str]
"""Where a label stands, from 0 to 1, and what it says."""


def open_templates() -> Environment:
    """The templates of reports and searches; a name that one lacks is an error.

    Every text put into one is escaped, and its control characters are shown: a page, too, could else be made
    to say something other than it does, by turning the direction of its writing.
    """
    return Environment(
        loader=PackageLoader("seg", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _show(value: Any) -> Any:
    """What a template prints; what is markup already, such as data of a script, stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def put_page(place: Place, name: str, content: bytes, out: Path | None = None) -> str:
    """Write a page about a scores folder into it, or to the file `out`; where it is.

    RequestError: this user may not write there.
    """
    try:
        if out is None:
            place.write(name, content)
        else:
            write_bytes(out, content)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        where, why = out or f"{place}/{name}", os.strerror(error.errno)
        raise RequestError(
            f"{where} cannot be written ({why}); mend the folder's permissions, or put the page elsewhere: "
            "jobs/report.py takes `out=FILE`"
        ) from None
    return f"{place.uri}/{name}" if out is None else str(out)


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
