"""How many processes a job gets, what each computes on, and waiting for room in the cluster."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite
from typing import TYPE_CHECKING, TypeVar

from cluster.session import Session
from seg.errors import RequestError
from seg.progress import progress
from seg.requests import ScoreRequest, SearchRequest, TrainRequest, Workers

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")

AUTOSCALER_MINUTES = 15.0
"""How long a cluster that starts nodes is waited for, where nothing else is said."""
POLL_S = 1.0
HANDFUL = 200
"""Images of a scoring that this process does by itself; of more, one that crashes it would cost a night."""
SHARES_EACH = 4
"""Shares of an image for each worker, so that they end together."""
ROUNDING = 1e-6
"""Ten trials of 0.1 GPUs share one."""


@dataclass(frozen=True, slots=True)
class Room:
    """GPUs and CPUs of a cluster, or that processes need."""

    gpus: float
    cpus: int

    def holds(self, need: "Room") -> bool:
        """Whether what is needed fits, all nodes taken together."""
        return need.gpus <= self.gpus and need.cpus <= self.cpus

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs and {self.cpus:g} CPUs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The processes of a job, or of one trial of a search, and what each computes on."""

    workers: Workers
    """0: this process."""
    gpus: float
    """Of each; 0: they compute on CPUs."""
    threads: int
    """CPUs of each."""

    @property
    def most(self) -> int:
        """Workers, where there is room for all."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    @property
    def need(self) -> Room:
        """What the fewest of them take."""
        fewest = self.workers[0] if isinstance(self.workers, tuple) else self.workers
        return Room(fewest * self.gpus, fewest * self.threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a request says of its workers; None: what there is decides."""

    workers: Workers | None
    gpus: float | None
    """Of each."""
    threads: int | None
    """CPUs of each."""
    work_for: int | None = None
    """Workers that find work; None: one a CPU does, where there are no GPUs."""
    in_process: bool = False
    """Whether this process will do where nothing else is: neither cluster nor GPU, nor $FRINGE_WORKERS."""
    gpus_field: str = "gpus_per_worker"
    """The request's field of `gpus`."""


def place(asked: Asked, session: Session) -> Placement:
    """What was asked for; else a worker for each GPU, else $FRINGE_WORKERS, else 1, or this process.

    Each has a GPU where there are any, and beside it one CPU, else its share of the CPUs. RequestError: no
    number of workers, no share of a GPU, or GPUs that torch cannot use.
    """
    if session.fault and asked.gpus != 0:
        raise RequestError(
            f"torch cannot compute on the {session.gpus} GPUs of this machine ({session.fault}); mend that, "
            f"or compute on CPUs, `{asked.gpus_field}=0`"
        )
    workers = asked.workers
    if workers is None and asked.in_process and not asked.gpus and is_bare(session):
        log.info("`workers`: 0, this process: no cluster answers and no GPU is here")
        workers = 0
    if workers == 0:
        gpus = float(session.gpus > 0 and asked.gpus != 0)
        return Placement(workers=0, gpus=gpus, threads=asked.threads or session.cpus)
    gpus = float(session.gpus_possible > 0) if asked.gpus is None else asked.gpus
    if not 0 <= gpus <= 1:
        raise RequestError(
            f"`gpus_per_worker` is {gpus:g}, not 0, a share of a GPU (0.5) or 1; try `gpus_per_worker=1`"
        )
    if workers is None:
        here = floor(session.gpus / gpus) if gpus else 0
        workers = min(here or workers_from_environment(), asked.work_for or max(session.cpus, here))
    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    if fewest < 1:
        raise RequestError(f"`workers` is {fewest}, below 0; try `workers=1`")
    share = max(1, max(session.cpus, session.cpus_possible) // most)
    return Placement(
        workers=fewest if fewest == most else (fewest, most),
        gpus=gpus,
        threads=asked.threads or (1 if gpus else share),
    )


def is_bare(session: Session) -> bool:
    """Whether nothing says where to work: no cluster answers, no GPU is here, $FRINGE_WORKERS is unset."""
    return not (session.connected or session.gpus_possible or "FRINGE_WORKERS" in os.environ)


def workers_from_environment() -> int:
    """$FRINGE_WORKERS, else 1. RequestError: it is no number of workers."""
    text = os.environ.get("FRINGE_WORKERS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(f"FRINGE_WORKERS is {text!r}, not a number of workers; set it to 1, or unset it")
    return int(text)


def place_scoring(request: ScoreRequest, session: Session, images: int) -> Placement:
    """The workers of a scoring of so many images, said on screen.

    A handful is this process's, where nothing else is; more have a worker, which is replaced where an image
    ends it. RequestError: Ray would wait for their room without end.
    """
    wants_worker = request.image_timeout_s or request.shard == "crops" or request.stages == "apart"
    asked = Asked(
        workers=request.workers,
        gpus=request.gpus_per_worker,
        threads=request.threads,
        in_process=images <= HANDFUL and not wants_worker,
    )
    placed = place(asked, session)
    workers, gpus = placed.most, placed.gpus
    if not workers:
        return placed
    cpus, threads = session.cpus, request.threads
    if gpus and workers > (fit := floor(session.gpus_possible / gpus)):
        room = f"there are {session.gpus_possible} GPUs" + (f", {gpus:g} each" if gpus != 1 else "")
        mend = f"`workers={fit}`" if fit else "`gpus_per_worker=0`"
        raise RequestError(f"`workers={workers}`: {room}; try {mend}")
    if not gpus and workers > cpus:
        raise RequestError(f"`workers={workers}`: there are {cpus} CPUs; try `workers={cpus}`")
    if not gpus and workers * threads > cpus:
        raise RequestError(
            f"`workers={workers}` of {threads} threads each: there are {cpus} CPUs; try `threads=1`"
        )
    many = request.workers is None and images > HANDFUL and is_bare(session)
    why = f", replaced where an image ends it, as {images:,} images are more than {HANDFUL}" if many else ""
    log.info(_describe(placed) + why)
    return placed


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """Processes of one stage of a scoring, all alike."""

    name: str
    """Key of cluster.score_stages.STAGES."""
    processes: int
    cpus: float
    """Of each."""
    gpus: float = 0.0
    calls: int = 1
    """Parcels that each works at."""
    ahead: int = 2
    """Parcels that each has, at most."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a scoring's processes do: each all of it, or each a stage."""

    operators: tuple[Operator, ...]
    shares: int = 1
    """Works that each image is divided into, so that several processes predict it."""

    @property
    def _with_model(self) -> Operator:
        return next(one for one in self.operators if one.name in ("score", "predict"))

    @property
    def predictors(self) -> int:
        """Processes that have a model."""
        return self._with_model.processes

    @property
    def processes(self) -> dict[str, int]:
        """Of each stage, by the name that a mark has."""
        marks = {"score": "model", "read": "read", "predict": "model", "finish": "write"}
        return {marks[one.name]: one.processes for one in self.operators}

    @property
    def lanes(self) -> dict[str, int] | None:
        """Threads of each stage; None: each process has all stages."""
        if len(self.operators) == 1:
            return None
        return self.processes | {"decode": self.processes["read"]}

    def alone(self) -> "Stages":
        """The same for images that are to be alone: one process, with one at a time."""
        return Stages((replace(self._with_model, name="score", processes=1, calls=1, ahead=1),))

    def __str__(self) -> str:
        if len(self.operators) == 1:
            return f"{self.predictors} processes that read, predict and write"
        return ", ".join(f"{one.processes} that {one.name}" for one in self.operators)


def place_stages(request: ScoreRequest, placed: Placement, session: Session) -> Stages:
    """Together in each worker; or apart, reading and writing on the CPUs that the workers leave.

    Apart is for GPUs, which any CPU then feeds. On CPUs alone together is as fast, and starts sooner
    (bench/results).
    """
    workers, threads = max(1, placed.most), request.threads
    shared = request.shard == "crops"
    apart = shared or (placed.gpus > 0 if request.stages == "auto" else request.stages == "apart")
    if not apart:
        score = Operator(name="score", processes=workers, cpus=threads, gpus=placed.gpus, calls=2, ahead=3)
        return Stages((score,))
    left = max(0, session.cpus - workers * threads)
    finishers = 1 if shared else max(1, left // 4)  # one, which puts all shares of an image together
    readers = max(1, left - finishers)
    cpus = min(1.0, left / (readers + finishers))
    cores = 0 if placed.gpus else threads  # beside a GPU none that Ray counts: readers may have them all
    return Stages(
        (
            Operator(name="read", processes=readers, cpus=cpus, calls=2),
            Operator(name="predict", processes=workers, cpus=cores, gpus=placed.gpus, calls=2, ahead=3),
            # without a CPU of its own, so that it has a place also where a node with many is gone
            Operator(name="finish", processes=finishers, cpus=0, calls=1 if shared else 2),
        ),
        SHARES_EACH * workers if shared else 1,
    )


def place_trial(request: SearchRequest, session: Session) -> Placement:
    """What one trial of a search computes on: by default a CPU and, where there are any, a GPU a worker.

    RequestError: it does not divide among the workers, or there is no such room.
    """
    workers, cpus, gpus = request.workers_per_trial, request.cpus_per_trial, request.gpus_per_trial
    if workers < 1:
        raise RequestError(f"`workers_per_trial` is {workers}, below 1; try `workers_per_trial=1`")
    cpus = workers if cpus is None else cpus
    if cpus < workers or cpus % workers:
        fitting = max(1, round(cpus / workers)) * workers
        raise RequestError(
            f"`cpus_per_trial={cpus}` cannot be shared by {workers} workers; try `cpus_per_trial={fitting}`"
        )
    if gpus is not None:
        _check_gpus(gpus, workers)
        gpus /= workers
    asked = Asked(workers=workers, gpus=gpus, threads=cpus // workers, gpus_field="gpus_per_trial")
    placed = place(asked, session)
    need = placed.need
    if need.gpus > session.gpus_possible:
        raise RequestError(
            f"a trial takes {need.gpus:g} GPUs, but there are {session.gpus_possible}; "
            "lower `gpus_per_trial` or `workers_per_trial`"
        )
    if need.cpus > session.cpus and not session.autoscales:
        raise RequestError(
            f"a trial takes {need.cpus} CPUs, but there are {session.cpus}; "
            "lower `cpus_per_trial` or `workers_per_trial`"
        )
    return placed


def _check_gpus(gpus: float, workers: int) -> None:
    if not (isfinite(gpus) and gpus >= 0):
        raise RequestError(f"`gpus_per_trial` is {gpus:g}, not 0 or more; try `gpus_per_trial=1`")
    if workers == 1 and gpus > 1:
        raise RequestError(
            f"`gpus_per_trial={gpus:g}`: a trial of one worker uses one; try `workers_per_trial={gpus:.0f}`"
        )
    if workers > 1 and gpus not in (0, workers):  # NCCL refuses two ranks on one GPU
        raise RequestError(
            f"`gpus_per_trial={gpus:g}`: each of {workers} workers takes a whole one; "
            f"try `gpus_per_trial={workers}`"
        )


def count_slots(trial: Placement, session: Session) -> int:
    """Trials that fit at a time, where nothing else runs."""
    need = trial.need
    rooms = [] if session.autoscales else [session.cpus // need.cpus]
    if need.gpus >= 1:
        rooms.append(int(session.gpus_possible // need.gpus))
    elif need.gpus:
        rooms.append(int(1 / need.gpus + ROUNDING) * session.gpus_possible)
    return max(1, min(rooms, default=1))


def compute_on(placed: Placement, session: Session, work: Callable[["torch.device"], Result]) -> Result:
    """What `work` gives on what a job's workers compute on: a GPU in a task that holds one, else here.

    A GPU that nobody set aside for this process may be another job's. RequestError: as `work` raised it.
    """
    import torch

    device = torch.device("cuda" if placed.gpus else "cpu")
    if not (placed.gpus and placed.workers):
        return work(device)
    session.start()
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(ray.remote(num_cpus=1, num_gpus=placed.gpus)(work).remote(device))
    except RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise error.cause from None
        raise


def place_training(request: TrainRequest, session: Session) -> Placement:
    """The workers of a training, said on screen, once there is room for them.

    RequestError: the request is impossible here, whatever the cluster still starts.
    """
    for name, least in (("cpus_per_worker", 1), ("restarts", 0), ("stall_minutes", 0.01)):
        count = getattr(request, name)
        if count is not None and count < least:
            raise RequestError(f"`{name}` is {count:g}, below {least:g}; try `{name}={max(1, least)}`")
    batch = request.recipe.batch if request.batch_per_worker is None else None  # else it follows the workers
    threads = request.cpus_per_worker
    asked = Asked(
        workers=request.workers,
        gpus=request.gpus_per_worker,
        threads=threads,
        work_for=batch,
        in_process=True,
    )
    placed = place(asked, session)
    if not placed.workers:
        return placed
    if batch is not None and placed.most > batch:
        raise RequestError(f"`workers={placed.most}` share a batch of {batch}; try `batch={placed.most}`")
    if placed.most > 1 and 0 < placed.gpus < 1:  # NCCL refuses two ranks on one GPU
        raise RequestError(
            f"`gpus_per_worker` is {placed.gpus:g}, but the workers of one training take a whole GPU each; "
            "try `gpus_per_worker=1`"
        )
    _find_room(placed, session, request.wait_minutes)
    log.info(_describe(placed))
    return placed


def _describe(placed: Placement) -> str:
    if isinstance(placed.workers, tuple):
        return "{} to {} workers".format(*placed.workers)
    return "1 worker" if placed.workers == 1 else f"{placed.workers} workers"


def _find_room(placed: Placement, session: Session, asked_minutes: float | None) -> None:
    """Return once the cluster has room for the fewest workers. RequestError: it has, or will have, none."""
    need = placed.need
    if Room(session.gpus, session.cpus).holds(need):
        return
    minutes = (AUTOSCALER_MINUTES if session.autoscales else 0.0) if asked_minutes is None else asked_minutes
    possible = Room(session.gpus_possible, max(session.cpus, session.cpus_possible))
    hopeless = session.autoscales and not possible.holds(need)
    if hopeless or not session.connected or minutes <= 0:
        raise _refusal(placed, session, possible)
    log.info(f"waiting up to {minutes:g} min for {need}")
    if not _wait_for_room(placed, session, 60 * minutes):
        raise _refusal(placed, session, possible, f" after {minutes:g} min")


def _wait_for_room(placed: Placement, session: Session, wait_s: float) -> bool:
    """Ask the autoscaler for nodes and look each second; whether they came. Updates the session."""
    import ray
    from ray.autoscaler.sdk import request_resources

    need, pause = placed.need, threading.Event()
    each = {"CPU": placed.threads} | ({"GPU": placed.gpus} if placed.gpus else {})
    request_resources(bundles=[each] * (need.cpus // placed.threads))
    try:
        with progress("waiting for nodes", ceil(wait_s)) as advance:
            for _ in range(ceil(wait_s / POLL_S)):
                found = ray.cluster_resources()
                session.cpus, session.gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
                if Room(session.gpus, session.cpus).holds(need):
                    return True
                pause.wait(POLL_S)
                advance(1, f"{Room(session.gpus, session.cpus)} are there")
        return False
    finally:
        request_resources(bundles=[])  # what runs then holds its nodes by itself


def _refusal(placed: Placement, session: Session, possible: Room, when: str = "") -> RequestError:
    need = placed.need
    fit = possible.cpus // placed.threads
    if placed.gpus:
        fit = min(fit, floor(possible.gpus / placed.gpus))
    can = f" and can start up to {possible}" if session.autoscales else ""
    mend = f"try `workers={fit}`" if fit else "lower `gpus_per_worker` or `cpus_per_worker`"
    return RequestError(
        f"`workers={need.cpus // placed.threads}` need {need}; the cluster has "
        f"{Room(session.gpus, session.cpus)}{can}{when}; {mend}, or `wait_minutes` for more"
    )
