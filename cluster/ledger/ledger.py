"""Which images are scored, and which were set aside, in parts that are whole or absent (docs/formats.md)."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.ledger.parts import Parts, new_part_name, next_revision
from cluster.ledger.totals import OBJECT_COUNTS, Totals
from seg.files import persistently
from seg.storage import Place, as_place

PART_ROWS, PART_S = 256, 5.0
"""A part closes after so many rows or seconds: what a kill -9 costs at most."""

COUNTS = pa.list_(pa.int64())
LEDGER_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "bytes": pa.int64(),
        "mtime_ns": pa.int64(),
        "sha256": pa.string(),
        "label_path": pa.string(),
        "label_bytes": pa.int64(),
        "label_mtime_ns": pa.int64(),
        "label_sha256": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "channels": pa.int8(),
        "bit_depth": pa.int8(),
        "labelled": pa.bool_(),
        "confusion": COUNTS,
        "ignored": pa.int64(),
        "class_pixels": COUNTS,
        "confidence": pa.float64(),
        "objects_found": COUNTS,
        "objects_missed": COUNTS,
        "objects_invented": COUNTS,
        "intensity_mean": pa.float64(),
        "intensity_std": pa.float64(),
        "background_frames": pa.int32(),
        "seconds_read": pa.float64(),
        "seconds_decode": pa.float64(),
        "seconds_model": pa.float64(),
        "seconds_write": pa.float64(),
        "attempt": pa.int32(),
        "finished_at": pa.timestamp("us", tz="UTC"),
    }
)
QUARANTINE_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "bytes": pa.int64(),
        "mtime_ns": pa.int64(),
        "label_path": pa.string(),
        "label_bytes": pa.int64(),
        "label_mtime_ns": pa.int64(),
        "attempts": pa.int32(),
    }
)
OBJECTS_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "class_id": pa.int16(),
        "x": pa.int32(),
        "y": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "area": pa.int64(),
        "centroid_x": pa.float64(),
        "centroid_y": pa.float64(),
        "confidence": pa.float64(),
        "touches_border": pa.bool_(),
        "iou": pa.float64(),
    }
)
OUTCOME_SCHEMA = pa.unify_schemas([LEDGER_SCHEMA, QUARANTINE_SCHEMA])
"""What a scorer returns for an image: a ledger row, or, where `reason` is not null, a quarantine row."""


TOTALS_COLUMNS = [
    "height",
    "width",
    "confusion",
    "class_pixels",
    *OBJECT_COUNTS,
    *(n for n in LEDGER_SCHEMA.names if n.startswith("seconds_")),
]


class Ledger:
    """A scores folder's ledger, objects and quarantine: what is done, and where the next part goes.

    An image is in the ledger or in the quarantine, once, or in neither, whenever its job is killed: a part's
    objects come first, its quarantine next, and its ledger file last, which commits its scored images. What
    a kill leaves of a part without that commit: objects, which nothing reads and `recover` removes; and
    quarantine rows, which are complete by themselves.
    """

    def __init__(self, place: Place | Path, may_write: Callable[[], object] = lambda: None) -> None:
        """Folders are made when the first part is written.

        may_write: called before each file; it raises where the folder is another job's by now.
        """
        self.place = as_place(place)
        self.committed = 0
        """Images that this object has put into the ledger."""
        self._may_write = may_write
        self._ledger, self._quarantine, self._objects = (
            Parts(self.place, name) for name in ("ledger", "quarantine", "objects")
        )
        self._open: list[dict[str, Any]] = []
        self._open_name = ""
        self._closed_at = time.monotonic()

    def finished_images(self) -> set[str]:
        """Every image in the ledger, by its path relative to the archive."""
        return set(self._ledger.column("image").to_pylist())

    def quarantined_images(self) -> set[str]:
        """Every image in the quarantine."""
        return set(self._quarantine.column("image").to_pylist())

    def find_finished(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the images are in the ledger, bool [N]; without the memory of a set of all names."""
        return _find(images, self._ledger)

    def find_quarantined(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the images are in the quarantine, bool [N]."""
        return _find(images, self._quarantine)

    def rows(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Ledger rows, a part at a time, so that a million of them hold the memory of 256.

        DataWarning, here and below: a part is damaged and left out.
        """
        return (table for _, table in self._ledger.tables(columns))

    def quarantine_rows(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Quarantine rows, a part at a time."""
        return (table for _, table in self._quarantine.tables(columns))

    def objects(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Objects of the images in the ledger, a part at a time; those of an image stand together."""
        return (table for _, table in self._objects.tables(columns, named=self._ledger.names()))

    def totals(self, num_classes: int) -> Totals:
        """Sums over the whole ledger."""
        totals = Totals.zeros(num_classes)
        for rows in self.rows(TOTALS_COLUMNS):
            totals.add(rows)
        return totals

    def add(self, outcomes: list[dict[str, Any]]) -> None:
        """Gather rows of OUTCOME_SCHEMA, with `objects` where there are any; commits as `commit_due` does."""
        if not self._open:
            self._open_name = new_part_name()
        self._open += outcomes
        self.commit_due()

    def commit_due(self) -> None:
        """Commit the open part if it is full, or PART_S have passed since the last one closed."""
        if len(self._open) >= PART_ROWS or time.monotonic() - self._closed_at >= PART_S:
            self.commit()

    def commit(self) -> None:
        """Write the open part; each file appears whole or not at all.

        Interrupted at any point (Ctrl-C) and called again, it writes the same files: no row is there twice.
        While storage refuses, it waits as `persistently` does.
        """
        if not self._open:
            return
        scored = [row for row in self._open if row["reason"] is None]
        tables = (
            (self._objects, OBJECTS_SCHEMA, [found for row in scored for found in row.get("objects") or ()]),
            (self._quarantine, QUARANTINE_SCHEMA, [row for row in self._open if row["reason"] is not None]),
            (self._ledger, LEDGER_SCHEMA, scored),
        )
        for parts, schema, rows in tables:
            if rows:
                self._write(parts, self._open_name, pa.Table.from_pylist(rows, schema))
        self.committed, self._open = self.committed + len(scored), []
        self._closed_at = time.monotonic()

    def recover(self) -> None:
        """Put in order what a killed job or a damaged disk left, before anything is added.

        What was replaced, objects without their commit and unfinished files are removed. A part that is cut
        short or cannot say whose rows it has is set aside, with a DataWarning, so that its images are scored
        again; the ledger's also where that befell its objects. To be called by who holds the folder's lock.
        """
        self._ledger.remove_all_but(self._ledger.names())
        objects = self._objects.find_damaged([], named=self._ledger.names())
        lost = {name: f"its objects: {reason}" for name, reason in objects.items()}
        for parts, damaged in (
            (self._ledger, lost | self._ledger.find_damaged(["image"])),
            (self._quarantine, self._quarantine.find_damaged(["image"])),
        ):
            for name, reason in damaged.items():
                parts.set_aside(name, reason)
        self._objects.remove_all_but(self._ledger.names())
        self._quarantine.remove_all_but(self._quarantine.names())

    def forget(self, images: Iterable[str]) -> None:
        """Take images, with their objects, out of the ledger, so that they are scored again.

        A part without them is written as its next revision, objects first; from the moment that the ledger's
        file of that name is there, the earlier ones do not count. Killed anywhere, an image is there once or
        not at all, and calling it again does the rest.
        """
        self.recover()
        forgotten = pa.array(list(images), pa.string())
        with_objects = set(self._objects.names())
        for name, keys in self._ledger.tables(["image"]):
            left = _without(keys, forgotten).num_rows
            if left == keys.num_rows:
                continue
            if left:
                folders = (self._objects, self._ledger) if name in with_objects else (self._ledger,)
                self._rewrite(name, folders, forgotten)
            self._remove(self._ledger, name)
            self._remove(self._objects, name)

    def forget_quarantined(self, images: Iterable[str] | None = None) -> None:
        """Take images out of the quarantine, so that they are scored again; None: all of them."""
        forgotten = None if images is None else pa.array(list(images), pa.string())
        for name, rows in self._quarantine.tables():
            left = rows.slice(0, 0) if forgotten is None else _without(rows, forgotten)
            if not left.num_rows:
                self._remove(self._quarantine, name)
            elif left.num_rows < rows.num_rows:
                self._write(self._quarantine, name, left)

    def _rewrite(self, name: str, folders: Sequence[Parts], forgotten: pa.Array) -> None:
        """Write a part's next revision; none where a file of it is damaged: then all of it is forgotten."""
        rows = [parts.read(name) for parts in folders]
        damage = next((found for found in rows if isinstance(found, str)), None)
        if damage is not None:
            self._ledger.set_aside(name, damage)
            return
        for parts, table in zip(folders, rows, strict=True):
            left = _without(table, forgotten)
            if left.num_rows:
                self._write(parts, next_revision(name), left)

    def _write(self, parts: Parts, name: str, rows: pa.Table) -> None:
        self._persistently(partial(parts.write, name, rows))

    def _remove(self, parts: Parts, name: str) -> None:
        self._persistently(partial(parts.remove, name))

    def _persistently(self, change: Callable[[], None]) -> None:
        def change_ours() -> None:
            self._may_write()
            change()

        persistently(change_ours, str(self.place))


def _find(images: Sequence[str], parts: Parts) -> NDArray[np.bool_]:
    return _is_in(pa.array(images, pa.string()), parts.column("image")).to_numpy(zero_copy_only=False)


def _without(rows: pa.Table, images: pa.Array) -> pa.Table:
    return rows.filter(pc.call_function("invert", [_is_in(rows["image"], images)]))


def _is_in(names: pa.Array | pa.ChunkedArray, wanted: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
    return pc.call_function("is_in", [names], pc.SetLookupOptions(wanted))
