"""What comes of an image, scored or set aside; its fields are the columns of a scores folder's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import pyarrow as pa

from seg.data.images import UPRIGHT

Int8 = Annotated[int, pa.int8()]
Int16 = Annotated[int, pa.int16()]
Int32 = Annotated[int, pa.int32()]
Counts = Annotated[tuple[int, ...], pa.list_(pa.int64())]
Moment = Annotated[datetime, pa.timestamp("us", tz="UTC")]
COLUMN_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
"""Of the fields that do not say theirs."""
STAGES = ("read", "decode", "model", "write")
"""Of an image, as they are timed."""
BESIDE = frozenset({"objects", "orientation"})
"""Fields of Scored that are no columns of the ledger."""


class FoundObject(NamedTuple):
    """A predicted object of a scored image; places in own pixels. A tuple, which pickles soonest."""

    image: str
    class_id: Int16
    x: Int32
    y: Int32
    width: Int32
    height: Int32
    """Its box."""
    area: int
    centroid_x: float
    centroid_y: float
    confidence: float | None
    """None: its pixels' top probabilities are not known."""
    touches_border: bool
    iou: float | None
    """With its true object; 0: invented; None: the image is unlabelled, or the object is ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """An image that was scored (docs/reference/scores.md). What a label or mask tells is None without one."""

    image: str
    bytes: int
    mtime_ns: int
    sha256: str
    label_path: str | None = None
    label_bytes: int | None = None
    label_mtime_ns: int | None = None
    label_sha256: str | None = None
    height: Int32
    width: Int32
    channels: Int8
    bit_depth: Int8
    labelled: bool
    confusion: Counts | None = None
    """C x C, row by row."""
    ignored: int | None = None
    class_pixels: Counts
    confidence: float
    objects_found: Counts | None = None
    objects_missed: Counts | None = None
    objects_invented: Counts | None = None
    mask_bytes: int | None = None
    mask_sha256: str | None = None
    intensity_mean: float
    intensity_std: float
    background_frames: Int32
    seconds_read: float
    seconds_decode: float
    seconds_model: float
    seconds_write: float
    attempt: Int32
    finished_at: Moment
    objects: tuple[FoundObject, ...] = ()
    orientation: int = UPRIGHT
    """As of `seg.data.images`."""

    @property
    def pixels(self) -> int:
        """Of its own size."""
        return self.height * self.width

    @property
    def seconds(self) -> dict[str, float]:
        """In each stage."""
        return {stage: getattr(self, f"seconds_{stage}") for stage in STAGES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """An image that was set aside. Of a file that was not read to its end nothing is known: None."""

    image: str
    reason: str
    detail: str
    bytes: int | None = None
    mtime_ns: int | None = None
    label_path: str | None = None
    label_bytes: int | None = None
    label_mtime_ns: int | None = None
    attempts: Int32


Outcome = Scored | Quarantined
"""What a scorer returns of an image."""


def derive_schema(row: type[FoundObject | Outcome]) -> pa.Schema:
    """A column for each field, in their order."""
    hints = get_type_hints(row, include_extras=True)
    return pa.schema({name: _column_type(hint) for name, hint in hints.items() if name not in BESIDE})


def _column_type(hint: Any) -> pa.DataType:
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is Annotated:
        return parts[-1]
    return _column_type(parts[0]) if parts else COLUMN_TYPES[hint]


LEDGER_SCHEMA, QUARANTINE_SCHEMA, OBJECTS_SCHEMA = map(derive_schema, (Scored, Quarantined, FoundObject))


def to_table(rows: Sequence[FoundObject | Outcome], schema: pa.Schema) -> pa.Table:
    """Rows of one kind as a table of its schema."""
    columns = list(zip(*map(attrgetter(*schema.names), rows), strict=True)) or [()] * len(schema)
    arrays = [pa.array(values, column.type) for values, column in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def with_class_names(objects: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Objects with the name of each one's class, in a column `class` before `class_id`."""
    names = pa.array(classes, pa.string()).take(objects["class_id"])
    return objects.add_column(objects.schema.get_field_index("class_id"), "class", names)
