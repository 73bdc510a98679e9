"""Parquet files of one kind in a folder, each whole or absent; a later revision replaces an earlier."""

import errno
import hashlib
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seg.errors import DamagedFile, DataWarning
from seg.files import TEMPORARY, permit
from seg.storage import Place
from seg.threads import map_ahead

OBJECT_COUNTS = ("objects_found", "objects_missed", "objects_invented")
LISTS = ("confusion", "class_pixels", *OBJECT_COUNTS)
NEW_COLUMNS = frozenset({"mask_bytes", "mask_sha256"})
"""Which a part without a hash lacks: it is older than they are."""
READERS = 8
"""Parts read at once from an object store, where waiting is what takes long."""

DAMAGED = ".damaged"
"""Ending of a hidden file that was a part."""

_NAME = re.compile(r"([^.].*?)(?:-r(\d+))?(?:-([0-9a-f]{64}))?\.parquet")


@dataclass(slots=True)
class Totals:
    """Sums over ledger rows: integers, so that order and parts do not matter, and seconds."""

    confusion: NDArray[np.int64]
    """[C, C]"""
    class_pixels: NDArray[np.int64]
    """[C], predicted as each class, labelled or not."""
    objects_found: NDArray[np.int64]
    """[C], as the two below; over the images that are labelled."""
    objects_missed: NDArray[np.int64]
    objects_invented: NDArray[np.int64]
    images: int = 0
    labelled: int = 0
    pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def zeros(cls, num_classes: int) -> "Totals":
        """The sums over no rows."""
        pixels, found, missed, invented = np.zeros((4, num_classes), np.int64)
        return cls(np.zeros((num_classes, num_classes), np.int64), pixels, found, missed, invented)

    def add(self, rows: pa.Table) -> None:
        """Add a table of ledger rows."""
        self.images += rows.num_rows
        self.pixels += int((_integers(rows["height"]) * _integers(rows["width"])).sum())
        self.labelled += rows.num_rows - rows["confusion"].null_count
        for name in ("confusion", "class_pixels", *OBJECT_COUNTS):
            total: NDArray[np.int64] = getattr(self, name)
            total += _integers(rows[name].combine_chunks().flatten()).reshape(-1, *total.shape).sum(0)
        for name in rows.column_names:
            if name.startswith("seconds_"):
                stage = name.removeprefix("seconds_")
                self.seconds[stage] = self.seconds.get(stage, 0.0) + float(np.nansum(rows[name].to_numpy()))


def _integers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    return column.cast(pa.int64()).to_numpy()


def find_fault(content: bytes, schema: pa.Schema) -> str:
    """Read a part, all of it: what shows that it is not as it was written; empty: nothing does.

    schema: of parts of its kind. Pages carry checksums; their headers and the footer do not, and single bits
    that flipped there made a column of names read as empty, or counts as zeros, where no other column was
    read beside it (issue S). So all are read, have to be those of the schema and as long as the footer says,
    and in a ledger the pixels of each image have to add up.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as parquet:
            # not the metadata of columns: where that is damaged, asking for it ends the process (pyarrow 26)
            rows, num_rows = parquet.read(use_threads=False), parquet.metadata.num_rows
        rows.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:  # the last: a column's name that is no UTF-8
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    fields = [(field.name, field.type) for field in schema if field.name not in NEW_COLUMNS]
    if [(field.name, field.type) for field in rows.schema] != fields:
        return "its columns are others"
    if rows.num_rows != num_rows:
        return f"it has {rows.num_rows} rows and its footer says {num_rows}"
    if rows["image"].null_count:
        return "a row names no image"
    return (_find_odd_list(rows) or _find_miscount(rows)) if "confusion" in rows.column_names else ""


def _find_odd_list(rows: pa.Table) -> str:
    """A column of a ledger's part whose lists are not of one length, C or C x C; empty: none."""
    lengths = {name: set(_lengths(rows[name]).drop_null().to_pylist()) for name in LISTS}
    num_classes = max(lengths["class_pixels"], default=0)
    for name, found in lengths.items():
        if not found <= {num_classes**2 if name == "confusion" else num_classes}:
            return f"column {name} has lists of other lengths"
    return ""


def _lengths(lists: pa.ChunkedArray) -> pa.Array:
    return lists.combine_chunks().value_lengths()


def _find_miscount(rows: pa.Table) -> str:
    """The first image of a ledger's part whose pixels do not add up; empty: all do."""
    pixels = rows["height"].cast(pa.int64()).to_numpy() * rows["width"].cast(pa.int64()).to_numpy()
    labelled = rows["labelled"].fill_null(False).to_numpy()
    counted = _sums(rows["confusion"]) + rows["ignored"].fill_null(0).to_numpy()
    adds_up = (counted == np.where(labelled, pixels, 0)) & (_sums(rows["class_pixels"]) == pixels)
    adds_up &= rows["confusion"].is_valid().to_numpy() == labelled
    wrong = np.flatnonzero(~adds_up)
    return f"the pixels of {rows['image'][int(wrong[0])]} do not add up" if len(wrong) else ""


def _sums(lists: pa.ChunkedArray) -> NDArray[np.int64]:
    """The sum of each row's list; 0 for null."""
    column = lists.combine_chunks()
    ends = np.cumsum(_lengths(lists).fill_null(0).to_numpy())
    totals = np.concatenate([[0], np.cumsum(column.flatten().fill_null(0).to_numpy())])
    return np.diff(totals[np.concatenate([[0], ends])])


class PartName(NamedTuple):
    """What a part's file name says: TIME-RANDOM-SHA256.parquet, or TIME-RANDOM-r2-SHA256.parquet.

    The whole hash stands there, though half of it would tell damage as surely: `sha256sum` then checks a part
    on any machine, without us.
    """

    first: str
    """TIME-RANDOM: what all revisions of a part share."""
    revision: int
    """From 1."""
    sha256: str
    """Of the file's bytes; empty: it was written before names carried one (issue S)."""
    file: str

    @property
    def stem(self) -> str:
        """What a part's files in ledger, objects and quarantine share: the name without hash and ending."""
        return self.first if self.revision == 1 else f"{self.first}-r{self.revision}"


def parse_name(file: str) -> PartName:
    """A part's file name, read. AssertionError: it is none."""
    match = _NAME.fullmatch(file)
    assert match is not None, f"{file} is no part"
    return PartName(match[1], int(match[2] or 1), match[3] or "", file)


def new_stem() -> str:
    """TIME-RANDOM: later parts sort after earlier ones, and no two machines take the same name."""
    return f"{time.time_ns()}-{secrets.token_hex(4)}"


def next_revision(stem: str) -> str:
    """The stem that a part has once it is written anew: STEM-r2 after STEM."""
    part = parse_name(f"{stem}.parquet")
    return part._replace(revision=part.revision + 1).stem


def encode_part(rows: pa.Table) -> bytes:
    """The file of a part; the same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


class Parts:
    """The parts in one folder of a place. Hidden files are those never finished, and are not read.

    Whatever is read of a part is checked first: its bytes against the hash in its name; one from before names
    had a hash is read whole and counted. DamagedFile: a part is not as it was written.
    """

    def __init__(
        self, place: Place, folder: str, schema: pa.Schema, *, leave_out_damaged: bool = False
    ) -> None:
        """The folder is made when the first part is written.

        schema: of a part; a column that an older part lacks reads as null. leave_out_damaged: go on without
        damaged parts, where they will be set aside and their images scored again.
        """
        self.place, self.folder, self.schema = place, folder, schema
        self._leave_out_damaged = leave_out_damaged
        self._left_out: dict[PartName, str] = {}
        self._counted: dict[str, str] = {}
        """sha256 of parts that were found to be sound, so that one without a hash is counted once."""

    def names(self) -> list[PartName]:
        """The newest revision of each part, in order of time. DamagedFile: two files are the same one."""
        newest: dict[str, PartName] = {}
        for part in sorted(self._names()):
            other = newest.get(part.first)
            if other is not None and other.revision == part.revision:
                raise self._same_part(other, part)
            newest[part.first] = part
        return sorted(newest.values())

    def stems(self) -> set[str]:
        """Stems of `names`."""
        return {part.stem for part in self.names()}

    def of(self, stems: Collection[str]) -> list[PartName]:
        """The parts of these stems, as far as they are there, in order of time; errors as of `names`."""
        found = sorted(part for part in self._names() if part.stem in stems)
        for one, other in pairwise(found):
            if one.stem == other.stem:
                raise self._same_part(one, other)
        return found

    def tables(
        self, columns: list[str] | None = None, *, stems: Collection[str] | None = None
    ) -> Iterator[tuple[PartName, pa.Table]]:
        """Name and rows of each part in turn, so that a million rows hold the memory of a few parts.

        columns: None reads all. stems: the parts that have these; None: `names`.
        """
        for part, rows in self._read_all(self._choose(stems), columns):
            if isinstance(rows, str):
                self.give_up(part, rows)
            else:
                yield part, rows

    def read(self, part: PartName, columns: list[str] | None = None) -> pa.Table | str:
        """Rows of a part, or what is wrong with its content. FileNotFoundError: it is not there."""
        content = self.place.read(f"{self.folder}/{part.file}")
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(part))
        sha256 = hashlib.sha256(content).hexdigest()
        known = part.sha256 or self._counted.get(part.file, "")
        if known and known != sha256:
            return "its sha256 is another than " + ("its name says" if part.sha256 else "a moment ago")
        if not known and (fault := find_fault(content, self.schema)):
            return fault
        self._counted[part.file] = sha256
        try:
            return _parse(content, self.schema, columns)
        except (pa.ArrowException, OSError) as error:  # bytes that were never a part, with a hash that fits
            return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

    def find_damaged(self, *, stems: Collection[str] | None = None) -> dict[PartName, str]:
        """Parts that are not as they were written, and how; stems: as of `tables`."""
        found = self._read_all(self._choose(stems), [])
        return {part: rows for part, rows in found if isinstance(rows, str)}

    def give_up(self, part: PartName, reason: str) -> None:
        """Raise DamagedFile, which names a damaged part; where that was asked for, read it no more."""
        if not self._leave_out_damaged:
            raise DamagedFile(
                f"{self.where(part)} is damaged ({reason}); the command that scored this folder sets it "
                "aside and scores its images again"
            )
        self._left_out[part] = reason

    def warn_of_left_out(self) -> None:
        """DataWarning for each damaged part that was left out."""
        for part, reason in self._left_out.items():
            _warn(f"{self.where(part)} is damaged ({reason}): left out; its images count as not scored")

    def set_aside(self, part: PartName, reason: str) -> None:
        """Give a damaged part a hidden name, under which nothing reads it. DataWarning: says so."""
        path, hidden = f"{self.folder}/{part.file}", f"{self.folder}/.{part.file}{DAMAGED}"
        self.place.write(hidden, self.place.read(path) or b"")
        self.place.remove(path)
        _warn(f"{self.where(part)} is damaged ({reason}): kept as {hidden}; its images are scored again")

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all parts together."""
        arrays = [table[name] for _, table in self.tables([name])]
        return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], pa.string())

    def write(self, stem: str, content: bytes, *, may_write: Callable[[], object] = permit) -> None:
        """Write a part, flushed before it has its name; on object stores in one request that makes it.

        may_write: as of `Place.write`.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        self.place.write(f"{self.folder}/{stem}-{sha256}.parquet", content, may_write=may_write)

    def remove(self, part: PartName) -> None:
        """Remove a part, if it is there."""
        self.place.remove(f"{self.folder}/{part.file}")

    def remove_all_but(self, parts: Iterable[PartName]) -> None:
        """Remove all other parts of the folder, and what killed jobs left unfinished in it."""
        kept = {part.file for part in parts}
        for name in self.place.names(self.folder):
            unfinished = name.startswith(".") and name.endswith(TEMPORARY)
            if unfinished or (_NAME.fullmatch(name) and name not in kept):
                self.place.remove(f"{self.folder}/{name}")

    def where(self, part: PartName) -> str:
        """A part's file, for people."""
        return f"{self.place}/{self.folder}/{part.file}"

    def _choose(self, stems: Collection[str] | None) -> list[PartName]:
        return self.names() if stems is None else self.of(stems)

    def _names(self) -> list[PartName]:
        found = (parse_name(name) for name in self.place.names(self.folder) if _NAME.fullmatch(name))
        return [part for part in found if part not in self._left_out]

    def _read_all(
        self, parts: list[PartName], columns: list[str] | None
    ) -> Iterator[tuple[PartName, pa.Table | str]]:
        """What `read` gives for each, in order, a few at once."""
        readers = 1 if self.place.is_local else READERS
        with ThreadPoolExecutor(readers) as pool:
            found = map_ahead(pool, lambda part: self.read(part, columns), parts, readers)
            yield from zip(parts, found, strict=True)

    def _same_part(self, one: PartName, other: PartName) -> DamagedFile:
        return DamagedFile(
            f"{self.where(one)} and {other.file} are two files of one part; remove the one that is not of "
            "this folder"
        )


def _parse(content: bytes, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    """The columns asked for, None: all of the schema; null where the file has none of that name."""
    wanted = schema.names if columns is None else columns
    with pq.ParquetFile(pa.BufferReader(content)) as parquet:
        there = set(parquet.schema_arrow.names)
        table = parquet.read(columns=[name for name in wanted if name in there], use_threads=False)
    for name in wanted:
        if name not in there:
            table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(wanted)


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)
