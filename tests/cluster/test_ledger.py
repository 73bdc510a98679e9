import os
import stat
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster.ledger
from cluster.ledger import LEDGER_SCHEMA, PART_ROWS, QUARANTINE_SCHEMA, Ledger


def scored(image: str, confusion: list[int] | None = None, size: tuple[int, int] = (2, 3)) -> dict[str, Any]:
    seconds = {name: 0.5 for name in LEDGER_SCHEMA.names if name.startswith("seconds_")}
    row = {"image": image, "reason": None, "height": size[0], "width": size[1], "confusion": confusion}
    return row | seconds


def aside(image: str) -> dict[str, Any]:
    return {"image": image, "reason": "truncated", "detail": "the file ends", "attempts": 1}


def parts(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def test_a_part_closes_at_256_rows_and_the_rest_waits_for_commit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for k in range(PART_ROWS - 1):
        ledger.add([scored(str(k))])
    assert not parts(tmp_path)
    ledger.add([scored("last"), scored("one more")])
    (part,) = (tmp_path / "ledger").iterdir()
    assert pq.read_table(part).num_rows == 257
    ledger.add([scored("open")])
    assert len(ledger.finished_images()) == 257
    ledger.commit()
    assert len(ledger.finished_images()) == ledger.committed == 258


def test_a_part_closes_when_the_last_one_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ledger, "PART_S", 0.0)
    ledger = Ledger(tmp_path)
    ledger.add([scored("a")])
    ledger.add([scored("b")])
    assert len(parts(tmp_path)) == 2


def test_committing_nothing_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit()
    ledger.add([])
    ledger.commit()
    assert list(tmp_path.iterdir()) == []


def test_scored_and_quarantined_rows_of_a_part_go_to_files_of_one_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([scored("a"), aside("b"), scored("c")])
    ledger.commit()
    (name,) = {Path(part).name for part in parts(tmp_path)}
    assert parts(tmp_path) == [f"ledger/{name}", f"quarantine/{name}"]
    assert ledger.finished_images() == {"a", "c"}
    assert ledger.quarantined_images() == {"b"}
    assert ledger.committed == 2
    assert pq.read_schema(tmp_path / "ledger" / name).equals(LEDGER_SCHEMA)
    assert pq.read_schema(tmp_path / "quarantine" / name).equals(QUARANTINE_SCHEMA)


def test_a_part_without_scored_images_has_no_ledger_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([aside("b")])
    ledger.commit()
    assert [Path(part).parent.name for part in parts(tmp_path)] == ["quarantine"]


def test_a_file_that_was_never_finished_is_not_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([scored("a", [1, 2, 3, 4])])
    ledger.commit()
    for folder in ("ledger", "quarantine"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".17-3.parquet.ab12.part").write_bytes(b"PAR1 torn")
        (tmp_path / folder / ".hidden.parquet").write_bytes(b"PAR1 torn")
    assert ledger.finished_images() == {"a"}
    assert ledger.quarantined_images() == set()
    assert ledger.totals(2).confusion.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])  # flushes: quarantine, its folder, ledger, its folder
def test_a_commit_stopped_anywhere_and_called_again_writes_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    flush, flushes = os.fsync, 0

    def stop(handle: int) -> None:
        nonlocal flushes
        flushes += 1
        flush(handle)
        if flushes == stop_at:
            raise KeyboardInterrupt

    ledger = Ledger(tmp_path)
    ledger.add([scored("a", [1, 0, 0, 1]), aside("b")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            ledger.commit()
    on_disk = Ledger(tmp_path)  # what a process that was killed there leaves
    assert on_disk.finished_images() <= {"a"}
    assert bool(on_disk.finished_images()) == (stop_at == 4)
    ledger.commit()
    rows = [*ledger.rows(), *ledger.quarantine_rows()]
    assert Counter(name for part in rows for name in part["image"].to_pylist()) == {"a": 1, "b": 1}
    assert ledger.totals(2).images == 1
    assert not list(tmp_path.rglob(".*"))


def test_a_part_is_flushed_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, seen = os.fsync, []

    def record(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        seen.append((is_folder, len(list((tmp_path / "ledger").glob("[!.]*")))))
        flush(handle)

    monkeypatch.setattr(os, "fsync", record)
    ledger = Ledger(tmp_path)
    ledger.add([scored("a")])
    ledger.commit()
    assert seen == [(False, 0), (True, 1)]


MATRICES = st.none() | st.lists(st.integers(0, 2**50), min_size=9, max_size=9)


@given(st.lists(st.lists(MATRICES, max_size=5), max_size=5))
def test_totals_are_the_exact_sums_however_the_rows_are_cut_into_parts(
    batches: list[list[list[int] | None]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        for number, batch in enumerate(batches):
            ledger.add([scored(f"{number}/{k}", matrix, (k + 1, 7)) for k, matrix in enumerate(batch)])
            ledger.commit()
        totals = ledger.totals(3)
        matrices = [matrix for batch in batches for matrix in batch if matrix is not None]
        assert totals.confusion.tolist() == [
            [sum(matrix[3 * row + column] for matrix in matrices) for column in range(3)] for row in range(3)
        ]
        assert totals.confusion.dtype == np.int64
        assert totals.labelled == len(matrices)
        assert totals.images == sum(map(len, batches)) == len(ledger.finished_images())
        assert totals.pixels == sum(7 * (k + 1) for batch in batches for k in range(len(batch)))
        assert totals.seconds.get("model", 0.0) == 0.5 * totals.images  # halves add exactly
