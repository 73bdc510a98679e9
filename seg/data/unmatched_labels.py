"""Label files that are no image's label: how many, and which names came nearest."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from heapq import nlargest, nsmallest
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from seg.data.listing import ending_of, list_files, refuse_unlisted
from seg.storage import Place

NAMED = 3
"""File names that a message gives before it only counts."""
COMPARED = 2000
"""Names at most that are compared with what an image wants: 0.1 s."""
LABEL_FILE = r"(?i)(?:^|/)[^./][^/]*\.(?:png|txt|json)$"
HIDDEN, CLASSES = r"(?:^|/)\.", r"(?:^|/)classes\.txt$"


def count_label_files(files: pa.ChunkedArray) -> int:
    """How many of these names end as labels do; hidden ones and classes.txt are none."""
    return _matching(files, LABEL_FILE).length() - _matching(files, CLASSES).length()


def describe_unmatched(
    place: Place, images: Sequence[str], labels: Mapping[str, str], wanted: Callable[[str], Sequence[str]]
) -> str:
    """What the first image without a label would want, and what is there instead, the nearest names first.

    labels: each labelled image's, relative to `place`; wanted: the names that an image's label may have.
    Empty: no file of the folder is without an image.
    """
    with refuse_unlisted(place):
        files = list_files(place, [])[0]
    used = pc.SetLookupOptions(pa.array(labels.values(), pa.string()))
    unused = files.filter(pc.call_function("invert", [pc.call_function("is_in", [files], used)]))
    for others in (HIDDEN, CLASSES):
        unused = unused.filter(pc.call_function("invert", [_matches(unused, others)]))
    if not unused.length():
        return ""
    endings = Counter(ending_of(name) or "without an ending" for name in unused.to_pylist())
    counts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(NAMED))
    image = next((image for image in images if image not in labels), None)
    if image is None:
        return f"unused: {_name(nsmallest(NAMED, unused.to_pylist()), unused.length())} ({counts})"
    *forms, last = dict.fromkeys(wanted(image))
    near = _name(_find_nearest(unused, forms[0]), unused.length())
    return f"{image} would want {', '.join(forms)} or {last}; unused: {near} ({counts})"


def _find_nearest(names: pa.ChunkedArray, wanted: str) -> list[str]:
    """The names most like the wanted one, best first; those that hold its stem before all others."""
    stem = PurePosixPath(wanted).name.partition(".")[0]
    holding = names.filter(pc.call_function("match_substring", [names], pc.MatchSubstringOptions(stem)))
    compared = {*holding[:COMPARED].to_pylist(), *names[:COMPARED].to_pylist()}

    def likeness(name: str) -> tuple[bool, float]:
        return stem in name, SequenceMatcher(None, name, wanted).ratio()

    return nlargest(NAMED, sorted(compared), likeness)


def _name(names: list[str], total: int) -> str:
    return ", ".join(names) + (", ..." if total > len(names) else "")


def _matching(names: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return names.filter(_matches(names, pattern))


def _matches(names: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.call_function("match_substring_regex", [names], pc.MatchSubstringOptions(pattern))
