"""Which images are scored, and which were set aside, in parts that are whole or absent (docs/formats.md)."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.errors import DamagedFile
from seg.files import persistently
from seg.ledger.parts import OBJECT_COUNTS, PartName, Parts, Totals, encode_part, new_stem, next_revision
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
        "mask_bytes": pa.int64(),
        "mask_sha256": pa.string(),
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


@dataclass(frozen=True, slots=True)
class _Closing:
    """A part on its way to disk, encoded once: a commit that is called again writes the same files."""

    stem: str
    rows: int
    """Of the open part, from its first on."""
    scored: int
    files: list[tuple[Parts, bytes]]


class Ledger:
    """A scores folder's ledger, objects and quarantine: what is done, and where the next part goes.

    An image is in the ledger or in the quarantine, once, or in neither, whenever its job is killed: a part's
    objects come first, its quarantine next, and its ledger file last, which commits its scored images. What
    a kill leaves of a part without that commit: objects, which nothing reads and `recover` removes; and
    quarantine rows, which are complete by themselves.

    DamagedFile, from whatever reads: a part is not as it was written.
    """

    def __init__(
        self,
        place: Place | Path,
        may_write: Callable[[], object] = lambda: None,
        *,
        leave_out_damaged: bool = False,
    ) -> None:
        """Folders are made when the first part is written.

        may_write: called before each file; it raises where the folder is another job's by now.
        leave_out_damaged: for who looks at what a scoring would do: as if `recover` had set them aside.
        """
        self.place = as_place(place)
        self.committed = 0
        """Images that this object has put into the ledger."""
        self._may_write = may_write
        self._ledger, self._quarantine, self._objects = (
            Parts(self.place, name, schema, leave_out_damaged=leave_out_damaged)
            for name, schema in (
                ("ledger", LEDGER_SCHEMA),
                ("quarantine", QUARANTINE_SCHEMA),
                ("objects", OBJECTS_SCHEMA),
            )
        )
        self._open: list[dict[str, Any]] = []
        self._closing: _Closing | None = None
        self._closed_at = time.monotonic()

    def check(self) -> None:
        """Read every part whole, before anything of them is believed. DamagedFile: also an image in two.

        DataWarning, each time: a damaged part is left out, where that was asked for.
        """
        ledger = {part.stem: part for part in self._ledger.names()}
        for part, reason in self._objects.find_damaged(stems=ledger).items():
            self._objects.give_up(part, reason)
            self._ledger.give_up(ledger[part.stem], f"its objects: {reason}")
        self._refuse_twice()
        for parts in (self._ledger, self._quarantine):
            parts.warn_of_left_out()

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
        """Ledger rows, a part at a time, so that a million of them hold the memory of 256."""
        return (table for _, table in self._ledger.tables(columns))

    def quarantine_rows(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Quarantine rows, a part at a time."""
        return (table for _, table in self._quarantine.tables(columns))

    def objects(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Objects of the images in the ledger, a part at a time; those of an image stand together."""
        return (table for _, table in self._objects.tables(columns, stems=self._ledger.stems()))

    def with_objects(self, columns: list[str]) -> Iterator[tuple[list[dict[str, Any]], pa.Table | None]]:
        """Image, height and width of a part's images, and the objects of them all, a part at a time.

        columns: of the objects; [] for none of them. None: there are none.
        """
        stems = self._ledger.stems() if columns else ()
        tables = self._objects.tables(columns, stems=stems)
        objects = next(tables, None)
        for part, images in self._ledger.tables(["image", "height", "width"]):
            found = None
            if objects is not None and objects[0].stem == part.stem:  # both are in order of time
                found, objects = objects[1], next(tables, None)
            yield images.to_pylist(), found

    def totals(self, num_classes: int) -> Totals:
        """Sums over the whole ledger."""
        totals = Totals.zeros(num_classes)
        for rows in self.rows(TOTALS_COLUMNS):
            totals.add(rows)
        return totals

    def add(self, outcomes: list[dict[str, Any]]) -> None:
        """Gather rows of OUTCOME_SCHEMA, with `objects` where there are any; commits as `commit_due` does."""
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
        part = self._closing = self._closing or self._close()
        for parts, content in part.files:
            self._write(parts, part.stem, content)
        self.committed, self._open, self._closing = (
            self.committed + part.scored,
            self._open[part.rows :],
            None,
        )
        self._closed_at = time.monotonic()

    def _close(self) -> _Closing:
        scored = [row for row in self._open if row["reason"] is None]
        tables = (
            (self._objects, OBJECTS_SCHEMA, [found for row in scored for found in row.get("objects") or ()]),
            (self._quarantine, QUARANTINE_SCHEMA, [row for row in self._open if row["reason"] is not None]),
            (self._ledger, LEDGER_SCHEMA, scored),
        )
        files = [
            (parts, encode_part(pa.Table.from_pylist(rows, schema))) for parts, schema, rows in tables if rows
        ]
        return _Closing(new_stem(), len(self._open), len(scored), files)

    def recover(self) -> None:
        """Put in order what a killed job or a damaged disk left, before anything is believed or added.

        What was replaced, objects without their commit and unfinished files are removed. A part that is not
        as it was written is set aside, with a DataWarning, so that its images are scored again; the ledger's
        also where that befell its objects. DamagedFile: an image is in two parts. To be called by who holds
        the folder's lock.
        """
        self._ledger.remove_all_but(self._ledger.names())
        self._quarantine.remove_all_but(self._quarantine.names())
        objects = self._objects.find_damaged(stems=self._ledger.stems())
        reasons = {part.stem: f"its objects: {reason}" for part, reason in objects.items()}
        lost = {part: reasons[part.stem] for part in self._ledger.names() if part.stem in reasons}
        for parts, damaged in (
            (self._ledger, lost | self._ledger.find_damaged()),
            (self._quarantine, self._quarantine.find_damaged()),
        ):
            for part, reason in damaged.items():
                parts.set_aside(part, reason)
        self._objects.remove_all_but(self._objects.of(self._ledger.stems()))
        self._refuse_twice()

    def forget(self, images: Iterable[str]) -> None:
        """Take images, with their objects, out of the ledger, so that they are scored again.

        A part without them is written as its next revision, objects first; from the moment that the ledger's
        file of that stem is there, the earlier ones do not count. Killed anywhere, an image is there once or
        not at all, and calling it again does the rest.
        """
        self.recover()
        forgotten = pa.array(list(images), pa.string())
        objects = {part.stem: part for part in self._objects.names()}
        for part, keys in self._ledger.tables(["image"]):
            left = _without(keys, forgotten).num_rows
            if left == keys.num_rows:
                continue
            its_objects = objects.get(part.stem)
            if left and its_objects is not None:
                self._rewrite(self._objects, its_objects, forgotten)
            if left:
                self._rewrite(self._ledger, part, forgotten)
            self._remove(self._ledger, part)
            if its_objects is not None:
                self._remove(self._objects, its_objects)

    def forget_quarantined(self, images: Iterable[str] | None = None) -> None:
        """Take images out of the quarantine, so that they are scored again; None: all of them.

        As in `forget`, a part without them is its next revision, and the one before goes once that is there.
        """
        self._quarantine.remove_all_but(
            self._quarantine.names()
        )  # else what is removed uncovers the one before
        forgotten = None if images is None else pa.array(list(images), pa.string())
        for part, keys in self._quarantine.tables(["image"]):
            left = 0 if forgotten is None else _without(keys, forgotten).num_rows
            if left == keys.num_rows:
                continue
            if left:
                self._rewrite(self._quarantine, part, forgotten)
            self._remove(self._quarantine, part)

    def _rewrite(self, parts: Parts, part: PartName, forgotten: pa.Array) -> None:
        """Write a part's next revision, without some images; none where no row is left."""
        (_, rows) = next(parts.tables(stems={part.stem}))
        left = _without(rows, forgotten)
        if left.num_rows:
            self._write(parts, next_revision(part.stem), encode_part(left))

    def _refuse_twice(self) -> None:
        """DamagedFile: an image is in two parts, or twice in one; names it and them."""
        tables = [
            (parts, part, rows["image"])
            for parts in (self._ledger, self._quarantine)
            for part, rows in parts.tables(["image"])
        ]
        chunks = [chunk for _, _, names in tables for chunk in names.chunks]
        names = pa.chunked_array(chunks, pa.string())
        if pc.call_function("count_distinct", [names]).as_py() == len(names):
            return
        counts = pc.call_function("value_counts", [names])
        image = next(pair["values"] for pair in counts if pair["counts"].as_py() > 1)
        where = [
            parts.where(part)
            for parts, part, names in tables
            for _ in range(pc.call_function("sum", [pc.call_function("equal", [names, image])]).as_py() or 0)
        ]
        raise DamagedFile(
            f"image {image} is there twice, in {where[0]} and in {where[1]}, and would count twice; remove "
            "one of the two, and the command that scored this folder scores its other images again"
        )

    def _write(self, parts: Parts, stem: str, content: bytes) -> None:
        self._persistently(partial(parts.write, stem, content))

    def _remove(self, parts: Parts, part: PartName) -> None:
        self._persistently(partial(parts.remove, part))

    def _persistently(self, change: Callable[[], None]) -> None:
        def change_ours() -> None:
            self._may_write()
            change()

        persistently(change_ours, str(self.place))


def read_ledger(place: Place) -> Ledger:
    """The ledger of a scores folder for who tells of it, every part checked; errors as of `Ledger.check`."""
    ledger = Ledger(place)
    ledger.check()
    return ledger


def _find(images: Sequence[str], parts: Parts) -> NDArray[np.bool_]:
    return _is_in(pa.array(images, pa.string()), parts.column("image")).to_numpy(zero_copy_only=False)


def _without(rows: pa.Table, images: pa.Array) -> pa.Table:
    return rows.filter(pc.call_function("invert", [_is_in(rows["image"], images)]))


def _is_in(names: pa.Array | pa.ChunkedArray, wanted: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
    return pc.call_function("is_in", [names], pc.SetLookupOptions(wanted))
