"""What a look at all labels shows before any is used: their ids, and those that fit no image."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from functools import partial
from heapq import nlargest, nsmallest
from pathlib import Path, PurePosixPath
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from seg.ahead import map_ahead
from seg.data.formats.bmp import PILLOW_ERRORS
from seg.data.labels import IGNORE, LabelMap, decode_ids
from seg.data.listing import ending_of, list_files, refuse_unlisted
from seg.errors import LabelMismatch, RequestError
from seg.progress import progress
from seg.storage import Place

SAMPLE = 64
"""Labels that are looked at where there are more."""
THREADS = 4
"""Look at the same time: a mask of 3072 x 3072 pixels takes 9 MB and, decoding, as much again."""

Item = TypeVar("Item")
NAMED = 3
"""File names that a message gives before it only counts."""
COMPARED = 2000
"""Names at most that are compared with what an image wants: 0.1 s."""
LABEL_FILE = r"(?i)(?:^|/)[^./][^/]*\.(?:png|txt|json)$"
HIDDEN, CLASSES = r"(?:^|/)\.", r"(?:^|/)classes\.txt$"


def draw_sample(items: Sequence[Item], count: int = SAMPLE) -> list[Item]:
    """So many of the items in their order, drawn by a fixed seed: each time the same; all where fewer."""
    if len(items) <= count:
        return list(items)
    places = np.random.default_rng(0).choice(len(items), count, replace=False)
    return [items[place] for place in np.sort(places).tolist()]


def holds_mask(name: str) -> bool:
    """Whether a label of this name is a mask of stored ids, not a file of boxes."""
    return Path(name).suffix.lower() not in (".txt", ".json")


def refuse_all_ignored(
    where: str, masks: Sequence[str], read: Callable[[str], bytes], label_map: LabelMap
) -> None:
    """Refuse masks that hold nothing but 0 and 255 where 255 stays ignored: no object would be in them.

    masks: all of a data set, of which a sample is looked at until one holds another id; read: gives the bytes
    of one of them. RequestError names `where` and the option that mends it. A mask that cannot be read says
    nothing here: whoever uses it names it.
    """
    if any(stored == IGNORE for stored, _ in label_map):
        return
    chosen, seen = draw_sample(masks), set[int]()
    with ThreadPoolExecutor(THREADS) as pool, progress("looking at masks", len(chosen)) as advance:
        for ids in map_ahead(pool, partial(_stored_ids, read), chosen, 2 * THREADS):
            seen |= ids
            if seen - {0, IGNORE}:
                return
            advance()
    if IGNORE in seen:
        raise _all_ignored(where, len(chosen), len(masks), label_map)


def _stored_ids(read: Callable[[str], bytes], mask: str) -> frozenset[int]:
    """The ids that a mask stores; none of one that cannot be read."""
    try:
        data = read(mask)
        with Image.open(io.BytesIO(data)) as opened:
            size = opened.height, opened.width
        ids = decode_ids(data, Path(mask), size)
    except (LabelMismatch, *PILLOW_ERRORS):
        return frozenset()
    counts = cv2.calcHist([ids], [0], None, [256], [0, 256])  # bincount copies to 8 bytes a pixel first
    return frozenset(np.flatnonzero(counts).tolist())


def _all_ignored(where: str, looked_at: int, there: int, label_map: LabelMap) -> RequestError:
    kept = "".join(f"{stored} {meant} " for stored, meant in label_map)
    of = f"the {there}" if looked_at == there else f"the {looked_at} drawn of {there}"
    return RequestError(
        f"{where}: {of} masks hold no id but 0 and 255, and 255 is ignored, so that no object is in any; "
        f"give `label_map={kept}255 1` where 255 marks the objects, or `label_map={kept}255 255` where it is "
        "to be ignored"
    )


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
