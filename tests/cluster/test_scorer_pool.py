"""Supervision, first with workers that only pretend, then with processes that really die."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import scorer_pool
from cluster.scorer_pool import Limits, ScorerPool, ScoringStalled
from cluster.scorer_workers import (
    Crew,
    Died,
    Event,
    LocalCrew,
    Raised,
    RayCrew,
    Returned,
    Started,
    Told,
)
from cluster.session import Session
from seg.errors import RequestError
from seg.ledger.outcome import Outcome, Quarantined
from seg.recipe import Tiling
from seg.score.blame import InFlight, Note, take_over
from seg.score.deadline import Stopping
from seg.score.queue import Order, ScoreQueue, Task, WorkersKeepDying, find_groups
from seg.score.read import ScorerSettings
from seg.storage import as_place
from tests.cluster.light_scorers import LightScorer, refuse_to_start
from tests.cluster.raising_scorer import RaisingScorer
from tests.conftest import WriteArchive
from tests.outcomes import make_scored
from tests.small import archive_labels, own_processes, write_model

HANGS = None
NEVER = Limits()
NO_SETTINGS: Any = SimpleNamespace(threads=1)
"""Light scorers need no more."""


def to_order(task: Task) -> Order:
    return Order(task.image, task.attempt, task.alone)


class PretendedCrew:
    """Workers that do with each image what `behave` says: an event, or HANGS."""

    is_spoiled_by_errors = False
    can_be_ended = True

    def __init__(self, place: Path, behave: Callable[[str, str, int], Event | None]) -> None:
        self.place, self.behave = as_place(place), behave
        self.notes: dict[str, InFlight] = {}
        self.handed: Counter[str] = Counter()
        self.ended: list[str] = []
        self.events: list[Event] = []

    def start(self, worker: str) -> None:
        self.notes[worker] = InFlight(self.place, worker)
        self.events.append(Started(worker))

    def hand(self, worker: str, order: Order) -> None:
        self.handed[order.image] += 1
        self.notes[worker].begin(order.image, order.attempt, alone=order.alone)
        event = self.behave(worker, order.image, order.attempt)
        if isinstance(event, Returned | Raised):
            self.notes[worker].end(order.image)
        if event is not None:
            self.events.append(event)

    def ask(self, worker: str) -> None:
        notes = self.notes[worker].notes()
        self.events.append(
            Told(worker, {image: note._replace(seconds=100.0) for image, note in notes.items()})
        )

    def wait(self, timeout_s: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def end(self, worker: str) -> list[Event]:
        self.ended.append(worker)
        return []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_pool, "LOOK_EVERY_S", 0.0)


def open_pool(
    crew: Crew, place: Path, images: Sequence[str], *, workers: int = 1, limits: Limits = NEVER
) -> ScorerPool:
    return ScorerPool(
        crew,
        ScoreQueue(find_groups(images, lambda a, b: False), workers=workers),
        to_order,
        workers=workers,
        inflight=as_place(place),
        stopping=Stopping(),
        limits=limits,
    )


def run(pool: ScorerPool) -> dict[str, Outcome]:
    """Outcomes by image, each of which came once."""
    outcomes = [outcome for arrived in pool.outcomes() for outcome in arrived]
    assert max(Counter(outcome.image for outcome in outcomes).values()) == 1
    return {outcome.image: outcome for outcome in outcomes}


def set_aside(outcomes: Iterable[Outcome]) -> dict[str, Quarantined]:
    return {one.image: one for one in outcomes if isinstance(one, Quarantined)}


def scored(worker: str, image: str, attempt: int) -> Event:
    return Returned(worker, make_scored(image, attempt=attempt))


def test_all_images_are_scored_once_by_all_workers(tmp_path: Path) -> None:
    seen: set[str] = set()

    def behave(worker: str, image: str, attempt: int) -> Event:
        seen.add(worker)
        return scored(worker, image, attempt)

    images = [f"{k}.png" for k in range(50)]
    crew = PretendedCrew(tmp_path, behave)
    assert run(open_pool(crew, tmp_path, images, workers=3)).keys() == set(images)
    assert len(seen) == 3
    assert set(crew.handed.values()) == {1}
    assert sorted(crew.ended) == sorted(crew.notes)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_worker_is_replaced_and_its_killer_alone_is_set_aside(tmp_path: Path) -> None:
    def behave(worker: str, image: str, attempt: int) -> Event:
        return Died(worker, "a crash") if image == "7.png" else scored(worker, image, attempt)

    crew = PretendedCrew(tmp_path, behave)
    rows = run(open_pool(crew, tmp_path, [f"{k}.png" for k in range(20)], workers=2))
    assert len(rows) == 20
    (aside,) = set_aside(rows.values()).values()
    assert (aside.image, aside.reason, aside.attempts) == ("7.png", "killed_worker", 2)
    assert crew.handed["7.png"] == 2
    assert len(crew.notes) >= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("impatient")
def test_an_image_in_work_for_too_long_is_ended_and_the_second_time_set_aside(tmp_path: Path) -> None:
    def behave(worker: str, image: str, attempt: int) -> Event | None:
        return HANGS if image == "slow.png" else scored(worker, image, attempt)

    crew = PretendedCrew(tmp_path, behave)
    rows = run(open_pool(crew, tmp_path, ["a.png", "slow.png", "b.png"], limits=Limits(image_s=10)))
    assert rows.keys() == {"a.png", "slow.png", "b.png"}
    (aside,) = set_aside(rows.values()).values()
    assert (aside.image, aside.reason) == ("slow.png", "timeout")
    assert crew.handed["slow.png"] == 2


@pytest.mark.usefixtures("impatient")
def test_an_image_that_takes_too_long_where_nothing_can_be_ended_is_named_once_and_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Endless(PretendedCrew):
        can_be_ended = False
        asked = 0

        def ask(self, worker: str) -> None:
            super().ask(worker)
            self.asked += 1
            if self.asked == 5:
                self.events.append(scored(worker, "slow.png", 1))

    def behave(worker: str, image: str, attempt: int) -> Event | None:
        return HANGS if image == "slow.png" else scored(worker, image, attempt)

    crew = Endless(tmp_path, behave)
    rows = run(open_pool(crew, tmp_path, ["a.png", "slow.png", "b.png"], limits=Limits(image_s=10)))
    assert not set_aside(rows.values())
    assert set(crew.handed.values()) == {1}
    said = capfd.readouterr().err
    assert said.count("slow.png takes longer than 10 s, in stage read, and `workers=0` cannot end it") == 1


@pytest.mark.usefixtures("impatient")
def test_workers_are_started_again_once_where_nothing_moves_then_that_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crew = PretendedCrew(tmp_path, lambda worker, image, attempt: HANGS)
    with pytest.raises(ScoringStalled, match=r"nothing has moved .* a\.png \(read, .* did not help"):
        run(open_pool(crew, tmp_path, ["a.png"], limits=Limits(stall_s=0.05)))
    assert "starting all workers again" in capfd.readouterr().err
    assert crew.handed["a.png"] == 2
    assert take_over(as_place(tmp_path)) == {"a.png": Note("read", 1)}  # tried last, and not to blame


@pytest.mark.usefixtures("impatient")
def test_a_stall_that_a_restart_ends_is_over(tmp_path: Path) -> None:
    hung: set[str] = set()

    def behave(worker: str, image: str, attempt: int) -> Event | None:
        if image in ("a.png", "c.png") and image not in hung:
            hung.add(image)
            return HANGS
        return scored(worker, image, attempt)

    crew = PretendedCrew(tmp_path, behave)
    assert len(run(open_pool(crew, tmp_path, [f"{c}.png" for c in "abcd"], limits=Limits(stall_s=0.05)))) == 4
    assert hung == {"a.png", "c.png"}


def test_storage_that_refuses_ends_the_run_with_its_error_and_blames_no_image(tmp_path: Path) -> None:
    def behave(worker: str, image: str, attempt: int) -> Event | None:
        full = OSError(28, "No space left on device")
        return Raised(worker, image, full) if image == "c.png" else HANGS

    pool = open_pool(PretendedCrew(tmp_path, behave), tmp_path, ["a.png", "b.png", "c.png"])
    with pytest.raises(OSError, match="No space left"):
        run(pool)
    assert {note.attempt for note in take_over(as_place(tmp_path)).values()} == {1}


@pytest.mark.parametrize("error", [RequestError("model x is not there"), RuntimeError("no kernel")])
def test_a_model_that_does_not_load_ends_the_run_with_the_cause(tmp_path: Path, error: Exception) -> None:
    class Unloadable(PretendedCrew):
        def start(self, worker: str) -> None:
            self.notes[worker] = InFlight(self.place, worker)
            self.events.append(Raised(worker, "", error))

    kind = type(error) if isinstance(error, RequestError) else WorkersKeepDying
    with pytest.raises(kind, match=str(error)):
        run(open_pool(Unloadable(tmp_path, scored), tmp_path, ["a.png"], workers=2))


@pytest.fixture
def settings(tmp_path: Path, write_archive: WriteArchive) -> ScorerSettings:
    archive = write_archive(sequences=2, frames=20, size=(64, 64))
    return ScorerSettings(
        archive=as_place(archive / "images"),
        labels=None,
        out=as_place(tmp_path / "out"),
        model=write_model(tmp_path / "model.safetensors"),
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        batch=1,
        precision="float32",
        threads=1,
    )


def images_of(settings: ScorerSettings) -> list[str]:
    return sorted(archive_labels(settings.archive.local().parent))


def inflight(settings: ScorerSettings) -> Path:
    return settings.out.local("inflight")


def test_in_this_process_an_exception_costs_its_image_alone(settings: ScorerSettings) -> None:
    images = images_of(settings)[:6]
    crew = LocalCrew(settings, partial(RaisingScorer, raises=images[2]))
    rows = run(open_pool(crew, inflight(settings), images))
    assert rows.keys() == set(images)
    (aside,) = set_aside(rows.values()).values()
    assert (aside.image, aside.reason) == (images[2], "killed_worker")
    assert "RuntimeError: no kernel for this" in aside.detail
    assert list(inflight(settings).iterdir()) == []


@pytest.mark.ray
def test_real_deaths_cost_the_killers_alone_and_rows_come_once(session: Session, tmp_path: Path) -> None:
    assert session.connected
    images = [f"{k}.png" for k in range(60)]
    scorer = partial(LightScorer, place=as_place(tmp_path), exits="7.png", crashes="40.png")
    pool = open_pool(RayCrew(NO_SETTINGS, make_scorer=scorer), tmp_path, images, workers=2)
    arrived: list[Outcome] = []
    victim = None
    for outcomes in pool.outcomes():
        arrived += outcomes
        if victim is None and len(arrived) >= 20:
            for victim in own_processes("ScoringWorker")[:1]:  # none while another one starts
                os.kill(victim, signal.SIGKILL)  # and this is nobody's fault
    assert victim is not None
    assert Counter(outcome.image for outcome in arrived) == Counter(images)
    aside = set_aside(arrived)
    assert aside.keys() == {"7.png", "40.png"}
    assert {one.reason for one in aside.values()} == {"killed_worker"}
    assert all("stage model" in one.detail for one in aside.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_a_frozen_worker_is_ended_when_its_image_takes_too_long(session: Session, tmp_path: Path) -> None:
    assert session.connected
    scorer = partial(LightScorer, place=as_place(tmp_path), freezes="3.png")
    images = [f"{k}.png" for k in range(10)]
    pool = open_pool(
        RayCrew(NO_SETTINGS, make_scorer=scorer), tmp_path, images, workers=1, limits=Limits(image_s=1.0)
    )
    rows = run(pool)
    assert rows.keys() == set(images)
    (aside,) = set_aside(rows.values()).values()
    assert (aside.image, aside.reason) == ("3.png", "timeout")


@pytest.mark.ray
def test_errors_of_a_start_come_back_as_what_they_are(session: Session, tmp_path: Path) -> None:
    assert session.connected
    with pytest.raises(RequestError, match="the model is not there"):
        run(open_pool(RayCrew(NO_SETTINGS, make_scorer=refuse_to_start), tmp_path, ["a.png"]))


@pytest.mark.ray
def test_a_thousand_images_that_cost_nothing_pass_through(session: Session, tmp_path: Path) -> None:
    assert session.connected
    images = [f"{k}.png" for k in range(1000)]
    scorer = partial(LightScorer, place=None)
    pool = open_pool(RayCrew(NO_SETTINGS, make_scorer=scorer), tmp_path, images, workers=2)
    assert run(pool).keys() == set(images)
