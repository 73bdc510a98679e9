"""One trial of a search in a Ray worker: the training loop, alone or on workers of its own."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from cluster.session import Session
from cluster.watching import worker_failure
from seg.errors import RequestError, TrainingDiverged
from seg.locks.folder_lock import check_owner
from seg.pack.training_data import TrainingData
from seg.recipe import Recipe, apply_params
from seg.requests import SearchRequest
from seg.search.trials import (
    describe_cause,
    fail_trial,
    note_failure,
    read_params,
    report_of,
    trial_folder,
)
from seg.train.run_folder import read_run
from seg.train.state import Journal
from seg.train.training import Training, TrainingPlan

ROUNDING = 1e-6
"""Ten trials of 0.1 GPUs share one."""
POLL_S = 0.5
"""Between two looks at what a trial's workers have finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResources:
    """What one trial computes on."""

    workers: int
    gpus: float
    """Of the whole trial; 0: it computes on CPUs."""
    cpus: int
    """Of the whole trial."""

    @property
    def threads(self) -> int:
        """CPUs of a worker."""
        return self.cpus // self.workers

    def request(self) -> dict[str, float]:
        """What Ray sets aside for the trial's own process.

        Beside workers, which ask for themselves, it only waits. Tune starts nothing that asks for nothing,
        and what it took of the CPUs its workers might lack: so it asks for a byte of memory.
        """
        if self.workers > 1:
            return {"cpu": 0, "memory": 1}
        return {"cpu": self.cpus, "gpu": self.gpus}


def choose_resources(request: SearchRequest, session: Session) -> TrialResources:
    """What was asked for; else for each worker a CPU and, where there are any, a GPU.

    RequestError: it does not divide among the workers, or there is no such room.
    """
    workers, cpus, gpus = request.workers_per_trial, request.cpus_per_trial, request.gpus_per_trial
    if workers < 1:
        raise RequestError(f"--workers-per-trial is {workers}, below 1; try --workers-per-trial 1")
    cpus = workers if cpus is None else cpus
    if cpus < workers or cpus % workers:
        fitting = max(1, round(cpus / workers)) * workers
        raise RequestError(
            f"--cpus-per-trial {cpus} cannot be shared by {workers} workers; try --cpus-per-trial {fitting}"
        )
    gpus = float(workers if session.gpus_possible else 0) if gpus is None else gpus
    _check_gpus(gpus, workers)
    _check_room(gpus, cpus, session)
    return TrialResources(workers=workers, gpus=gpus, cpus=cpus)


def _check_gpus(gpus: float, workers: int) -> None:
    if not (isfinite(gpus) and gpus >= 0):
        raise RequestError(f"--gpus-per-trial is {gpus:g}, not 0 or more; try --gpus-per-trial 1")
    if workers == 1 and gpus > 1:
        raise RequestError(
            f"--gpus-per-trial {gpus:g}: a trial of one worker uses one; try --workers-per-trial {gpus:.0f}"
        )
    if workers > 1 and gpus not in (0, workers):  # NCCL refuses two ranks on one GPU
        raise RequestError(
            f"--gpus-per-trial {gpus:g}: each of {workers} workers takes a whole one; "
            f"try --gpus-per-trial {workers}"
        )


def _check_room(gpus: float, cpus: int, session: Session) -> None:
    if gpus > session.gpus_possible:
        raise RequestError(
            f"a trial takes {gpus:g} GPUs, but there are {session.gpus_possible}; "
            "lower --gpus-per-trial or --workers-per-trial"
        )
    if cpus > session.cpus and not session.autoscales:
        raise RequestError(
            f"a trial takes {cpus} CPUs, but there are {session.cpus}; "
            "lower --cpus-per-trial or --workers-per-trial"
        )


def count_slots(resources: TrialResources, session: Session) -> int:
    """Trials that fit at a time, where nothing else runs."""
    rooms = [] if session.autoscales else [session.cpus // resources.cpus]
    if resources.gpus >= 1:
        rooms.append(int(session.gpus_possible // resources.gpus))
    elif resources.gpus:
        rooms.append(int(1 / resources.gpus + ROUNDING) * session.gpus_possible)
    return max(1, min(rooms, default=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialJob:
    """What all trials of a search share; plain, so that it travels to them."""

    recipe: Recipe
    data: TrainingData
    seed: int
    folder: Path
    """The search's."""
    resources: TrialResources
    lock: str = ""
    """Token of the folder's lock, while a job holds it."""

    @property
    def trials(self) -> Path:
        """Folder of the trials' folders."""
        return self.folder / "trials"

    def check_owner(self) -> None:
        """LostLock: another job has taken the search over. FileNotFoundError: none has it, it has ended."""
        check_owner(self.folder, self.lock)


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Train trial `config["number"]` to its end, an epoch's mIoU to Tune; a failure is noted in its folder.

    What would fail again, such as a loss that is not finite, fails the trial at once.
    """
    from ray import tune

    folder = trial_folder(job.trials, config["number"])
    try:
        plan = TrainingPlan(
            recipe=apply_params(job.recipe, read_params(folder)),
            data=job.data,
            seed=job.seed,
            folder=folder,
            parent=f"{job.folder.name}/{folder.name}",
            lock=(job.folder, job.lock),
        )
        for row in _train(plan, job):
            tune.report(report_of(row))
    except (RequestError, TrainingDiverged) as error:
        job.check_owner()
        fail_trial(folder, describe_cause(worker_failure(error)))
    except Exception as error:
        job.check_owner()  # a search that ended, or is another job's now, is no failure of the trial
        note_failure(folder, describe_cause(worker_failure(error)))
        raise


def _train(plan: TrainingPlan, job: TrialJob) -> Iterator[dict[str, Any]]:
    """The history's lines as they come; first the last one of an earlier attempt, which Tune may not know."""
    journal = read_run(plan.folder) or Journal()
    yield from journal.history[-1:]
    if journal.is_finished(plan.recipe):
        return
    if job.resources.workers == 1:
        yield from _train_alone(plan, job)
    else:
        yield from _train_together(plan, job.resources, len(journal.history))


def _train_alone(plan: TrainingPlan, job: TrialJob) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(job.resources.threads)
    device = torch.device("cuda" if job.resources.gpus else "cpu")
    training = Training(plan, device, may_write=job.check_owner)
    for result in training.epochs():
        yield result.row()


def _train_together(plan: TrainingPlan, resources: TrialResources, known: int) -> Iterator[dict[str, Any]]:
    """Train on workers of Ray's, from `known` epochs on; they end with this process, so when Tune prunes.

    They do not wait for Tune's answer: epochs of less than a second or two outrun it.
    """
    from cluster.train_workers import WorkerSettings, fit_workers

    settings = WorkerSettings(
        workers=resources.workers, gpus=resources.gpus / resources.workers, threads=resources.threads
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            fit_workers(plan, settings)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    alive = True
    while alive:
        thread.join(POLL_S)
        alive = thread.is_alive()
        rows = (read_run(plan.folder) or Journal()).history[known:]
        known += len(rows)
        yield from rows
    if failures:
        raise failures[0]
