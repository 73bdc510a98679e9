"""One connection to Ray a job: to a running cluster if there is one, else to our own, with a token."""

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from seg.errors import RequestError

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; unset, each start warns of it
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own table; we print ours
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else Tune's thread, after Ctrl-C and our shutdown, starts another Ray
}
_TOKEN = Path.home() / ".ray" / "auth_token"


class _Apart:
    """A stream that keeps apart what Ray's thread prints of processes that died, which is ours to tell."""

    THREAD = "ray_listen_error_messages"

    def __init__(self, stream: TextIO, file: BinaryIO) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        """Write it where it belongs."""
        if threading.current_thread().name == self.THREAD:
            return self._file.write(text.encode(errors="backslashreplace"))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet_ray() -> Iterator[None]:
    """For the length of a block: Ray's Python loggers show errors alone, native output goes to a file.

    Ray's core writes straight to file descriptor 2. Our own lines keep the terminal, through a duplicate of
    the descriptor, or what stands for standard error in a notebook. The file lies in the temporary folder; it
    stays if the block fails and something is in it.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    native, log = tempfile.mkstemp(prefix=f"fringe-native-{os.getpid()}-", suffix=".log")
    screen = os.dup(2)
    python_stdout, python_stderr = sys.stdout, sys.stderr
    ended_well = False
    with os.fdopen(native, "ab") as file, _open_screen(screen) as stream:
        sys.stdout = cast("TextIO", _Apart(python_stdout, file))
        if _is_descriptor_2(python_stderr):
            sys.stderr = stream
        os.dup2(file.fileno(), 2)
        try:
            yield
            ended_well = True
        finally:
            os.dup2(screen, 2)
            sys.stdout, sys.stderr = python_stdout, python_stderr
            if ended_well or not os.fstat(file.fileno()).st_size:
                Path(log).unlink(missing_ok=True)  # a long night's temporary files may have been cleared away


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2  # what POSIX calls STDERR_FILENO
    except (OSError, ValueError):  # a notebook's cell, a StringIO
        return False


def _open_screen(descriptor: int) -> IO[str]:
    """The terminal as Python's own standard error writes to it: what its letters lack, it spells out."""
    return os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace")


def quiet_loggers() -> None:
    """Let the loggers that importing a part of Ray has set up show errors alone; their log files keep all.

    Ray Data's show nothing: what its stages raise is ours to tell.
    """
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1 if name == "ray.data" else logging.ERROR)


@dataclass(slots=True)
class Session:
    """What a job runs on: a running cluster, or this machine, with our own Ray once it is started."""

    cpus: int
    gpus: int
    gpus_possible: int
    """GPUs there are, or that an autoscaler may start."""
    connected: bool
    cpus_possible: int = 0
    """CPUs there are, or that an autoscaler may start; 0: those there are."""
    autoscales: bool = False
    """Whether nodes may be started when there is work for them."""
    fault: str = ""
    """Why torch cannot compute on the GPUs that this machine's driver lists; empty: it can."""

    def start(self) -> None:
        """Start our own Ray where no cluster was found; takes about 10 s, so it comes after all checks."""
        if not self.connected:
            log.info(f"starting Ray on this machine: {self.cpus} CPUs, {self.gpus} GPUs")
            _start_own_ray()
            self.connected = True


@contextmanager
def compute_session(*, use_ray: bool = True) -> Iterator[Session]:
    """What a job runs on, for the length of a block: RAY_ADDRESS, else a running cluster, else this machine.

    RAY_ADDRESS=local asks for this machine. On it Ray is not started before `Session.start`.
    use_ray: False where the job runs in this process (`workers=0`). RequestError: RAY_ADDRESS names a cluster
    that does not answer.
    """
    with quiet_ray():
        try:
            yield (_find_cluster() if use_ray else None) or _this_machine()
        finally:
            if use_ray and (ray := sys.modules.get("ray")):  # else one that runs here is its caller's
                ray.shutdown()


def _find_cluster() -> Session | None:
    """Connect to the cluster that RAY_ADDRESS or this machine's last `ray start` names, if there is one.

    Not to any other Ray that runs here, as `ray.init` would: that may be another job's own, and end with it.
    """
    _demand_token()  # harmless where the cluster asks for none
    given, address = os.environ.get("RAY_ADDRESS"), read_address()
    if address is None:
        return None
    if not _answers(address):
        if given:
            raise RequestError(
                f"RAY_ADDRESS is {address} but nothing answers there; start the cluster, or unset it"
            )
        log.info(f"no Ray at {address}, where one was started last; going on without it")
        return None
    from ray.exceptions import AuthenticationError

    try:
        _init_ray(address)
    except (ConnectionError, AuthenticationError) as error:
        raise RequestError(
            f"the Ray cluster at {address} refused this job; put its token into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN, or set RAY_ADDRESS=local to run without it"
        ) from error
    return _describe_cluster()


def read_address() -> str | None:
    """The cluster that RAY_ADDRESS names, else the one started here last; None: neither, or it is `local`.

    Ray's own file is read without Ray, which takes a second to import.
    """
    if given := os.environ.get("RAY_ADDRESS"):
        return None if given == "local" else given
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # as Ray does
    file = Path(temporary) / "ray" / "ray_current_cluster"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def finds_cluster() -> bool:
    """Whether a job joins a cluster, or is refused by the one that RAY_ADDRESS names; Ray is not imported."""
    address = read_address()
    return address is not None and (bool(os.environ.get("RAY_ADDRESS")) or _answers(address))


def _answers(address: str) -> bool:
    """Whether something listens at host:port, as Ray itself would wait for minutes; ray:// is not tried."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _describe_cluster() -> Session:
    import ray
    from ray._private.state import state  # no public call tells what an autoscaler may add (2.60)

    resources = ray.cluster_resources()
    possible = state.get_max_resources_from_cluster_config() or {}  # None without an autoscaler
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    session = Session(
        cpus,
        gpus,
        max(gpus, int(possible.get("GPU", 0))),
        connected=True,
        cpus_possible=max(cpus, int(possible.get("CPU", 0))),
        autoscales=bool(possible),
    )
    log.info(f"connected to the running Ray cluster: {session.cpus} CPUs, {session.gpus} GPUs")
    return session


def _this_machine() -> Session:
    cpus = len(os.sched_getaffinity(0))
    if not has_gpu_driver():
        return Session(cpus, 0, 0, connected=False)
    import torch  # only now: it takes seconds, and 300 MiB of which a job beside its workers has no use

    gpus = torch.cuda.device_count()
    with warnings.catch_warnings(record=True) as said:  # how torch tells of a driver that is too old
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    reasons = [str(one.message).removeprefix("CUDA initialization: ").partition(". ")[0] for one in said]
    fault = "" if usable or not gpus else " ".join(reasons) or "CUDA does not start"
    return Session(cpus, gpus, gpus, connected=False, fault=fault)


def has_gpu_driver() -> bool:
    """Whether torch may find a GPU: the library that it asks of NVIDIA's is there, or AMD's device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def _start_own_ray() -> None:
    """Ray listens on every interface whatever it is told, so ours demands a token.

    Its dashboard stays, though nobody looks at it: Ray Train asks it whether a pruned trial's controller is
    gone, and without an answer never gives its CPUs and GPUs back (PlacementGroupCleaner, Ray 2.60).
    """
    _demand_token()
    _init_ray("local")


def _demand_token() -> None:
    """Before `import ray`, which reads the mode once: set later, our own Ray would refuse ourselves."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    _ensure_token()


def _init_ray(address: str) -> None:
    """ray.init, without the handlers of SIGTERM that it leaves behind: they exit with 1 or 15, not 4."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except SystemExit:  # what those handlers raise, where the signal comes while Ray starts
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)


def _ensure_token() -> None:
    """Leave a token where Ray looks for one, readable by its owner alone, whole or not at all."""
    if _token_exists():
        return
    _TOKEN.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=_TOKEN.parent)  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    with suppress(FileExistsError):  # another job was faster: its token is everybody's
        os.link(temporary, _TOKEN)
    Path(temporary).unlink()


def _token_exists() -> bool:
    return any(os.environ.get(f"RAY_AUTH_TOKEN{kind}") for kind in ("", "_PATH")) or _TOKEN.is_file()
