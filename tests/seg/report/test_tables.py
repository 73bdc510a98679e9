"""Tables of a scores folder, beside its files read with pyarrow alone."""

import json
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import score
from seg.errors import DamagedFile, RequestError
from seg.report.tables import ScoreTables, open_tables
from seg.storage import as_place
from tests.small import CLASSES, count_by_hand, write_model, write_odd_archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scoring of images of many kinds, one of which is cut off."""
    root = tmp_path_factory.mktemp("scored")
    write_odd_archive(root / "odd")
    broken = root / "odd/images/deep.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    words = ["--model", str(write_model(root / "m.safetensors")), "--out", str(root / "scores")]
    assert score.main([str(root / "odd"), *words, "--min-object", "9", "--workers", "0"]) == 3
    return root / "scores"


@pytest.fixture
def tables(folder: Path) -> ScoreTables:
    return open_tables(as_place(folder))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_each_image_is_in_one_table_as_its_file_has_it(folder: Path, tables: ScoreTables) -> None:
    rows = {row["image"]: row for row in read_rows(folder / "ledger")}
    assert {row["image"]: row for row in tables.images.to_pylist()} == rows
    names = tables.images["image"].to_pylist()
    assert names.index("s1/frame-2.png") < names.index("s1/frame-10.png")
    assert len(names) == len(rows) > 8
    assert tables.quarantine.to_pylist() == read_rows(folder / "quarantine")
    assert tables.quarantine["image"].to_pylist() == ["deep.png"]


def test_objects_have_their_class_s_name_and_stand_by_image(folder: Path, tables: ScoreTables) -> None:
    rows = read_rows(folder / "objects")
    named = [{**row, "class": CLASSES[row["class_id"]]} for row in rows]
    found = tables.objects.to_pylist()
    assert len(found) > 10
    for image in tables.images["image"].to_pylist():
        mine = [row for row in named if row["image"] == image]
        assert [row for row in found if row["image"] == image] == mine
    places = [tables.images["image"].to_pylist().index(row["image"]) for row in found]
    assert places == sorted(places)
    assert tables.objects.column_names[:3] == ["image", "class", "class_id"]


def test_figures_are_those_of_the_summary_and_a_count_by_hand(folder: Path, tables: ScoreTables) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    labels = {
        name: folder.parent / "odd/masks" / f"{name}.png" for name in tables.images["image"].to_pylist()
    }
    there = {name: file if file.is_file() else None for name, file in labels.items()}
    assert tables.confusion.dtype == np.int64
    assert tables.confusion.tolist() == count_by_hand(folder / "masks", there) == summary["confusion"]
    assert tables.iou == summary["iou"]
    assert tables.miou == summary["miou"]
    assert tables.summary == summary
    assert tables.classes == CLASSES
    assert repr(tables).startswith(f"<{folder}: {len(labels)} images, 1 in quarantine, mIoU 0.")


def test_tables_are_frames_of_pandas_where_that_is(tables: ScoreTables) -> None:
    pandas = pytest.importorskip("pandas")
    frame = tables.images.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert int(frame["height"].sum()) == sum(tables.images["height"].to_pylist())


def test_a_scoring_that_has_scored_nothing_yet_has_empty_tables(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    empty = open_tables(as_place(tmp_path))
    for table in (empty.images, empty.objects, empty.quarantine):
        assert len(table) == 0
    assert empty.confusion.tolist() == [[0, 0], [0, 0]]
    assert isnan(empty.miou)
    with pytest.raises(RequestError, match=r"has no summary\.json yet; end its scoring with the command"):
        assert empty.summary
    assert repr(empty) == f"<{tmp_path}: 0 images, mIoU ->"


def test_what_is_no_scores_folder_or_damaged_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is no scores folder, as it holds no run.json; give"):
        open_tables(as_place(tmp_path))
    for name in ("run.json", "summary.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for part in (folder / "ledger").iterdir():
        (tmp_path / "ledger").mkdir(exist_ok=True)
        (tmp_path / "ledger" / part.name).write_bytes(part.read_bytes()[:-9])
    with pytest.raises(DamagedFile):
        assert open_tables(as_place(tmp_path)).images
