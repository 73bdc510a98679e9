import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.packing import choose_preparation, pack, rows_by_tasks
from cluster.session import Session
from seg.errors import DataWarning, RequestError
from seg.pack.build import ensure_pack, is_sealed
from seg.pack.pack import Pack, rows_by_threads
from seg.pack.training_data import open_packs, open_training_data, plan_packs
from seg.recipe import Preprocessing, Recipe
from seg.requests import PackRequest
from tests.conftest import WriteArchive
from tests.small import own_processes, wait_until

RECIPE = Recipe(name="x", validation_share=0.5)


def test_rows_come_from_tasks_only_where_a_cluster_is_or_workers_are_asked_for(
    idle: Session,
) -> None:
    assert choose_preparation(idle) is rows_by_threads
    assert choose_preparation(idle, 0) is rows_by_threads
    assert choose_preparation(replace(idle, connected=True), 0) is rows_by_threads
    for chosen in (choose_preparation(idle, 2), choose_preparation(replace(idle, connected=True))):
        assert chosen is not rows_by_threads
    assert not idle.connected  # Ray starts when there is a row to prepare


def test_packing_ahead_is_what_a_training_opens_and_says_what_was_there(
    write_archive: WriteArchive, idle: Session
) -> None:
    request = PackRequest(recipe=RECIPE, data=write_archive(), seed=3)
    built = pack(request, idle)
    packs = open_packs(open_training_data(request.data, RECIPE, seed=3), RECIPE)
    assert [summary.path for summary in built] == [pack.path for pack in packs]
    assert [summary.images for summary in built] == [3, 3]
    assert [summary.bytes for summary in built] == [pack.path.stat().st_size for pack in packs]
    assert all(summary.seconds is not None for summary in built)
    again = pack(request, idle)
    assert [summary.line for summary in again] == [
        f"{part}: {summary.path}: 3 images, {summary.bytes:,} bytes, was there already"
        for part, summary in zip(("training", "validation"), built, strict=True)
    ]


def test_a_number_of_workers_below_0_is_refused(write_archive: WriteArchive, idle: Session) -> None:
    with pytest.raises(RequestError, match="`workers` is -1, below 0; try `workers=1`"):
        pack(PackRequest(recipe=RECIPE, data=write_archive(), workers=-1), idle)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [None, 1])
def test_tasks_write_the_bytes_that_threads_do(
    write_archive: WriteArchive, session: Session, tmp_path: Path, workers: int | None
) -> None:
    recipe = replace(RECIPE, preprocessing=Preprocessing(background_every=1))
    data = open_training_data(write_archive(frames=9), recipe, seed=0)
    for plan in plan_packs(data, recipe):
        here = ensure_pack(plan).read_bytes()
        elsewhere = replace(plan, folder=tmp_path / "elsewhere")
        path = ensure_pack(elsewhere, choose_preparation(session, workers))
        assert is_sealed(path)
        assert path.read_bytes() == here


@pytest.mark.ray
def test_a_bad_image_in_a_task_is_the_requests_fault(write_archive: WriteArchive, session: Session) -> None:
    data = open_training_data(write_archive(), RECIPE, seed=0)
    plan, _ = plan_packs(data, RECIPE)
    bad = plan.samples[1].image
    bad.write_bytes(bad.read_bytes()[:-40])
    with pytest.raises(RequestError, match=rf"^data: {bad}: the file ends after .*; mend or remove it$"):
        ensure_pack(plan, choose_preparation(session))
    assert list(plan.path.parent.glob("*.arrow")) == []


@pytest.mark.ray
def test_what_a_task_warns_of_is_heard_here(write_archive: WriteArchive, session: Session) -> None:
    recipe = replace(RECIPE, preprocessing=Preprocessing(background_every=1))
    data = open_training_data(write_archive(frames=3), recipe, seed=0)
    plan, _ = plan_packs(data, recipe)
    with pytest.warns(DataWarning, match="has 3 frames fit for a background, fewer than 4"):
        rows = list(rows_by_tasks(plan, session))
    assert len(rows) == len(plan.samples) == 3


@pytest.mark.ray
def test_rows_that_nobody_takes_are_cancelled(write_archive: WriteArchive, session: Session) -> None:
    data = open_training_data(write_archive(frames=20), RECIPE, seed=0)
    rows = rows_by_tasks(plan_packs(data, RECIPE)[0], session)
    assert next(rows).column("name")[0].as_py() == data.split.train[0].name
    rows.close()
    assert Pack(ensure_pack(plan_packs(data, RECIPE)[0], choose_preparation(session)))[0]


@pytest.mark.long
@pytest.mark.ray
def test_a_worker_killed_while_it_prepares_rows_changes_nothing(
    write_archive: WriteArchive, session: Session
) -> None:
    data = open_training_data(write_archive(frames=6, size=(2000, 2000)), RECIPE, seed=0)
    plan, _ = plan_packs(data, RECIPE)
    with ThreadPoolExecutor(1) as pool:  # so that the first task is met, however fast they are
        rows = pool.submit(list, rows_by_tasks(plan, session))
        wait_until(lambda: own_processes("ray::_prepare_shard"), "a task runs")
        for pid in own_processes("ray::_prepare_shard"):
            os.kill(pid, signal.SIGKILL)
        found = rows.result()
    expected = list(rows_by_threads(plan))
    assert len(found) == len(expected) == 6
    assert all(left.equals(right) for left, right in zip(found, expected, strict=True))
