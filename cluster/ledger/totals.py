"""Exact sums over ledger rows, from which every ratio of a scoring is taken."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

OBJECT_COUNTS = ("objects_found", "objects_missed", "objects_invented")


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
