"""Parquet files of one kind in a folder, each whole or absent; a later revision replaces an earlier."""

import re
import secrets
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from seg.ahead import map_ahead
from seg.errors import DataWarning
from seg.files import TEMPORARY
from seg.storage import Place

READERS = 8
"""Parts read at once from an object store, where waiting is what takes long."""

DAMAGED = ".damaged"
"""Ending of a hidden file that was a part."""

_NAME = re.compile(r"([^.].*?)(?:-r(\d+))?\.parquet")


def new_part_name() -> str:
    """TIME-RANDOM.parquet: later parts sort after earlier ones, and no two machines take the same name."""
    return f"{time.time_ns()}-{secrets.token_hex(4)}.parquet"


def next_revision(name: str) -> str:
    """The name that a part has once it is written anew: NAME-r2.parquet after NAME.parquet."""
    stem, revision = _split(name)
    return f"{stem}-r{revision + 1}.parquet"


class Parts:
    """The parts in one folder of a place. Hidden files are those never finished, and are not read."""

    def __init__(self, place: Place, folder: str) -> None:
        """The folder is made when the first part is written."""
        self.place, self.folder = place, folder
        self._damaged: set[str] = set()

    def names(self) -> list[str]:
        """The newest revision of each part, sorted."""
        newest: dict[str, str] = {}
        for name in sorted(self._names(), key=_split):
            newest[_split(name)[0]] = name
        return sorted(newest.values())

    def tables(
        self, columns: list[str] | None = None, *, named: Collection[str] | None = None
    ) -> Iterator[tuple[str, pa.Table]]:
        """Name and rows of each part in turn, so that a million rows hold the memory of a few parts.

        columns: None reads all. named: files of these names, as far as they are there; None: `names`.
        DataWarning, once each: a damaged part is left out.
        """
        for name, rows in self._read_all(self._choose(named), columns):
            if not isinstance(rows, str):
                yield name, rows
            elif name not in self._damaged:
                self._damaged.add(name)
                mend = "remove it, and the same command scores its images again"
                _warn(f"{self.place}/{self.folder}/{name} is damaged and left out ({rows}); {mend}")

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table | str:
        """Rows of a part, or what is wrong with its content. FileNotFoundError: it is not there."""
        path = f"{self.folder}/{name}"
        try:
            with self.place.open(path) as file:
                return _parse(file, columns)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError):
            content = self.place.read(path)  # storage that is away, and not the part, raises here
        try:
            return _parse(pa.BufferReader(content or b""), columns)
        except (pa.ArrowException, OSError) as error:
            return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

    def find_damaged(self, columns: list[str], *, named: Collection[str] | None = None) -> dict[str, str]:
        """Parts that end too early, or are damaged in these columns, and how; named: as of `tables`."""
        found = self._read_all(self._choose(named), columns)
        return {name: rows for name, rows in found if isinstance(rows, str)}

    def set_aside(self, name: str, reason: str) -> None:
        """Give a damaged part a hidden name, under which nothing reads it. DataWarning: says so."""
        path, hidden = f"{self.folder}/{name}", f"{self.folder}/.{name}{DAMAGED}"
        self.place.write(hidden, self.place.read(path) or b"")
        self.place.remove(path)
        _warn(f"{self.place}/{path} is damaged ({reason}): kept as {hidden}; its images are scored again")

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all parts together."""
        arrays = [table[name] for _, table in self.tables([name])]
        return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], pa.string())

    def write(self, name: str, rows: pa.Table) -> None:
        """Write a part, flushed before it has its name; on object stores in one request that makes it."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, write_page_checksum=True)
        self.place.write(f"{self.folder}/{name}", sink.getvalue().to_pybytes())

    def remove(self, name: str) -> None:
        """Remove a part, if it is there."""
        self.place.remove(f"{self.folder}/{name}")

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Remove all other parts of the folder, and what killed jobs left unfinished in it."""
        kept = set(names)
        unfinished = [name for name in self.place.names(self.folder) if _is_unfinished(name)]
        for name in (*unfinished, *(name for name in self._names() if name not in kept)):
            self.remove(name)

    def _choose(self, named: Collection[str] | None) -> list[str]:
        return self.names() if named is None else sorted(set(self._names()).intersection(named))

    def _names(self) -> list[str]:
        return [name for name in self.place.names(self.folder) if _NAME.fullmatch(name)]

    def _read_all(self, names: list[str], columns: list[str] | None) -> Iterator[tuple[str, pa.Table | str]]:
        """What `read` gives for each, in order, a few at once."""
        readers = 1 if self.place.is_local else READERS
        with ThreadPoolExecutor(readers) as pool:
            found = map_ahead(pool, lambda name: self.read(name, columns), names, readers)
            yield from zip(names, found, strict=True)


def _parse(file: pa.NativeFile, columns: list[str] | None) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        return parquet.read(columns=columns, use_threads=False)


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def _split(name: str) -> tuple[str, int]:
    """A part's name without its revision, and that, from 1."""
    match = _NAME.fullmatch(name)
    assert match is not None, f"{name} is no part"
    return match[1], int(match[2] or 1)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)
