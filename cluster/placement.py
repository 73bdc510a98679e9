"""How many workers a training gets, what each computes on, and waiting for room in the cluster."""

import threading
from dataclasses import dataclass
from math import ceil, floor

from cluster.session import Session, workers_from_environment
from cluster.train_workers import WorkerSettings
from seg.errors import RequestError
from seg.progress import progress
from seg.requests import TrainRequest
from seg.screen import say

AUTOSCALER_MINUTES = 15.0
"""How long a cluster that starts nodes is waited for, where nothing else is said."""
POLL_S = 1.0


def place_workers(request: TrainRequest, session: Session) -> WorkerSettings | None:
    """The workers that a training gets, as asked or by what there is; None: this process alone.

    RequestError: the request is impossible here, whatever the cluster still starts.
    """
    _check_counts(request)
    if request.workers == 0:
        return None
    gpus = session.gpus_of_worker(request.gpus_per_worker)
    fewest, most = _count(request, session, gpus)
    if most > 1 and 0 < gpus < 1:  # NCCL refuses two ranks on one GPU
        raise RequestError(
            f"--gpus-per-worker is {gpus:g}, but the workers of one training take a whole GPU each; "
            "try --gpus-per-worker 1"
        )
    share = max(1, max(session.cpus, session.cpus_possible) // most)
    threads = request.cpus_per_worker or (1 if gpus else share)
    settings = WorkerSettings(
        workers=fewest if fewest == most else (fewest, most),
        gpus=gpus,
        threads=threads,
        restarts=request.restarts,
        timeout_s=60 * request.stall_minutes,
    )
    _find_room(settings, session, request.wait_minutes)
    say(_describe(fewest, most))
    return settings


def _check_counts(request: TrainRequest) -> None:
    for option, count, least in (
        ("cpus-per-worker", request.cpus_per_worker, 1),
        ("restarts", request.restarts, 0),
        ("stall-minutes", request.stall_minutes, 0.01),
    ):
        if count is not None and count < least:
            raise RequestError(f"--{option} is {count:g}, below {least:g}; try --{option} {max(1, least)}")


def _count(request: TrainRequest, session: Session, gpus: float) -> tuple[int, int]:
    asked, batch = request.workers, request.recipe.batch
    if asked is None:
        room = floor(session.gpus / gpus) if gpus else 0
        asked = min(room or workers_from_environment(), batch)
    fewest, most = asked if isinstance(asked, tuple) else (asked, asked)
    if fewest < 1:
        raise RequestError(f"--workers is {fewest}, below 0; try --workers 1")
    if most > batch:
        raise RequestError(f"--workers {most} share a batch of {batch}; try --batch {most}")
    return fewest, most


def _describe(fewest: int, most: int) -> str:
    if fewest != most:
        return f"{fewest} to {most} workers"
    return "1 worker" if most == 1 else f"{most} workers"


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs and CPUs of a cluster, or that workers need."""

    gpus: float
    cpus: float

    def holds(self, need: "Room") -> bool:
        """Whether what is needed fits, all nodes taken together."""
        return need.gpus <= self.gpus and need.cpus <= self.cpus

    def text(self) -> str:
        """Both in words."""
        return f"{self.gpus:g} GPUs and {self.cpus:g} CPUs"


def _need(settings: WorkerSettings) -> Room:
    fewest = settings.workers[0] if isinstance(settings.workers, tuple) else settings.workers
    return Room(fewest * settings.gpus, fewest * settings.threads)


def _find_room(settings: WorkerSettings, session: Session, asked_minutes: float | None) -> None:
    """Return once the cluster has room for the fewest workers. RequestError: it has, or will have, none."""
    need = _need(settings)
    if Room(session.gpus, session.cpus).holds(need):
        return
    minutes = (AUTOSCALER_MINUTES if session.autoscales else 0.0) if asked_minutes is None else asked_minutes
    possible = Room(session.gpus_possible, max(session.cpus, session.cpus_possible))
    hopeless = session.autoscales and not possible.holds(need)
    if hopeless or not session.connected or minutes <= 0:
        raise _refusal(settings, session, possible)
    say(f"waiting up to {minutes:g} min for {need.text()}")
    if not _wait_for_room(settings, session, 60 * minutes):
        raise _refusal(settings, session, possible, f" after {minutes:g} min")


def _wait_for_room(settings: WorkerSettings, session: Session, wait_s: float) -> bool:
    """Ask the autoscaler for nodes and look each second; whether they came. Updates the session."""
    import ray
    from ray.autoscaler.sdk import request_resources

    need, pause = _need(settings), threading.Event()
    each = {"CPU": settings.threads} | ({"GPU": settings.gpus} if settings.gpus else {})
    request_resources(bundles=[each] * round(need.cpus / settings.threads))
    try:
        with progress("waiting for nodes", ceil(wait_s)) as advance:
            for _ in range(ceil(wait_s / POLL_S)):
                found = ray.cluster_resources()
                session.cpus, session.gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
                if Room(session.gpus, session.cpus).holds(need):
                    return True
                pause.wait(POLL_S)
                advance(1, f"{Room(session.gpus, session.cpus).text()} are there")
        return False
    finally:
        request_resources(bundles=[])  # what runs then holds its nodes by itself


def _refusal(settings: WorkerSettings, session: Session, possible: Room, when: str = "") -> RequestError:
    need = _need(settings)
    fit = floor(possible.cpus / settings.threads)
    if settings.gpus:
        fit = min(fit, floor(possible.gpus / settings.gpus))
    can = f" and can start up to {possible.text()}" if session.autoscales else ""
    mend = f"try --workers {fit}" if fit else "lower --gpus-per-worker or --cpus-per-worker"
    return RequestError(
        f"--workers {need.cpus / settings.threads:g} need {need.text()}; the cluster has "
        f"{Room(session.gpus, session.cpus).text()}{can}{when}; {mend}, or --wait for more"
    )
