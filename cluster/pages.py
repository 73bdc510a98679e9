"""Templates of the pages that jobs write: report.html and search.html."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def open_templates() -> Environment:
    """The templates of this package; every text put into one is escaped, a name it lacks is an error."""
    return Environment(
        loader=PackageLoader("cluster", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
