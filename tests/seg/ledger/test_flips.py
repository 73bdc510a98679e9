"""One bit of a part that is another than was written: whoever reads notices, or reads the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seg.errors import DamagedFile
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import LEDGER_SCHEMA, OBJECTS_SCHEMA, QUARANTINE_SCHEMA
from seg.ledger.parts import Parts
from seg.storage import as_place
from tests.outcomes import make_aside, make_object, make_scored
from tests.seg.ledger.test_ledger import age

SCHEMAS = {"ledger": LEDGER_SCHEMA, "objects": OBJECTS_SCHEMA, "quarantine": QUARANTINE_SCHEMA}
MATRICES = ([1, 2, 3, 0], None, [0, 5, 1, 0], [6, 0, 0, 0])


def write_small_parts(folder: Path) -> None:
    """A part of each kind, of a few rows that differ, one of them unlabelled."""
    ledger = Ledger(folder)
    for k, matrix in enumerate(MATRICES):
        stamps = {"bytes": 100 + k, "mtime_ns": 10**18 + k, "sha256": f"{k}" * 64}
        name = f"s/{k}.png"
        objects = tuple(make_object(name, x, area=x + 2, iou=None if x else 0.5) for x in range(k))
        ledger.add([make_scored(name, matrix, objects=objects, **stamps)])
        ledger.add([make_aside(f"s/{k} aside.png", bytes=k, mtime_ns=10**18)])
    ledger.commit()


def flips(content: bytes, step: int) -> Iterator[bytes]:
    """The same bytes with one bit another, for every so manieth bit."""
    for bit in range(0, 8 * len(content), step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def check_flips(folder: Path, kind: str, step: int) -> int:
    """Read a part with each bit flipped; how many flips nobody noticed, which all read as before."""
    (path,) = (folder / kind).iterdir()
    whole, unnoticed = path.read_bytes(), 0
    ((_, rows),) = Parts(as_place(folder), kind, SCHEMAS[kind]).tables()
    for flipped in flips(whole, step):
        path.write_bytes(flipped)
        try:
            tables = [table for _, table in Parts(as_place(folder), kind, SCHEMAS[kind]).tables()]
        except DamagedFile:
            continue
        assert tables == [rows]
        unnoticed += 1
    return unnoticed


@pytest.mark.parametrize("step", [pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1800)]), 211])
@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_flipped_bit_of_a_part_is_noticed(kind: str, step: int, tmp_path: Path) -> None:
    write_small_parts(tmp_path)
    assert check_flips(tmp_path, kind, step) == 0


@pytest.mark.parametrize("step", [pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1800)]), 401])
@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_flipped_bit_of_a_part_without_a_hash_in_its_name_is_noticed_or_without_effect(
    kind: str, step: int, tmp_path: Path
) -> None:
    write_small_parts(tmp_path)
    age(tmp_path)
    assert check_flips(tmp_path, kind, step) > 0  # statistics, which nothing reads


def test_a_flip_that_hides_the_names_of_a_part_or_some_is_noticed_where_all_of_it_is_read(
    tmp_path: Path,
) -> None:
    write_small_parts(tmp_path)
    age(tmp_path)
    (path,) = (tmp_path / "ledger").iterdir()
    hidden = 0
    for flipped in flips(path.read_bytes()[:60], 1):
        content = flipped + path.read_bytes()[60:]
        try:
            names = pq.read_table(
                pa.BufferReader(content), columns=["image"], page_checksum_verification=True
            )
        except (pa.ArrowException, OSError):
            continue
        if names.num_rows < len(MATRICES):
            hidden += 1
            (tmp_path / "other" / "ledger").mkdir(parents=True, exist_ok=True)
            (tmp_path / "other" / "ledger" / path.name).write_bytes(content)
            with pytest.raises(DamagedFile, match=path.name):
                Ledger(tmp_path / "other").finished_images()
    assert hidden > 0


def test_a_part_in_which_pixels_do_not_add_up_is_damaged(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"confusion": [0, 0, 0, 0]},
        {"ignored": None},
        {"class_pixels": [0, 0]},
        {"class_pixels": None},
        {"confusion": None},
        {"labelled": False},
        {"height": 3},
        {"width": None},
        {"confusion": [1, 5, 0]},
        {"class_pixels": [6]},
        {"objects_found": [0]},
    ]
    for number, wrong in enumerate(odd):
        folder = tmp_path / str(number)
        ledger = Ledger(folder)
        sound = [make_scored("a", [1, 2, 3, 0]), make_scored("b")]
        ledger.add([*sound, replace(make_scored("c", [1, 2, 2, 0]), **wrong)])
        ledger.commit()
        Ledger(folder).check()  # its name vouches for it
        age(folder)
        with pytest.raises(DamagedFile, match=r"the pixels of c do not add up|has lists of other lengths"):
            Ledger(folder).check()
