import errno
import hashlib
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

import seg.ledger.ledger
from seg.errors import DamagedFile, DataWarning
from seg.ledger.ledger import PART_ROWS, Ledger
from seg.ledger.outcome import LEDGER_SCHEMA, OBJECTS_SCHEMA, QUARANTINE_SCHEMA, Scored
from seg.locks.folder_lock import LostLock
from seg.storage import Place
from tests.outcomes import make_aside, make_object, make_scored, totals_of


def parts(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def age(folder: Path, *, every: int = 1) -> None:
    """Rewrite every so manieth part as those before issue S: no hash in the name, no masks in the ledger."""
    for part in parts(folder)[::every]:
        table = pq.read_table(folder / part)
        table = table.drop_columns([name for name in table.column_names if name.startswith("mask_")])
        stem = Path(part).name.rpartition("-")[0]
        pq.write_table(table, (folder / part).with_name(f"{stem}.parquet"), write_page_checksum=True)
        (folder / part).unlink()


def stems(folder: Path) -> set[str]:
    """What names have before their hash."""
    return {Path(part).name.rpartition("-")[0] for part in parts(folder)}


def test_a_part_closes_at_256_rows_and_the_rest_waits_for_commit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for k in range(PART_ROWS - 1):
        ledger.add([make_scored(str(k))])
    assert not parts(tmp_path)
    ledger.add([make_scored("last"), make_scored("one more")])
    (part,) = (tmp_path / "ledger").iterdir()
    assert pq.read_table(part).num_rows == 257
    ledger.add([make_scored("open")])
    assert len(ledger.finished_images()) == 257
    ledger.commit()
    assert len(ledger.finished_images()) == ledger.committed == 258


def test_a_part_closes_when_the_last_one_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seg.ledger.ledger, "PART_S", 0.0)
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a")])
    ledger.add([make_scored("b")])
    assert len(parts(tmp_path)) == 2


def test_committing_nothing_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit()
    ledger.add([])
    ledger.commit()
    assert list(tmp_path.iterdir()) == []


def test_scored_and_quarantined_rows_of_a_part_go_to_files_of_one_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a"), make_aside("b"), make_scored("c")])
    ledger.commit()
    assert [Path(part).parent.name for part in parts(tmp_path)] == ["ledger", "quarantine"]
    (_,) = stems(tmp_path)
    assert ledger.finished_images() == {"a", "c"}
    assert ledger.quarantined_images() == {"b"}
    assert ledger.committed == 2
    for folder, schema in (("ledger", LEDGER_SCHEMA), ("quarantine", QUARANTINE_SCHEMA)):
        (part,) = (tmp_path / folder).iterdir()
        assert pq.read_schema(part).equals(schema)


def test_a_part_without_scored_images_has_no_ledger_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_aside("b")])
    ledger.commit()
    assert [Path(part).parent.name for part in parts(tmp_path)] == ["quarantine"]


def test_a_file_that_was_never_finished_is_not_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a", [1, 2, 3, 4])])
    ledger.commit()
    for folder in ("ledger", "quarantine"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".17-3.parquet.ab12.part").write_bytes(b"PAR1 torn")
        (tmp_path / folder / ".hidden.parquet").write_bytes(b"PAR1 torn")
    assert ledger.finished_images() == {"a"}
    assert ledger.quarantined_images() == set()
    assert totals_of(ledger, 2).confusion.tolist() == [[1, 2], [3, 4]]


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
    ledger.add([make_scored("a", [1, 0, 0, 1]), make_aside("b")])
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
    assert totals_of(ledger, 2).images == 1
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
    ledger.add([make_scored("a")])
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
            ledger.add([with_counts(f"{number}/{k}", matrix, k) for k, matrix in enumerate(batch)])
            ledger.commit()
        totals = totals_of(ledger, 3)
        matrices = [matrix for batch in batches for matrix in batch if matrix is not None]
        assert totals.confusion.tolist() == [
            [sum(matrix[3 * row + column] for matrix in matrices) for column in range(3)] for row in range(3)
        ]
        assert totals.confusion.dtype == np.int64
        for first, counts in enumerate(
            (totals.objects_found, totals.objects_missed, totals.objects_invented)
        ):
            assert counts.tolist() == [sum(matrix[first + c] for matrix in matrices) for c in range(3)]
        seen = [k for batch in batches for k in range(len(batch))]
        assert totals.class_pixels.tolist() == [sum(seen), 7 * len(seen), 2 * sum(seen)]
        assert totals.labelled == len(matrices)
        assert totals.images == sum(map(len, batches)) == len(ledger.finished_images())
        assert totals.pixels == sum(7 * (k + 1) for batch in batches for k in range(len(batch)))
        assert totals.seconds.get("model", 0.0) == 0.5 * totals.images  # halves add exactly


def with_counts(image: str, matrix: list[int] | None, k: int) -> Scored:
    """A row whose counts of objects are pieces of its matrix."""
    names = ("objects_found", "objects_missed", "objects_invented")
    counts = {name: matrix and tuple(matrix[first : first + 3]) for first, name in enumerate(names)}
    return make_scored(image, matrix, (k + 1, 7), class_pixels=(k, 7, 2 * k), **counts)


def test_objects_are_kept_with_their_image(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    objects = (make_object("a", 3), make_object("a", 9, iou=None))
    ledger.add([make_scored("a", objects=objects), make_scored("b"), make_aside("c")])
    ledger.commit()
    (table,) = ledger.objects()
    assert table.schema.equals(OBJECTS_SCHEMA)
    assert table.to_pylist() == [found._asdict() for found in objects]
    assert len(stems(tmp_path)) == 1


def test_objects_without_their_ledger_part_do_not_count_and_are_removed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add([make_scored(image, objects=(make_object(image, 0),))])
        ledger.commit()
    lost, kept = sorted((tmp_path / "ledger").iterdir())
    _, its_objects = sorted((tmp_path / "objects").iterdir())
    lost.unlink()
    (tmp_path / "objects" / ".x.parquet.12ab.part").write_bytes(b"PAR1")
    assert [table["image"].to_pylist() for table in ledger.objects()] == [["b"]]
    ledger.recover()
    assert list((tmp_path / "ledger").iterdir()) == [kept]
    assert list((tmp_path / "objects").iterdir()) == [its_objects]


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte short": lambda whole: whole[:-1],
    "half": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "its first page changed": lambda whole: whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
}


@pytest.mark.parametrize("aged", [False, True])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_damaged_part_is_named_by_whoever_reads_it_and_its_images_are_scored_again(
    tmp_path: Path, cut: Callable[[bytes], bytes], aged: bool
) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add(
            [make_scored(image, [1, 2, 3, 4], objects=(make_object(image, 0),)), make_aside(f"{image} aside")]
        )
        ledger.commit()
    if aged:
        age(tmp_path)
    torn = [min((tmp_path / folder).iterdir()) for folder in ("ledger", "quarantine")]
    for part in torn:
        part.write_bytes(cut(part.read_bytes()))
    reader = Ledger(tmp_path)
    for read in (reader.check, reader.finished_images, lambda: totals_of(reader, 2)):
        with pytest.raises(DamagedFile, match=rf"{torn[0]} is damaged \(.*\); the command that scored"):
            read()
    with pytest.raises(DamagedFile, match=rf"{torn[1]} is damaged"):
        reader.quarantined_images()
    check_look(tmp_path, torn)
    with pytest.warns(DataWarning) as said:
        reader.recover()
    assert [str(line.message).partition(" is damaged (")[0] for line in said] == list(map(str, torn))
    assert all("scored again" in str(line.message) for line in said)
    reader.add([make_scored("a", [1, 2, 3, 4], objects=(make_object("a", 0),)), make_aside("a aside")])
    reader.commit()
    check_both(Ledger(tmp_path))


def check_look(folder: Path, torn: list[Path]) -> None:
    """Who only looks is warned once of each damaged part, and finds what is left without it."""
    looker = Ledger(folder, leave_out_damaged=True)
    with pytest.warns(DataWarning, match="left out; its images count as not scored") as said:
        looker.check()
    assert [str(line.message).partition(" is damaged (")[0] for line in said] == list(map(str, torn))
    assert looker.finished_images() == {"b"}
    assert looker.quarantined_images() == {"b aside"}


def check_both(ledger: Ledger) -> None:
    """Images a and b are there once, with their objects, and what was set aside beside them."""
    assert totals_of(ledger, 2).confusion.tolist() == [[2, 4], [6, 8]]
    assert sorted(table["image"].to_pylist() for table in ledger.objects()) == [["a"], ["b"]]
    assert sorted(table["image"].to_pylist() for table in ledger.quarantine_rows()) == [
        ["a aside"],
        ["b aside"],
    ]


def test_images_whose_objects_are_damaged_are_scored_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for image in ("a", "b"):
        ledger.add(
            [make_scored(image, [1, 2, 3, 4], objects=(make_object(image, 0),)), make_aside(f"{image} aside")]
        )
        ledger.commit()
    torn, named = (min((tmp_path / folder).iterdir()) for folder in ("objects", "ledger"))
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"{torn} is damaged"):
        Ledger(tmp_path).check()
    looker = Ledger(tmp_path, leave_out_damaged=True)
    with pytest.warns(DataWarning, match=rf"{named} is damaged \(its objects: .*\): left out"):
        looker.check()
    assert looker.finished_images() == {"b"}
    with pytest.warns(DataWarning, match=rf"{named} is damaged \(its objects: .*scored again"):
        ledger.recover()
    assert ledger.finished_images() == {"b"}
    ledger.add([make_scored("a", [1, 2, 3, 4], objects=(make_object("a", 0),))])
    ledger.commit()
    check_both(Ledger(tmp_path))


def test_forgotten_images_are_scored_again_and_their_objects_go_with_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for images in ("abc", "de", "fg"):
        ledger.add([make_scored(image, [1, 0, 0, 0], objects=(make_object(image, 0),)) for image in images])
        ledger.add([make_aside(f"{image} aside") for image in images])
        ledger.commit()
    untouched = {part: (tmp_path / part).read_bytes() for part in parts(tmp_path)[2::3]}
    ledger.forget(["b", "d", "e", "f aside", "none"])
    assert ledger.finished_images() == set("acfg")
    assert sorted(name for table in ledger.objects() for name in table["image"].to_pylist()) == list("acfg")
    assert len(parts(tmp_path)) == 7  # two of each and the quarantine's three
    assert {part: (tmp_path / part).read_bytes() for part in untouched} == untouched
    ledger.forget(["a"])
    assert totals_of(ledger, 2).confusion.sum() == 3
    ledger.forget_quarantined(["a aside", "d aside", "e aside", "g"])
    assert ledger.quarantined_images() == {"b aside", "c aside", "f aside", "g aside"}
    ledger.forget_quarantined()
    assert ledger.quarantined_images() == set()
    assert not list((tmp_path / "quarantine").iterdir())


def test_forgetting_in_a_part_whose_objects_are_damaged_forgets_all_of_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_scored(image, objects=(make_object(image, 0),)) for image in "ab"])
    ledger.commit()
    (objects,) = (tmp_path / "objects").iterdir()
    whole = objects.read_bytes()
    objects.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.warns(DataWarning, match="is damaged .*its images are scored again"):
        ledger.forget(["a"])
    assert ledger.finished_images() == set()
    assert not list((tmp_path / "objects").iterdir())


def test_a_name_in_two_parts_is_an_error_that_names_it_and_them(tmp_path: Path) -> None:
    for images in ("abc", "cd"):
        ledger = Ledger(tmp_path)
        ledger.add([make_scored(image, [1, 2, 3, 4]) for image in images])
        ledger.commit()
    one, other = sorted((tmp_path / "ledger").iterdir())
    for read in (Ledger(tmp_path).check, Ledger(tmp_path).recover, lambda: Ledger(tmp_path).forget(["d"])):
        with pytest.raises(
            DamagedFile, match=rf"image c is there twice, in {one} and in {other}, .*; remove"
        ):
            read()
    other.unlink()
    ledger = Ledger(tmp_path)
    ledger.check()
    ledger.add([make_aside("b")])
    ledger.commit()
    (quarantined,) = (tmp_path / "quarantine").iterdir()
    with pytest.raises(DamagedFile, match=rf"image b is there twice, in {one} and in {quarantined},"):
        Ledger(tmp_path).check()


def test_two_files_of_one_part_are_an_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a", objects=(make_object("a", 0),))])
    ledger.commit()
    for folder in ("ledger", "objects"):
        (part,) = (tmp_path / folder).iterdir()
        other = part.with_name(f"{part.name.rpartition('-')[0]}.parquet")
        other.write_bytes(part.read_bytes())
        with pytest.raises(DamagedFile, match=f"{other} and {part.name} are two files of one part; remove"):
            Ledger(tmp_path).check()
        other.unlink()


def test_parts_with_and_without_a_hash_in_their_names_are_one_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for images in ("abc", "de", "fg"):
        ledger.add([make_scored(image, [1, 0, 0, 0], objects=(make_object(image, 0),)) for image in images])
        ledger.add([make_aside(f"{image} aside") for image in images])
        ledger.commit()
    before = [table.to_pylist() for table in (*ledger.rows(), *ledger.objects(), *ledger.quarantine_rows())]
    age(tmp_path, every=2)  # of each part one file, or two
    ledger = Ledger(tmp_path)
    ledger.check()
    assert [t.to_pylist() for t in (*ledger.rows(), *ledger.objects(), *ledger.quarantine_rows())] == before
    assert next(ledger.rows(["mask_sha256", "image"])).to_pylist()[0] == {"mask_sha256": None, "image": "a"}
    ledger.forget(["b", "e"])
    ledger.forget_quarantined(["a aside", "d aside", "e aside"])
    assert ledger.finished_images() == set("acdfg")
    assert sorted(name for table in ledger.objects() for name in table["image"].to_pylist()) == list("acdfg")
    assert ledger.quarantined_images() == {"b aside", "c aside", "f aside", "g aside"}
    rewritten = [Path(part).name for part in parts(tmp_path) if "-r2" in part]
    assert len(rewritten) == 5
    assert all(len(name.rpartition("-")[2]) == 64 + len(".parquet") for name in rewritten)


def test_a_part_is_named_by_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a", objects=(make_object("a", 0),)), make_aside("b")])
    ledger.commit()
    for part in parts(tmp_path):
        content = (tmp_path / part).read_bytes()
        assert Path(part).stem.rpartition("-")[2] == hashlib.sha256(content).hexdigest()


def test_what_is_taken_out_of_the_quarantine_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    ledger.add([make_aside("a"), make_aside("b")])
    ledger.commit()
    (before,) = (tmp_path / "quarantine").iterdir()
    whole = before.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Place, "remove", lambda *_: None)  # killed before the earlier one goes
        ledger.forget_quarantined(["a"])
    assert before.read_bytes() == whole
    assert Ledger(tmp_path).quarantined_images() == {"b"}
    Ledger(tmp_path).forget_quarantined()
    assert Ledger(tmp_path).quarantined_images() == set()
    assert not list((tmp_path / "quarantine").iterdir())


def test_a_job_that_lost_its_folder_writes_nothing(tmp_path: Path) -> None:
    def refuse() -> None:
        raise LostLock("another job")

    ledger = Ledger(tmp_path, may_write=refuse)
    ledger.add([make_scored("a"), make_aside("b")])
    with pytest.raises(LostLock):
        ledger.commit()
    assert not list(tmp_path.iterdir())


def test_a_job_that_loses_its_folder_while_it_writes_a_part_adds_none(tmp_path: Path) -> None:
    asked: list[int] = []

    def refuse_later() -> None:
        asked.append(len(list(tmp_path.rglob("*.part"))))
        if len(asked) > 1:
            raise LostLock("another job")

    ledger = Ledger(tmp_path, may_write=refuse_later)
    ledger.add([make_scored("a")])
    with pytest.raises(LostLock):
        ledger.commit()
    assert asked == [0, 1]  # before anything is written, and when all is
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_commit_that_storage_refuses_for_a_while_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, refused = Place.write, iter([True, False, True, False])

    def write_or_refuse(place: Place, name: str, content: bytes, **kwargs: Any) -> None:
        if next(refused, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(place, name, content, **kwargs)

    monkeypatch.setattr(Place, "write", write_or_refuse)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    ledger = Ledger(tmp_path)
    ledger.add([make_scored("a"), make_aside("b")])
    ledger.commit()
    assert ledger.finished_images() == {"a"}
    assert ledger.quarantined_images() == {"b"}
    assert "No space left on device; trying for 120 s" in capsys.readouterr().err
