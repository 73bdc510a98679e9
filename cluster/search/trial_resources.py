"""What each trial of a search computes on, and how many trials run at a time."""

from dataclasses import dataclass
from math import isfinite

from cluster.requests import SearchRequest
from cluster.session import Session
from seg.errors import RequestError

ROUNDING = 1e-6
"""Ten trials of 0.1 GPUs share one."""


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
