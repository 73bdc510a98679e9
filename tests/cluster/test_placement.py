import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jobs.run
from cluster.placement import Placement, Room, count_slots, place_scoring, place_training, place_trial
from cluster.session import Session
from seg.errors import RequestError
from seg.recipes import RECIPES
from seg.requests import ScoreRequest, SearchRequest, TrainRequest, Workers, parse_workers
from seg.screen import show_log
from seg.storage import as_place


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRINGE_WORKERS", raising=False)
    monkeypatch.setattr("jobs.run.OPTIONS", {})


CPUS = Session(8, 0, 0, connected=False)
GPUS = Session(32, 4, 4, connected=True)
GROWING = Session(8, 1, 16, connected=True, cpus_possible=128, autoscales=True)


def place(session: Session, workers: Workers | None = None, **changes: Any) -> Placement:
    return place_training(TrainRequest(data=Path(), workers=workers, **changes), session)


@pytest.mark.parametrize(
    ("session", "asked", "changes", "workers", "gpus", "threads"),
    [
        (CPUS, 2, {}, 2, 0, 4),
        (CPUS, 3, {}, 3, 0, 2),
        (CPUS, None, {}, 0, 0, 8),  # this process
        (CPUS, None, {"gpus_per_worker": 0.0}, 0, 0, 8),
        (replace(CPUS, connected=True), None, {}, 1, 0, 8),
        (replace(CPUS, gpus=1, gpus_possible=1), None, {}, 1, 1, 1),
        (CPUS, (2, 4), {}, (2, 4), 0, 2),  # threads for the most, so that all may come
        (CPUS, (3, 3), {}, 3, 0, 2),
        (CPUS, 2, {"cpus_per_worker": 1}, 2, 0, 1),
        (GPUS, None, {}, 4, 1, 1),
        (GPUS, 2, {"cpus_per_worker": 6}, 2, 1, 6),
        (GPUS, 1, {"gpus_per_worker": 0.5}, 1, 0.5, 1),
        (GPUS, 2, {"gpus_per_worker": 0.0}, 2, 0, 16),
    ],
)
def test_workers_get_what_was_asked_or_what_there_is(
    session: Session,
    asked: Workers | None,
    changes: dict[str, Any],
    workers: Workers,
    gpus: float,
    threads: int,
) -> None:
    assert place(session, asked, **changes) == Placement(workers=workers, gpus=gpus, threads=threads)


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_gpus_that_torch_cannot_use_are_refused_unless_cpus_are_asked_for(workers: int | None) -> None:
    session = Session(8, 2, 2, connected=False, fault="the driver is too old")
    sentence = "torch cannot compute on the 2 GPUs of this machine (the driver is too old); mend that, or "
    for field, placing in (
        ("gpus_per_worker", lambda gpus: place(session, workers, gpus_per_worker=gpus)),
        ("gpus_per_trial", lambda gpus: place_trial(SearchRequest(gpus_per_trial=gpus), session)),
    ):
        for gpus in (None, 1.0):
            with pytest.raises(RequestError) as caught:
                placing(gpus)
            assert str(caught.value) == f"{sentence}compute on CPUs, `{field}=0`"
        assert placing(0.0).gpus == 0


ON_A_GPU = """
import os, ray
from cluster.placement import Placement, compute_on
from cluster.session import Session

def look(device):
    held = ray.get_runtime_context().get_assigned_resources()
    return device.type, held["GPU"], len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")), os.getpid()

ray.init(address="local", num_cpus=2, num_gpus=2, log_to_driver=False)
session = Session(2, 2, 2, connected=True)
*found, other = compute_on(Placement(workers=2, gpus=1.0, threads=1), session, look)
process = os.getpid()
print(found, other != process)
for workers, gpus in ((0, 1.0), (0, 0.0), (2, 0.0)):
    placed = Placement(workers=workers, gpus=gpus, threads=1)
    print(*compute_on(placed, session, lambda device: (device.type, os.getpid() == process)))
"""


@pytest.mark.long
@pytest.mark.ray
def test_what_follows_a_jobs_work_is_done_in_a_task_that_holds_a_gpu_where_its_workers_did() -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], capture_output=True, text=True, check=False)
    expected = ["['cuda', 1.0, 1] True", "cuda True", "cpu True", "cpu True"]
    assert done.stdout.splitlines() == expected, done.stderr


HERE_SAID = "--workers: 0, this process: no cluster answers and no GPU is here\n"


def test_what_runs_in_this_process_by_itself_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    jobs.run.OPTIONS["workers"] = "--workers"
    show_log(jobs.run.in_options)
    place(CPUS)
    assert capsys.readouterr().err == HERE_SAID
    place(CPUS, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("images", "options", "session", "workers"),
    [
        (200, {}, CPUS, 0),
        (201, {}, CPUS, 1),
        (2, {"image_timeout_s": 9.0}, CPUS, 1),  # which this process could not keep
        (2, {"image_timeout_s": 0.0}, CPUS, 0),
        (2, {"shard": "crops"}, CPUS, 1),
        (2, {"stages": "apart"}, CPUS, 1),
        (2, {}, replace(CPUS, connected=True), 1),
        (2, {}, replace(CPUS, gpus=1, gpus_possible=1), 1),
    ],
)
def test_a_handful_of_images_is_scored_in_this_process_where_nothing_else_is(
    images: int, options: dict[str, Any], session: Session, workers: int
) -> None:
    assert place_scoring(ask(None, **options), session, images).workers == workers


def test_a_longer_scoring_says_why_it_has_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    place_scoring(ask(None), CPUS, 1201)
    why = "replaced where an image ends it, as 1,201 images are more than 200"
    assert capsys.readouterr().err == f"1 worker, {why}\n"


def test_trials_keep_their_worker() -> None:
    assert place_trial(SearchRequest(), CPUS).workers == 1


def test_no_workers_are_this_process() -> None:
    assert place(GPUS, 0).workers == 0


def test_without_gpus_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRINGE_WORKERS", "3")
    assert place(CPUS).workers == 3
    assert place_scoring(ask(None), CPUS, 2).workers == 3


@pytest.mark.parametrize(
    ("session", "asked", "changes", "text"),
    [
        (CPUS, -1, {}, r"^`workers` is -1, below 0; try `workers=1`$"),
        (
            CPUS,
            2,
            {"cpus_per_worker": 5},
            r"^`workers=2` need 0 GPUs and 10 CPUs; the cluster has 0 GPUs and 8 CPUs; try `workers=1`, or ",
        ),
        (GPUS, 5, {}, r"the cluster has 4 GPUs and 32 CPUs; try `workers=4`, or `wait_minutes` for more$"),
        (GPUS, 2, {"cpus_per_worker": 99}, r"lower `gpus_per_worker` or `cpus_per_worker`, or"),
        (
            GPUS,
            2,
            {"gpus_per_worker": 0.5},
            r"is 0.5, but the workers of one training take a whole GPU each; try",
        ),
        *(
            (
                GPUS,
                2,
                {"gpus_per_worker": wrong},
                r"^`gpus_per_worker` is (-1|1.5|nan), not 0, a share of a GPU",
            )
            for wrong in (-1.0, 1.5, float("nan"))
        ),
        (
            GROWING,
            32,
            {"recipe": replace(RECIPES["interferogram-small"], batch=99)},
            r"has 1 GPUs and 8 CPUs and can start up to 16 GPUs and 128 CPUs; try `workers=16`, or",
        ),
        (CPUS, 2, {"cpus_per_worker": 0}, r"^`cpus_per_worker` is 0, below 1; try `cpus_per_worker=1`$"),
        (CPUS, 2, {"restarts": -1}, r"^`restarts` is -1, below 0; try `restarts=1`$"),
        (CPUS, 9, {}, r"^`workers=9` share a batch of 8; try `batch=9`$"),
        (CPUS, (2, 9), {}, r"^`workers=9` share a batch of 8; try `batch=9`$"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(
    session: Session, asked: Workers, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        place(session, asked, **changes)


@pytest.mark.parametrize(("text", "workers"), [("4", 4), ("0", 0), ("2:8", (2, 8)), ("3:3", (3, 3))])
def test_a_range_of_workers_is_two_numbers(text: str, workers: Workers) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["two", "8:2", "0:2", "2:", ":2", "1:2:3"])
def test_what_is_no_number_and_no_rising_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_workers(text)


def ask(workers: int | None, **options: Any) -> ScoreRequest:
    return ScoreRequest(
        archive=as_place("a"), models=(Path("m"),), out=as_place("o"), workers=workers, **options
    )


@pytest.mark.parametrize(
    ("session", "asked", "chosen"),
    [
        (Session(8, 0, 0, connected=True), None, 1),
        (Session(8, 0, 0, connected=True), 8, 8),
        (Session(8, 4, 4, connected=True), None, 4),
        (Session(8, 4, 4, connected=True), 2, 2),
        (Session(8, 0, 4, connected=True), 4, 4),  # an autoscaler starts them
        (Session(8, 0, 4, connected=True), None, 1),
    ],
)
def test_scorers_are_as_asked_else_one_a_gpu_else_one(
    capsys: pytest.CaptureFixture[str], session: Session, asked: int, chosen: int
) -> None:
    assert place_scoring(ask(asked), session, 1000).workers == chosen
    assert capsys.readouterr().err == f"{chosen} worker{'s' if chosen > 1 else ''}\n"


def test_the_environment_chooses_scorers_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRINGE_WORKERS", "3")
    assert place_scoring(ask(None), Session(8, 0, 0, connected=True), 4).workers == 3
    assert place_scoring(ask(None), Session(2, 0, 0, connected=True), 4).workers == 2
    assert place_scoring(ask(None), Session(8, 2, 2, connected=True), 4).workers == 2
    assert place_scoring(ask(1), Session(8, 0, 0, connected=True), 4).workers == 1


@pytest.mark.parametrize(
    ("session", "asked", "threads", "message"),
    [
        (Session(2, 0, 0, connected=True), 3, 1, "`workers=3`: there are 2 CPUs; try `workers=2`"),
        (Session(64, 2, 2, connected=True), 3, 1, "`workers=3`: there are 2 GPUs; try `workers=2`"),
        (Session(2, 0, 0, connected=True), -1, 1, "`workers` is -1, below 0; try `workers=1`"),
        (
            Session(4, 0, 0, connected=True),
            2,
            3,
            "`workers=2` of 3 threads each: there are 4 CPUs; try `threads=1`",
        ),
    ],
)
def test_more_scorers_than_there_is_room_for_are_refused(
    session: Session, asked: int, threads: int, message: str
) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        place_scoring(ask(asked, threads=threads), session, 4)


HERE = Session(cpus=2, gpus=0, gpus_possible=0, connected=False)
TWO_GPUS = Session(cpus=16, gpus=2, gpus_possible=2, connected=True)
EMPTY = Session(cpus=4, gpus=0, gpus_possible=8, connected=True, autoscales=True)


@pytest.mark.parametrize(
    ("session", "options", "workers", "gpus", "cpus", "slots"),
    [
        (HERE, {}, 1, 0, 1, 2),
        (HERE, {"cpus_per_trial": 2}, 1, 0, 2, 1),
        (HERE, {"workers_per_trial": 2}, 2, 0, 2, 1),
        (TWO_GPUS, {}, 1, 1, 1, 2),
        (TWO_GPUS, {"gpus_per_trial": 0.5}, 1, 0.5, 1, 4),
        (TWO_GPUS, {"gpus_per_trial": 0.6}, 1, 0.6, 1, 2),
        (TWO_GPUS, {"gpus_per_trial": 0.1}, 1, 0.1, 1, 16),
        (TWO_GPUS, {"gpus_per_trial": 0, "cpus_per_trial": 4}, 1, 0, 4, 4),
        (TWO_GPUS, {"workers_per_trial": 2, "cpus_per_trial": 4}, 2, 2, 4, 1),
        (EMPTY, {"cpus_per_trial": 8}, 1, 1, 8, 8),
        (EMPTY, {"workers_per_trial": 2}, 2, 2, 2, 4),
    ],
)
def test_each_trial_gets_its_share_of_the_machine(
    session: Session, options: dict[str, Any], workers: int, gpus: float, cpus: int, slots: int
) -> None:
    placed = place_trial(SearchRequest(**options), session)
    assert (placed.workers, placed.need) == (workers, Room(gpus, cpus))
    assert placed.threads * workers == cpus
    assert count_slots(placed, session) == slots


@pytest.mark.parametrize(
    ("session", "options", "sentence"),
    [
        (HERE, {"workers_per_trial": 0}, "`workers_per_trial` is 0, below 1; try `workers_per_trial=1`"),
        (
            HERE,
            {"cpus_per_trial": 0},
            "`cpus_per_trial=0` cannot be shared by 1 workers; try `cpus_per_trial=1`",
        ),
        (
            TWO_GPUS,
            {"cpus_per_trial": 3, "workers_per_trial": 2},
            "`cpus_per_trial=3` cannot be shared by 2 workers; try `cpus_per_trial=4`",
        ),
        (TWO_GPUS, {"gpus_per_trial": -1}, "`gpus_per_trial` is -1, not 0 or more; try `gpus_per_trial=1`"),
        (
            TWO_GPUS,
            {"gpus_per_trial": float("nan")},
            "`gpus_per_trial` is nan, not 0 or more; try `gpus_per_trial=1`",
        ),
        (
            TWO_GPUS,
            {"gpus_per_trial": 2},
            "`gpus_per_trial=2`: a trial of one worker uses one; try `workers_per_trial=2`",
        ),
        (
            TWO_GPUS,
            {"gpus_per_trial": 1, "workers_per_trial": 2},
            "`gpus_per_trial=1`: each of 2 workers takes a whole one; try `gpus_per_trial=2`",
        ),
        (
            HERE,
            {"gpus_per_trial": 1},
            "a trial takes 1 GPUs, but there are 0; lower `gpus_per_trial` or `workers_per_trial`",
        ),
        (
            HERE,
            {"workers_per_trial": 3},
            "a trial takes 3 CPUs, but there are 2; lower `cpus_per_trial` or `workers_per_trial`",
        ),
    ],
)
def test_a_share_that_there_is_not_or_that_does_not_divide_is_refused(
    session: Session, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        place_trial(SearchRequest(**options), session)
    assert str(caught.value) == sentence
