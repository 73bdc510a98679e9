from typing import Any

import pytest

from cluster.session import Session
from cluster.trials import TrialResources, choose_resources, count_slots
from seg.errors import RequestError
from seg.requests import SearchRequest

HERE = Session(cpus=2, gpus=0, gpus_possible=0, connected=False)
GPUS = Session(cpus=16, gpus=2, gpus_possible=2, connected=True)
GROWING = Session(cpus=4, gpus=0, gpus_possible=8, connected=True, autoscales=True)


@pytest.mark.parametrize(
    ("session", "options", "workers", "gpus", "cpus", "slots"),
    [
        (HERE, {}, 1, 0, 1, 2),
        (HERE, {"cpus_per_trial": 2}, 1, 0, 2, 1),
        (HERE, {"workers_per_trial": 2}, 2, 0, 2, 1),
        (GPUS, {}, 1, 1, 1, 2),
        (GPUS, {"gpus_per_trial": 0.5}, 1, 0.5, 1, 4),
        (GPUS, {"gpus_per_trial": 0.6}, 1, 0.6, 1, 2),
        (GPUS, {"gpus_per_trial": 0.1}, 1, 0.1, 1, 16),
        (GPUS, {"gpus_per_trial": 0, "cpus_per_trial": 4}, 1, 0, 4, 4),
        (GPUS, {"workers_per_trial": 2, "cpus_per_trial": 4}, 2, 2, 4, 1),
        (GROWING, {"cpus_per_trial": 8}, 1, 1, 8, 8),
        (GROWING, {"workers_per_trial": 2}, 2, 2, 2, 4),
    ],
)
def test_each_trial_gets_its_share_of_the_machine(
    session: Session, options: dict[str, Any], workers: int, gpus: float, cpus: int, slots: int
) -> None:
    resources = choose_resources(SearchRequest(**options), session)
    assert resources == TrialResources(workers=workers, gpus=gpus, cpus=cpus)
    assert resources.threads * workers == cpus
    assert count_slots(resources, session) == slots


@pytest.mark.parametrize(
    ("session", "options", "sentence"),
    [
        (HERE, {"workers_per_trial": 0}, "--workers-per-trial is 0, below 1; try --workers-per-trial 1"),
        (
            HERE,
            {"cpus_per_trial": 0},
            "--cpus-per-trial 0 cannot be shared by 1 workers; try --cpus-per-trial 1",
        ),
        (
            GPUS,
            {"cpus_per_trial": 3, "workers_per_trial": 2},
            "--cpus-per-trial 3 cannot be shared by 2 workers; try --cpus-per-trial 4",
        ),
        (GPUS, {"gpus_per_trial": -1}, "--gpus-per-trial is -1, not 0 or more; try --gpus-per-trial 1"),
        (
            GPUS,
            {"gpus_per_trial": float("nan")},
            "--gpus-per-trial is nan, not 0 or more; try --gpus-per-trial 1",
        ),
        (
            GPUS,
            {"gpus_per_trial": 2},
            "--gpus-per-trial 2: a trial of one worker uses one; try --workers-per-trial 2",
        ),
        (
            GPUS,
            {"gpus_per_trial": 1, "workers_per_trial": 2},
            "--gpus-per-trial 1: each of 2 workers takes a whole one; try --gpus-per-trial 2",
        ),
        (
            HERE,
            {"gpus_per_trial": 1},
            "a trial takes 1 GPUs, but there are 0; lower --gpus-per-trial or --workers-per-trial",
        ),
        (
            HERE,
            {"workers_per_trial": 3},
            "a trial takes 3 CPUs, but there are 2; lower --cpus-per-trial or --workers-per-trial",
        ),
    ],
)
def test_a_share_that_there_is_not_or_that_does_not_divide_is_refused(
    session: Session, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        choose_resources(SearchRequest(**options), session)
    assert str(caught.value) == sentence
