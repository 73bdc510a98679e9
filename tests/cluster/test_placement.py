from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.placement import place_workers
from cluster.session import Session
from cluster.train_workers import WorkerSettings
from seg.errors import RequestError
from seg.recipes import RECIPES
from seg.requests import TrainRequest, Workers, parse_workers

CPUS = Session(8, 0, 0, connected=False)
GPUS = Session(32, 4, 4, connected=True)
GROWING = Session(8, 1, 16, connected=True, cpus_possible=128, autoscales=True)


def place(session: Session, workers: Workers | None = None, **changes: Any) -> WorkerSettings | None:
    return place_workers(TrainRequest(data=Path(), workers=workers, **changes), session)


@pytest.mark.parametrize(
    ("session", "asked", "changes", "workers", "gpus", "threads"),
    [
        (CPUS, 2, {}, 2, 0, 4),
        (CPUS, 3, {}, 3, 0, 2),
        (CPUS, None, {}, 1, 0, 8),
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
    settings = place(session, asked, **changes)
    assert settings is not None
    assert (settings.workers, settings.gpus, settings.threads) == (workers, gpus, threads)


def test_no_workers_are_this_process() -> None:
    assert place(GPUS, 0) is None


def test_without_gpus_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRINGE_WORKERS", "3")
    settings = place(CPUS)
    assert settings is not None
    assert settings.workers == 3


@pytest.mark.parametrize(
    ("session", "asked", "changes", "text"),
    [
        (CPUS, -1, {}, r"^--workers is -1, below 0; try --workers 1$"),
        (
            CPUS,
            2,
            {"cpus_per_worker": 5},
            r"^--workers 2 need 0 GPUs and 10 CPUs; the cluster has 0 GPUs and 8 CPUs; try --workers 1, or ",
        ),
        (GPUS, 5, {}, r"the cluster has 4 GPUs and 32 CPUs; try --workers 4, or --wait for more$"),
        (GPUS, 2, {"cpus_per_worker": 99}, r"lower --gpus-per-worker or --cpus-per-worker, or"),
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
                r"^--gpus-per-worker is (-1|1.5|nan), not 0, a share of a GPU",
            )
            for wrong in (-1.0, 1.5, float("nan"))
        ),
        (
            GROWING,
            32,
            {"recipe": replace(RECIPES["interferogram-small"], batch=99)},
            r"has 1 GPUs and 8 CPUs and can start up to 16 GPUs and 128 CPUs; try --workers 16, or",
        ),
        (CPUS, 2, {"cpus_per_worker": 0}, r"^--cpus-per-worker is 0, below 1; try --cpus-per-worker 1$"),
        (CPUS, 2, {"restarts": -1}, r"^--restarts is -1, below 0; try --restarts 1$"),
        (CPUS, 9, {}, r"^--workers 9 share a batch of 8; try --batch 9$"),
        (CPUS, (2, 9), {}, r"^--workers 9 share a batch of 8; try --batch 9$"),
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
