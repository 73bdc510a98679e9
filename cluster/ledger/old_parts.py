"""Parts from before their names carried a hash: read whole and counted, as nothing vouches for them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.ledger.totals import OBJECT_COUNTS

LISTS = ("confusion", "class_pixels", *OBJECT_COUNTS)
NEW_COLUMNS = frozenset({"mask_bytes", "mask_sha256"})
"""Which a part without a hash lacks: it is older than they are."""


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
