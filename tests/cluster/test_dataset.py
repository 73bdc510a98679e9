"""Rounds of a dataset, with stages that have no model: whatever dies, each image has one outcome."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import score_stages
from cluster.placement import Operator, Stages
from cluster.score import DatasetSource, ScoringStalled, end_processes
from cluster.session import Session
from seg.errors import RequestError, StoppedBy
from seg.ledger.outcome import Outcome, Quarantined
from seg.recipe import Tiling
from seg.score.blame import take_over
from seg.score.deadline import Stopping
from seg.score.limits import Limits
from seg.score.parcels import Mark
from seg.score.queue import Order, ScoreQueue, Task, WorkersKeepDying, find_groups
from seg.score.read import ScorerSettings
from seg.storage import Place, as_place
from tests.cluster.light_stages import LIGHT, DiesLoading, Unloadable
from tests.small import own_processes, wait_until

pytestmark = pytest.mark.ray

TOGETHER = Stages((Operator(name="score", processes=2, cpus=0.5, calls=2, ahead=3),))
APART = Stages(
    (
        Operator(name="read", processes=1, cpus=0.3),
        Operator(name="predict", processes=2, cpus=0.3, ahead=3),
        Operator(name="finish", processes=1, cpus=0.3),
    )
)
Open = Callable[..., DatasetSource]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "inflight").mkdir()
    return as_place(tmp_path)


@pytest.fixture
def open_source(place: Place, session: Session, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens one over images of these names, in parcels of four."""
    assert session.connected
    monkeypatch.setattr(score_stages, "STAGES", LIGHT)
    monkeypatch.setattr(DatasetSource, "parcel_size", lambda self, images: 4)
    settings = ScorerSettings(
        archive=place,
        labels=None,
        out=place,
        models=(),
        tiling=Tiling(),
        batch=1,
        precision="float32",
        threads=1,
    )

    def to_order(task: Task) -> Order:
        return Order(task.image, task.attempt, task.alone)

    def open_one(
        images: Sequence[str],
        stages: Stages = TOGETHER,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        stopping: Stopping | None = None,
    ) -> DatasetSource:
        plan: Any = SimpleNamespace(out=place, settings=settings, card=None, order=to_order)
        queue = ScoreQueue(find_groups(images, lambda one, other: False), workers=2)
        return DatasetSource(plan, queue, stopping or Stopping(), limits=limits, stages=stages, device="cpu")

    return open_one


def run(source: DatasetSource) -> dict[str, Outcome]:
    """Outcomes by image, each of which came once."""
    outcomes = [outcome for arrived in source.outcomes() for outcome in arrived]
    assert max(Counter(outcome.image for outcome in outcomes).values()) == 1
    return {outcome.image: outcome for outcome in outcomes}


def set_aside(outcomes: dict[str, Outcome]) -> dict[str, Quarantined]:
    return {image: one for image, one in outcomes.items() if isinstance(one, Quarantined)}


def inflight(place: Place) -> list[str]:
    return place.below("inflight").names()


@pytest.mark.parametrize(
    "stages", [TOGETHER, pytest.param(APART, marks=pytest.mark.long)], ids=["together", "apart"]
)
def test_deaths_in_any_stage_cost_the_killers_alone_and_rows_come_once(
    open_source: Open, place: Place, stages: Stages, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = {"exit-model.png", "crash-model.png", "raise-model.png"}
    if stages is APART:
        bad |= {"exit-read.png", "exit-write.png", "raise-read.png", "raise-write.png"}
    images = [f"{k}.png" for k in range(40)]
    for number, image in enumerate(sorted(bad)):
        images.insert(6 * number, image)
    rows = run(open_source(images, stages))
    assert rows.keys() == set(images)
    aside = set_aside(rows)
    assert aside.keys() == bad
    for image, one in aside.items():
        assert (one.reason, one.attempts) == ("killed_worker", 2)
        stage = image.removesuffix(".png").partition("-")[2]
        assert f"in stage {stage}: " in one.detail
        assert ("no kernel for this" in one.detail) == image.startswith("raise")
    assert inflight(place) == []
    said = capfd.readouterr().err
    assert "with exit-model.png in work; another one takes its place" in said


@pytest.mark.long
def test_a_process_that_is_killed_costs_no_image_more_than_a_second_try(
    open_source: Open, place: Place
) -> None:
    images = [f"{k}.png" for k in range(400)]
    arrived: list[Outcome] = []
    victims: set[int] = set()
    source = open_source(images)
    for outcomes in source.outcomes():
        arrived += outcomes
        if len(victims) < 3 and len(arrived) >= 40 * (len(victims) + 1):
            for victim in [one for one in own_processes("ray::MapWorker") if one not in victims][:1]:
                victims.add(victim)
                os.kill(victim, signal.SIGKILL)
    assert len(victims) == 3
    assert Counter(outcome.image for outcome in arrived) == Counter(images)
    assert not [one for one in arrived if isinstance(one, Quarantined)]
    assert inflight(place) == []


@pytest.mark.long
@pytest.mark.parametrize("does", ["hang", "freeze"])
def test_a_process_that_hangs_or_stands_still_is_ended_when_its_image_takes_too_long(
    open_source: Open, place: Place, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.score.watch.FROZEN_S", 1.0)
    ended: list[Mark] = []

    def end_and_note(marks: Iterable[Mark]) -> None:
        end_processes(found := list(marks))
        ended.extend(found)

    monkeypatch.setattr("cluster.score.end_processes", end_and_note)
    images = [f"{k}.png" for k in range(10)]
    images.insert(3, f"{does}-model.png")
    rows = run(open_source(images, limits=Limits(image_s=1.0)))
    assert rows.keys() == set(images)
    (aside,) = set_aside(rows).values()
    assert (aside.image, aside.reason) == (f"{does}-model.png", "timeout")
    assert inflight(place) == []
    assert len(set(ended)) == len(ended)  # to end one starts another, whose start may take long


@pytest.mark.long
def test_workers_are_started_again_once_where_nothing_moves_then_that_is_said(
    open_source: Open, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ScoringStalled, match=r"nothing has moved .* hang-model\.png \(model, .* did not help"
    ):
        run(open_source(["hang-model.png"], limits=Limits(stall_s=3.0)))
    assert capfd.readouterr().err.count("starting all workers again") == 1
    (note,) = take_over(place.below("inflight")).items()
    assert note[0] == "hang-model.png"
    assert note[1].attempt == 1  # tried last, and not to blame


@pytest.mark.long
def test_storage_that_refuses_ends_the_run_with_its_error_and_blames_no_image(
    open_source: Open, place: Place
) -> None:
    images = [f"{k}.png" for k in range(20)]
    images.insert(9, "full-model.png")
    with pytest.raises(OSError, match="No space left"):
        run(open_source(images))
    assert {note.attempt for note in take_over(place.below("inflight")).values()} <= {1}


@pytest.mark.long
def test_errors_of_a_start_come_back_as_what_they_are(
    open_source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_stages, "STAGES", {"score": Unloadable})
    with pytest.raises(RequestError, match=r"^the model is not there$"):
        run(open_source(["a.png"]))


@pytest.mark.long
def test_processes_that_die_before_they_have_a_model_end_the_run(
    open_source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_stages, "STAGES", {"score": DiesLoading})
    with pytest.raises(WorkersKeepDying, match="died before they began an image"):
        run(open_source(["a.png"]))


@pytest.mark.long
def test_a_scoring_that_is_to_stop_ends_soon_and_what_was_not_begun_is_left(
    open_source: Open, place: Place
) -> None:
    images, stopping = [f"{k}.png" for k in range(3000)], Stopping()
    source, arrived = open_source(images, stopping=stopping), 0
    for outcomes in source.outcomes():
        arrived += len(outcomes)
        if arrived > 100:
            stopping.asked = StoppedBy.INTERRUPT
    assert 100 < arrived < 3000
    assert source.queue.stopped
    assert not source.queue.is_complete
    assert inflight(place) == []
    wait_until(lambda: not own_processes("ray::MapWorker"), "the end of the stages")


@pytest.mark.long
def test_a_thousand_images_that_cost_nothing_pass_through(open_source: Open) -> None:
    images = [f"{k}.png" for k in range(1000)]
    assert run(open_source(images)).keys() == set(images)
