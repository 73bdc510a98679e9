"""Which images are scored, and which were set aside, in parts that are whole or absent (docs/formats.md)."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seg.files import replacing

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
        "attempts": pa.int32(),
    }
)
OUTCOME_SCHEMA = pa.unify_schemas([LEDGER_SCHEMA, QUARANTINE_SCHEMA])
"""What a scorer returns for an image: a ledger row, or, where `reason` is not null, a quarantine row."""


@dataclass(slots=True)
class Totals:
    """Sums over ledger rows: integers, so that order and parts do not matter, and seconds."""

    confusion: NDArray[np.int64]
    images: int = 0
    labelled: int = 0
    pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Add a table of ledger rows."""
        self.images += rows.num_rows
        self.pixels += sum(
            height * width
            for height, width in zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
        )
        counted = [row for row in rows["confusion"].to_pylist() if row is not None]
        self.labelled += len(counted)
        if counted:
            self.confusion += np.array(counted, np.int64).sum(0).reshape(self.confusion.shape)
        for name in rows.column_names:
            if name.startswith("seconds_"):
                stage = name.removeprefix("seconds_")
                self.seconds[stage] = self.seconds.get(stage, 0.0) + sum(rows[name].to_pylist())


TOTALS_COLUMNS = [
    "height",
    "width",
    "confusion",
    *(n for n in LEDGER_SCHEMA.names if n.startswith("seconds_")),
]


class Ledger:
    """A scores folder's ledger and quarantine: what is done, and where the next part goes."""

    def __init__(self, folder: Path) -> None:
        """Folders are made when the first part is written."""
        self.ledger, self.quarantine = folder / "ledger", folder / "quarantine"
        self.committed = 0
        """Images that this object has put into the ledger."""
        self._open: list[dict[str, Any]] = []
        self._open_name = ""
        self._closed_at = time.monotonic()

    def finished_images(self) -> set[str]:
        """Every image in the ledger, by its path relative to the archive."""
        return set(_images(self.ledger))

    def quarantined_images(self) -> set[str]:
        """Every image in the quarantine."""
        return set(_images(self.quarantine))

    def rows(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Ledger rows, a part at a time, so that a million of them hold the memory of 256."""
        return (pq.read_table(part, columns=columns) for part in _parts(self.ledger))

    def quarantine_rows(self) -> Iterator[pa.Table]:
        """Quarantine rows, a part at a time."""
        return (pq.read_table(part) for part in _parts(self.quarantine))

    def totals(self, num_classes: int) -> Totals:
        """Sums over the whole ledger."""
        totals = Totals(np.zeros((num_classes, num_classes), np.int64))
        for rows in self.rows(TOTALS_COLUMNS):
            totals.add(rows)
        return totals

    def add(self, outcomes: list[dict[str, Any]]) -> None:
        """Gather rows of OUTCOME_SCHEMA; a full part, or one PART_S after the last, is committed."""
        if not self._open:
            self._open_name = f"{time.time_ns()}-{os.getpid()}.parquet"
        self._open += outcomes
        if len(self._open) >= PART_ROWS or time.monotonic() - self._closed_at >= PART_S:
            self.commit()

    def commit(self) -> None:
        """Write the open part: quarantine first, the ledger's file last; each appears whole or not at all.

        Interrupted at any point (Ctrl-C) and called again, it writes the same files: no row is there twice.
        """
        if not self._open:
            return
        scored = [row for row in self._open if row["reason"] is None]
        aside = [row for row in self._open if row["reason"] is not None]
        for folder, schema, rows in (
            (self.quarantine, QUARANTINE_SCHEMA, aside),
            (self.ledger, LEDGER_SCHEMA, scored),
        ):
            if rows:
                with replacing(folder / self._open_name) as temporary:
                    pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
        self.committed, self._open = self.committed + len(scored), []
        self._closed_at = time.monotonic()


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.parquet"))  # a hidden one is still being written, or never was finished


def _images(folder: Path) -> Iterator[str]:
    for part in _parts(folder):
        yield from pq.read_table(part, columns=["image"])["image"].to_pylist()
