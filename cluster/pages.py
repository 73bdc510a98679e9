"""Templates of the pages that jobs write: report.html and search.html."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seg.screen import visible


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
