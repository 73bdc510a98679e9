"""Some of a data set's labels, looked at before hours are spent on all of them."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from seg.ahead import map_ahead
from seg.data.formats.bmp import PILLOW_ERRORS
from seg.data.labels import IGNORE, LabelMap, decode_ids
from seg.errors import LabelMismatch, RequestError
from seg.progress import progress

SAMPLE = 64
"""Labels that are looked at where there are more."""
THREADS = 4
"""Look at the same time: a mask of 3072 x 3072 pixels takes 9 MB and, decoding, as much again."""

Item = TypeVar("Item")


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
        f"give --label-map {kept}255 1 where 255 marks the objects, or --label-map {kept}255 255 where it is "
        "to be ignored"
    )
