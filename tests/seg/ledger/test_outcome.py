import pickle

import pyarrow as pa

from seg.ledger.outcome import LEDGER_SCHEMA, OBJECTS_SCHEMA, QUARANTINE_SCHEMA, to_table
from tests.outcomes import make_aside, make_object, make_scored

LEDGER = """
image: string
bytes: int64
mtime_ns: int64
sha256: string
label_path: string
label_bytes: int64
label_mtime_ns: int64
label_sha256: string
height: int32
width: int32
channels: int8
bit_depth: int8
labelled: bool
confusion: list<item: int64>
ignored: int64
class_pixels: list<item: int64>
confidence: double
objects_found: list<item: int64>
objects_missed: list<item: int64>
objects_invented: list<item: int64>
mask_bytes: int64
mask_sha256: string
intensity_mean: double
intensity_std: double
background_frames: int32
seconds_read: double
seconds_decode: double
seconds_model: double
seconds_write: double
attempt: int32
finished_at: timestamp[us, tz=UTC]
"""
QUARANTINE = """
image: string
reason: string
detail: string
bytes: int64
mtime_ns: int64
label_path: string
label_bytes: int64
label_mtime_ns: int64
attempts: int32
"""
OBJECTS = """
image: string
class_id: int16
x: int32
y: int32
width: int32
height: int32
area: int64
centroid_x: double
centroid_y: double
confidence: double
touches_border: bool
iou: double
"""


def list_columns(schema: pa.Schema) -> list[str]:
    assert all(column.nullable for column in schema)
    assert schema.metadata is None
    return [f"{column.name}: {column.type}" for column in schema]


def test_the_columns_of_parts_are_those_of_every_folder_there_is() -> None:
    assert list_columns(LEDGER_SCHEMA) == LEDGER.split("\n")[1:-1]
    assert list_columns(QUARANTINE_SCHEMA) == QUARANTINE.split("\n")[1:-1]
    assert list_columns(OBJECTS_SCHEMA) == OBJECTS.split("\n")[1:-1]


def test_a_table_holds_what_its_outcomes_do() -> None:
    found = (make_object("a", 1), make_object("a", 4, iou=None, confidence=None))
    counts = {"objects_found": (0, 2), "objects_missed": (0, 1), "objects_invented": (0, 0)}
    scored = [make_scored("a", [1, 2, 3, 0], objects=found, **counts), make_scored("é/ü#0")]
    aside = [make_aside("b"), make_aside("c", bytes=7, mtime_ns=2**62, label_path="c.txt")]
    for rows, schema in ((scored, LEDGER_SCHEMA), (aside, QUARANTINE_SCHEMA), (found, OBJECTS_SCHEMA)):
        table = to_table(rows, schema)
        assert table.schema.equals(schema)
        for row, kept in zip(rows, table.to_pylist(), strict=True):
            wanted = {name: getattr(row, name) for name in schema.names}
            assert kept == {k: list(v) if isinstance(v, tuple) else v for k, v in wanted.items()}
    assert to_table([], LEDGER_SCHEMA).num_rows == 0


def test_outcomes_travel_between_processes() -> None:
    outcomes = [make_scored("a", [1, 2, 3, 0], objects=(make_object("a", 1),)), make_aside("b")]
    assert pickle.loads(pickle.dumps(outcomes)) == outcomes  # noqa: S301  # our own
