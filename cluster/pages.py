"""Pages that jobs write, report.html and search.html: their templates, and where they are put."""

import errno
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seg.errors import RequestError
from seg.files import write_bytes
from seg.screen import visible
from seg.storage import Place

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)


def open_templates() -> Environment:
    """The templates of this package; a name that one lacks is an error.

    Every text put into one is escaped, and its control characters are shown: a page, too, could else be made
    to say something other than it does, by turning the direction of its writing.
    """
    return Environment(
        loader=PackageLoader("cluster", "."),
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
            "jobs/report.py takes --out FILE"
        ) from None
    return f"{place.uri}/{name}" if out is None else str(out)
