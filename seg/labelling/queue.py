"""A list of images to label, in the order of a CSV file such as scoring's review.csv."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from seg.errors import RequestError


def read_queue(file: Path, images: Sequence[str]) -> list[str]:
    """The images that column `image` of a CSV file names, each once, in its order.

    images: those there are. RequestError: the file cannot be read, has no such column or no row, or names an
    image that is not there.
    """
    named = _read_column(file)
    if not named:
        raise RequestError(f"--queue {file} names no image; there is nothing to label")
    known = set(images)
    missing = {image: line for image, line in named.items() if image not in known}
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(
            f"--queue {file}, line {min(missing.values())}{others}: the folder has no such image; "
            "give the folder that was scored"
        )
    return list(named)


def _read_column(file: Path) -> dict[str, int]:
    """Each image and the line, or the last of the lines, where it is named first; their order."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if "image" not in (rows.fieldnames or ()):
                raise RequestError(
                    f"--queue {file} has no column named image; give the review.csv of a scoring"
                )
            named: dict[str, int] = {}
            for row in rows:
                if row["image"]:
                    named.setdefault(row["image"], rows.line_num)
            return named
    except (OSError, ValueError, csv.Error) as error:
        cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is no CSV in UTF-8"
        raise RequestError(
            f"--queue {file} cannot be read ({cause}); give the review.csv of a scoring"
        ) from None
