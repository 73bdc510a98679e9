"""One connection to Ray a job: to a running cluster if there is one, else to our own, with a token."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.quiet import quiet_ray
from seg.errors import RequestError


@dataclass(slots=True)
class Session:
    """What a job runs on: a running cluster, or this machine, with our own Ray once it is started."""

    cpus: int
    gpus: int
    gpus_possible: int
    """GPUs there are, or that an autoscaler may start."""
    connected: bool

    def start(self) -> None:
        """Start our own Ray where no cluster was found; takes about 10 s, so it comes after all checks."""
        if not self.connected:
            _say(f"starting Ray on this machine: {self.cpus} CPUs, {self.gpus} GPUs")
            _start_own_ray()
            self.connected = True

    def choose_workers(self, asked: int | None) -> int:
        """Workers to run: as asked, else one a GPU, else $FRINGE_WORKERS, else 1; said on screen.

        RequestError: more than there is room for.
        """
        workers = asked or self.gpus or _workers_from_environment()
        room, kind = (self.gpus_possible, "GPUs") if self.gpus_possible else (self.cpus, "CPUs")
        if workers > room:
            raise RequestError(f"--workers {workers}: there are {room} {kind}; try --workers {room}")
        _say(f"{workers} worker{'s' if workers > 1 else ''}")
        return workers


def check_workers(workers: int | None, *, lowest: int) -> None:
    """RequestError where --workers is below what the job can run with."""
    if workers is not None and workers < lowest:
        raise RequestError(f"--workers is {workers}, below {lowest}; try --workers 1")


@contextmanager
def compute_session() -> Iterator[Session]:
    """What a job runs on, for the length of a block: RAY_ADDRESS, else a running cluster, else this machine.

    RAY_ADDRESS=local asks for this machine. On it Ray is not started before `Session.start`.
    RequestError: RAY_ADDRESS names a cluster that does not answer.
    """
    with quiet_ray():
        try:
            yield _find_cluster() or _this_machine()
        finally:
            if ray := sys.modules.get("ray"):
                ray.shutdown()


def _find_cluster() -> Session | None:
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        return None
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        if address == "auto":
            return None
        raise RequestError(
            f"RAY_ADDRESS is {address} but no cluster answers there; start it, or unset RAY_ADDRESS"
        ) from error
    from ray._private.state import state

    resources = ray.cluster_resources()
    possible = state.get_max_resources_from_cluster_config() or {}  # None without an autoscaler
    gpus = int(resources.get("GPU", 0))
    session = Session(
        int(resources.get("CPU", 0)), gpus, max(gpus, int(possible.get("GPU", 0))), connected=True
    )
    _say(f"connected to the running Ray cluster: {session.cpus} CPUs, {session.gpus} GPUs")
    return session


def _this_machine() -> Session:
    import torch

    gpus = torch.cuda.device_count()
    return Session(len(os.sched_getaffinity(0)), gpus, gpus, connected=False)


def _start_own_ray() -> None:
    """Ray listens on every interface whatever it is told, so ours demands a token."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    _ensure_token()
    import ray

    ray.init(address="local", logging_level=logging.ERROR, log_to_driver=False)


def _ensure_token() -> None:
    """Leave a token where Ray looks for one, readable by its owner alone."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = Path.home() / ".ray" / "auth_token"
    if not token.is_file():
        token.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))


def _workers_from_environment() -> int:
    text = os.environ.get("FRINGE_WORKERS", "1")
    if not text.isdigit() or int(text) < 1:
        raise RequestError(f"FRINGE_WORKERS is {text!r}, not a number of workers; set it to 1, or unset it")
    return int(text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
