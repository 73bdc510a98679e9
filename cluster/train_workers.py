"""The training loop on Ray Train's workers, which are started again where one dies."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.placement import Placement
from cluster.session import quiet_loggers
from seg.errors import OutOfMemory, RequestError, TrainingDiverged
from seg.files import persistently, read_json, write_json
from seg.locks.folder_lock import LostLock
from seg.screen import show_log
from seg.train.board import WRITE_EVERY_S, Board, beating, describe_late, failures_file, read_beats
from seg.train.learner import find_ranks
from seg.train.run_folder import HistoryWriter
from seg.train.training import StepReport, Training, TrainingPlan

FINAL = {kind.__name__: kind for kind in (RequestError, OutOfMemory, TrainingDiverged, LostLock)}
"""What would happen again: a worker that meets one ends the training."""
ALONE = OutOfMemory, LostLock
"""Of these, what one worker may meet while the others wait for it."""


def fit_workers(
    plan: TrainingPlan, placement: Placement, *, restarts: int = 3, stall_minutes: float = 30.0
) -> None:
    """Train what is left of a run on Ray's workers; returns when all is done.

    restarts: times the group is built again after a worker died or stood still. stall_minutes: how long ranks
    wait for another before they give up. RequestError, OutOfMemory, TrainingDiverged, LostLock: as a worker
    raised them.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    quiet_loggers()
    ended = plan.folder / "ray" / "ended.json"
    ended.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan, "threads": placement.threads, "ended": ended},
        torch_config=TorchConfig(
            backend="nccl" if placement.gpus else "gloo", timeout_s=ceil(60 * stall_minutes)
        ),
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker={"CPU": placement.threads}
            | ({"GPU": placement.gpus} if placement.gpus else {}),
        ),
        run_config=RunConfig(
            name=f"train-{os.getpid()}-{int(time.time())}",  # our own state resumes: Ray's is never picked up
            storage_path=str(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=restarts),
            callbacks=[_failure_notes(plan.folder, ended)],
        ),
    )
    with _naming_the_cluster(), unwrapping():
        trainer.fit()
    error = read_json(ended) if ended.is_file() else None
    shutil.rmtree(plan.folder / "ray")
    if error is not None:
        raise FINAL[error["kind"]](error["message"])


def worker_failure(error: BaseException) -> BaseException:
    """What a worker of Ray Train raised, out of its wrappers; any other exception as it is."""
    failures = getattr(error, "worker_failures", {})
    failure = next(iter(failures.values()), error)
    return getattr(failure, "_base_exc", failure)  # of Ray's UserExceptionWithTraceback


@contextmanager
def unwrapping() -> Iterator[None]:
    """For the length of a block: a worker's RequestError as itself, the rest with its worker's traceback."""
    try:
        yield
    except Exception as error:
        inner = worker_failure(error)
        if isinstance(inner, RequestError):
            raise inner from None
        raise next(iter(getattr(error, "worker_failures", {}).values()), error) from None


@contextmanager
def _naming_the_cluster() -> Iterator[None]:
    """Tell Ray Train's own processes which Ray is theirs, where several run on a machine.

    The one that frees a dead controller's CPUs and GPUs, a pruned trial's for instance, asks the Ray that
    RAY_ADDRESS names, else one that it finds: of two it takes neither, and they are never free again
    (PlacementGroupCleaner, 2.60).
    """
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    before = {name: os.environ[name] for name in ("RAY_ADDRESS",) if name in os.environ}
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        os.environ.update(before)


def _failure_notes(folder: Path, ended: Path) -> Any:
    """A callback of Ray Train's controller that adds a line to failures.log for each dead worker.

    None where they ended the training: that is not gone on from.
    """
    from ray.train import UserCallback

    class FailureNotes(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if not ended.is_file():
                time.sleep(2 * WRITE_EVERY_S)  # then those who live have noted where they wait
                note_failures(folder, worker_exceptions)

    return FailureNotes()


def note_failures(folder: Path, causes: dict[int, Exception]) -> None:
    """Add to failures.log what each worker died of, a line each, with the time in UTC.

    A worker whose process ended could not say for whom it waited: NCCL's watchdog ends one that waited in
    vain. Of these the line goes on with what the beats tell, as a worker's own sentence does.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    gone = {rank for rank, error in causes.items() if isinstance(error, WorkerHealthCheckFailedError)}
    mute = gone | {rank for rank, error in causes.items() if isinstance(error, WorkerHealthCheckTimeoutError)}
    late = describe_late(read_beats(folder), gone)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with failures_file(folder).open("a", encoding="utf-8") as file:
        for rank, error in sorted(causes.items()):
            cause = _last_line(error)
            said = f"answers no more; {late} ({cause})" if rank in mute else cause
            file.write(f"{now} worker {rank}: {said}\n")


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _train_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    show_log()
    torch.set_num_threads(config["threads"])
    plan, device, ended = config["plan"], ray.train.torch.get_device(), Path(config["ended"])
    if ended.is_file():  # this group was built only because the one before was to end
        return
    try:  # no report to Ray: each would wait until its controller looks, every 2 s
        train_epochs(plan, device)
    except tuple(FINAL.values()) as error:  # raised here, Ray would try again what cannot go otherwise
        write_json(ended, {"kind": type(error).__name__, "message": str(error)})
        if isinstance(error, ALONE) and find_ranks().world_size > 1:
            raise  # Ray then ends those who would wait for this rank until they give up
    except RuntimeError as error:  # a rank that died or stands still shows as a collective that failed
        if ended.is_file():
            return
        if (ranks := find_ranks()).world_size == 1 or not _is_collective(error):
            raise
        late = describe_late(read_beats(plan.folder))
        raise RuntimeError(f"worker {ranks.rank} waited in vain ({_last_line(error)}): {late}") from error


def _is_collective(error: RuntimeError) -> bool:
    """Whether torch.distributed raised it: NCCL by a class of its own, gloo by its name in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _write_history(writer: HistoryWriter, training: Training) -> None:
    training.plan.check_owner()
    writer.write(training.journal)


def train_epochs(
    plan: TrainingPlan, device: torch.device, on_news: Callable[[], None] = lambda: None
) -> None:
    """Train what is left and keep the folder's history up to date.

    on_news: called after each step and epoch.
    """
    training = Training(plan, device)
    board, history = Board(training), HistoryWriter(plan.folder)

    def on_step(step: StepReport) -> None:
        board.on_step(step)
        on_news()

    with beating(training):
        for result in training.epochs(on_step):
            if training.ranks.rank == 0:
                persistently(partial(_write_history, history, training), f"history of {plan.folder}")
            board.on_epoch(result)
            on_news()
