"""Which images are scored or set aside, in parts that are whole or absent (docs/reference/scores.md)."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from seg.errors import DamagedFile
from seg.files import permit, persistently
from seg.ledger import outcome
from seg.ledger.outcome import FoundObject, Outcome, Quarantined, Scored
from seg.ledger.parts import PartName, Parts, encode_part, new_stem, next_revision
from seg.storage import Place, as_place

PART_ROWS, PART_S = 256, 5.0
"""A part closes after so many rows or seconds: what a kill -9 costs at most."""


class ImageSize(NamedTuple):
    """An image of the ledger."""

    image: str
    height: int
    width: int


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
        may_write: Callable[[], object] = permit,
        *,
        leave_out_damaged: bool = False,
    ) -> None:
        """Folders are made when the first part is written.

        may_write: called before each file is written or removed, and once more before one that is written
        appears; it raises where the folder is another job's by now.
        leave_out_damaged: for who looks at what a scoring would do: as if `recover` had set them aside.
        """
        self.place = as_place(place)
        self.committed = 0
        """Images that this object has put into the ledger."""
        self._may_write = may_write
        self._ledger, self._quarantine, self._objects = (
            Parts(self.place, name, schema, leave_out_damaged=leave_out_damaged)
            for name, schema in (
                ("ledger", outcome.LEDGER_SCHEMA),
                ("quarantine", outcome.QUARANTINE_SCHEMA),
                ("objects", outcome.OBJECTS_SCHEMA),
            )
        )
        self._open: list[Outcome] = []
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

    def stems(self) -> set[str]:
        """Names of the ledger's parts, by which new ones are told."""
        return self._ledger.stems()

    def quarantine_stems(self) -> set[str]:
        """The same of the quarantine."""
        return self._quarantine.stems()

    def rows(
        self, columns: list[str] | None = None, *, stems: Collection[str] | None = None
    ) -> Iterator[pa.Table]:
        """Ledger rows, a part at a time, so that a million of them hold the memory of 256.

        stems: of these parts; None: of all, here as below.
        """
        return (table for _, table in self._ledger.tables(columns, stems=stems))

    def quarantine_rows(
        self, columns: list[str] | None = None, *, stems: Collection[str] | None = None
    ) -> Iterator[pa.Table]:
        """Quarantine rows, a part at a time."""
        return (table for _, table in self._quarantine.tables(columns, stems=stems))

    def objects(
        self, columns: list[str] | None = None, *, stems: Collection[str] | None = None
    ) -> Iterator[pa.Table]:
        """Objects of the images in the ledger, a part at a time; those of an image stand together."""
        chosen = self._ledger.stems() if stems is None else stems
        return (table for _, table in self._objects.tables(columns, stems=chosen))

    def with_objects(self) -> Iterator[tuple[ImageSize, list[FoundObject]]]:
        """Each image with its objects; a part at a time is in memory."""
        tables = self._objects.tables(stems=self._ledger.stems())
        objects = next(tables, None)
        for part, images in self._ledger.tables(list(ImageSize._fields)):
            found: dict[str, list[FoundObject]] = {}
            if objects is not None and objects[0].stem == part.stem:  # both are in order of time
                for row in objects[1].to_pylist():
                    found.setdefault(row["image"], []).append(FoundObject(**row))
                objects = next(tables, None)
            for row in images.to_pylist():
                yield ImageSize(**row), found.get(row["image"], [])

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Gather rows, also none; commits as `commit_due` does."""
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
        scored = [row for row in self._open if isinstance(row, Scored)]
        tables: tuple[tuple[Parts, Sequence[Outcome | FoundObject]], ...] = (
            (self._objects, [found for row in scored for found in row.objects]),
            (self._quarantine, [row for row in self._open if isinstance(row, Quarantined)]),
            (self._ledger, scored),
        )
        files = [(parts, encode_part(outcome.to_table(rows, parts.schema))) for parts, rows in tables if rows]
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
        self._forget(self._ledger, pa.array(list(images), pa.string()), along=self._objects)

    def forget_quarantined(self, images: Iterable[str] | None = None) -> None:
        """Take images out of the quarantine, so that they are scored again; None: all of them.

        As in `forget`, a part without them is its next revision, and the one before goes once that is there.
        """
        newest = self._quarantine.names()
        self._quarantine.remove_all_but(newest)  # else what is removed uncovers the one before
        self._forget(self._quarantine, None if images is None else pa.array(list(images), pa.string()))

    def _forget(self, parts: Parts, forgotten: pa.Array | None, along: Parts | None = None) -> None:
        """Write parts anew without some images, or all (None); along: their objects, by the same stems."""
        objects = {part.stem: part for part in along.names()} if along else {}
        for part, keys in parts.tables(["image"]):
            left = 0 if forgotten is None else _without(keys, forgotten).num_rows
            if left == keys.num_rows:
                continue
            changed = [(parts, part)]
            if along is not None and part.stem in objects:
                changed.append((along, objects[part.stem]))
            for kind, one in reversed(changed) if left else ():
                self._rewrite(kind, one, forgotten)
            for kind, one in changed:
                self._persistently(partial(kind.remove, one))

    def _rewrite(self, parts: Parts, part: PartName, forgotten: pa.Array | None) -> None:
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
        """`may_write` is asked twice: a process that is frozen while it writes may lose the folder."""
        self._persistently(partial(parts.write, stem, content, may_write=self._may_write))

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


def _without(rows: pa.Table, images: pa.Array) -> pa.Table:
    return rows.filter(pc.call_function("invert", [_is_in(rows["image"], images)]))


def _is_in(names: pa.Array | pa.ChunkedArray, wanted: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
    return pc.call_function("is_in", [names], pc.SetLookupOptions(wanted))
