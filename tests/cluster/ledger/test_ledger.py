import errno
import os
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster.ledger.ledger
from cluster.folder_lock import LostLock
from cluster.ledger.ledger import LEDGER_SCHEMA, OBJECTS_SCHEMA, PART_ROWS, QUARANTINE_SCHEMA, Ledger
from seg.errors import DataWarning
from seg.storage import Place


def scored(image: str, confusion: list[int] | None = None, size: tuple[int, int] = (2, 3)) -> dict[str, Any]:
    seconds = {name: 0.5 for name in LEDGER_SCHEMA.names if name.startswith("seconds_")}
    row = {"image": image, "reason": None, "height": size[0], "width": size[1], "confusion": confusion}
    objects = {f"objects_{kind}": None for kind in ("found", "missed", "invented")}
    return row | objects | seconds


def aside(image: str) -> dict[str, Any]:
    return {"image": image, "reason": "truncated", "detail": "the file ends", "attempts": 1}


def found(image: str, x: int, **values: object) -> dict[str, Any]:
    """An object."""
    place = {"class_id": 1, "x": x, "y": 0, "width": 2, "height": 1, "area": 2, "iou": 0.75}
    middle = {"centroid_x": x + 0.5, "centroid_y": 0.0, "confidence": 0.9, "touches_border": True}
    return {"image": image} | place | middle | values


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
    monkeypatch.setattr(cluster.ledger.ledger, "PART_S", 0.0)
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
            ledger.add([with_objects(f"{number}/{k}", matrix, k) for k, matrix in enumerate(batch)])
            ledger.commit()
        totals = ledger.totals(3)
        matrices = [matrix for batch in batches for matrix in batch if matrix is not None]
        assert totals.confusion.tolist() == [
            [sum(matrix[3 * row + column] for matrix in matrices) for column in range(3)] for row in range(3)
        ]
        assert totals.confusion.dtype == np.int64
        for first, counts in enumerate(
            (totals.objects_found, totals.objects_missed, totals.objects_invented)
        ):
            assert counts.tolist() == [sum(matrix[first + c] for matrix in matrices) for c in range(3)]
        assert totals.labelled == len(matrices)
        assert totals.images == sum(map(len, batches)) == len(ledger.finished_images())
        assert totals.pixels == sum(7 * (k + 1) for batch in batches for k in range(len(batch)))
        assert totals.seconds.get("model", 0.0) == 0.5 * totals.images  # halves add exactly


def with_objects(image: str, matrix: list[int] | None, k: int) -> dict[str, Any]:
    """A row whose counts of objects are pieces of its matrix."""
    names = ("objects_found", "objects_missed", "objects_invented")
    counts = {name: matrix and matrix[first : first + 3] for first, name in enumerate(names)}
    return scored(image, matrix, (k + 1, 7)) | counts


def test_objects_are_kept_with_their_image_and_those_of_an_image_set_aside_are_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    objects = [found("a", 3), found("a", 9, iou=None)]
    ledger.add([scored("a") | {"objects": objects}, scored("b"), aside("c") | {"objects": [found("c", 1)]}])
    ledger.commit()
    (table,) = ledger.objects()
    assert table.schema.equals(OBJECTS_SCHEMA)
    assert table.to_pylist() == objects
    assert len({Path(part).name for part in parts(tmp_path)}) == 1


def test_objects_without_their_ledger_part_do_not_count_and_are_removed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add([scored(image) | {"objects": [found(image, 0)]}])
        ledger.commit()
    lost, kept = sorted((tmp_path / "ledger").iterdir())
    lost.unlink()
    (tmp_path / "objects" / ".x.parquet.12ab.part").write_bytes(b"PAR1")
    assert [table["image"].to_pylist() for table in ledger.objects()] == [["b"]]
    ledger.recover()
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [kept.name]


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte short": lambda whole: whole[:-1],
    "half": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "its first page changed": lambda whole: whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_damaged_part_is_left_out_with_a_warning_and_its_images_are_scored_again(
    tmp_path: Path, cut: Callable[[bytes], bytes]
) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add([scored(image, [1, 2, 3, 4]) | {"objects": [found(image, 0)]}, aside(f"{image} aside")])
        ledger.commit()
    name = min(Path(part).name for part in parts(tmp_path))
    for folder in ("ledger", "quarantine"):
        (tmp_path / folder / name).write_bytes(cut((tmp_path / folder / name).read_bytes()))
    reader = Ledger(tmp_path)
    with pytest.warns(DataWarning, match=rf"ledger/{name} is damaged and left out \(.*\); remove it, and"):
        assert reader.finished_images() == {"b"}
    with pytest.warns(DataWarning, match=rf"quarantine/{name} is damaged"):
        assert reader.quarantined_images() == {"b aside"}
    assert reader.find_finished(["b", "a"]).tolist() == [True, False]  # said once is enough
    with pytest.warns(DataWarning) as said:
        reader.recover()
    assert [str(line.message).partition(" is damaged (")[0] for line in said] == [
        str(tmp_path / folder / name) for folder in ("ledger", "quarantine")
    ]
    assert all("scored again" in str(line.message) for line in said)
    reader.add([scored("a", [1, 2, 3, 4]) | {"objects": [found("a", 0)]}, aside("a aside")])
    reader.commit()
    check_both(Ledger(tmp_path))


def check_both(ledger: Ledger) -> None:
    """Images a and b are there once, with their objects, and what was set aside beside them."""
    assert ledger.totals(2).confusion.tolist() == [[2, 4], [6, 8]]
    assert sorted(table["image"].to_pylist() for table in ledger.objects()) == [["a"], ["b"]]
    assert sorted(table["image"].to_pylist() for table in ledger.quarantine_rows()) == [
        ["a aside"],
        ["b aside"],
    ]


def test_images_whose_objects_are_damaged_are_scored_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add([scored(image, [1, 2, 3, 4]) | {"objects": [found(image, 0)]}, aside(f"{image} aside")])
        ledger.commit()
    torn = min((tmp_path / "objects").iterdir())
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.warns(DataWarning, match=rf"ledger/{torn.name} is damaged \(its objects: .*scored again"):
        ledger.recover()
    assert ledger.finished_images() == {"b"}
    ledger.add([scored("a", [1, 2, 3, 4]) | {"objects": [found("a", 0)]}])
    ledger.commit()
    check_both(Ledger(tmp_path))


def test_of_many_names_those_that_are_there_are_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.find_finished(["a", "b"]).tolist() == [False, False]
    ledger.add([scored("b"), aside("c"), scored("é/ü.png")])
    ledger.commit()
    assert ledger.find_finished(["a", "b", "c", "é/ü.png"]).tolist() == [False, True, False, True]
    assert ledger.find_quarantined(["a", "b", "c"]).tolist() == [False, False, True]
    assert ledger.find_finished([]).tolist() == []


def test_forgotten_images_are_scored_again_and_their_objects_go_with_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for images in ("abc", "de", "fg"):
        ledger.add([scored(image, [1, 0, 0, 0]) | {"objects": [found(image, 0)]} for image in images])
        ledger.add([aside(f"{image} aside") for image in images])
        ledger.commit()
    untouched = {part: (tmp_path / part).read_bytes() for part in parts(tmp_path)[2::3]}
    ledger.forget(["b", "d", "e", "f aside", "none"])
    assert ledger.finished_images() == set("acfg")
    assert sorted(name for table in ledger.objects() for name in table["image"].to_pylist()) == list("acfg")
    assert len(parts(tmp_path)) == 7  # two of each and the quarantine's three
    assert {part: (tmp_path / part).read_bytes() for part in untouched} == untouched
    ledger.forget(["a"])
    assert ledger.totals(2).confusion.sum() == 3
    ledger.forget_quarantined(["a aside", "d aside", "e aside", "g"])
    assert ledger.quarantined_images() == {"b aside", "c aside", "f aside", "g aside"}
    ledger.forget_quarantined()
    assert ledger.quarantined_images() == set()
    assert not list((tmp_path / "quarantine").iterdir())


def test_forgetting_in_a_part_whose_objects_are_damaged_forgets_all_of_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([scored(image) | {"objects": [found(image, 0)]} for image in "ab"])
    ledger.commit()
    (objects,) = (tmp_path / "objects").iterdir()
    whole = objects.read_bytes()
    objects.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.warns(DataWarning, match="is damaged .*its images are scored again"):
        ledger.forget(["a"])
    assert ledger.finished_images() == set()
    assert not list((tmp_path / "objects").iterdir())


def test_a_job_that_lost_its_folder_writes_nothing(tmp_path: Path) -> None:
    def refuse() -> None:
        raise LostLock("another job")

    ledger = Ledger(tmp_path, may_write=refuse)
    ledger.add([scored("a"), aside("b")])
    with pytest.raises(LostLock):
        ledger.commit()
    assert not list(tmp_path.iterdir())


def test_a_commit_that_storage_refuses_for_a_while_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, refused = Place.write, iter([True, False, True, False])

    def write_or_refuse(place: Place, name: str, content: bytes) -> None:
        if next(refused, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(place, name, content)

    monkeypatch.setattr(Place, "write", write_or_refuse)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    ledger = Ledger(tmp_path)
    ledger.add([scored("a"), aside("b")])
    ledger.commit()
    assert ledger.finished_images() == {"a"}
    assert ledger.quarantined_images() == {"b"}
    assert "No space left on device; trying for 120 s" in capsys.readouterr().err
