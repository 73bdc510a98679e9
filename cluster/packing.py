"""Packs whose rows are prepared by tasks on a cluster, or by threads here; one process writes them."""

import logging
import time
import warnings
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path

import cv2
import pyarrow as pa

from cluster.session import Session
from seg.data.images import ImageFiles
from seg.errors import DataWarning, RequestError
from seg.pack import training_data
from seg.pack.build import PrepareRows, ensure_pack
from seg.pack.pack import Pack, PackPlan, estimate_bytes, pack_row, rows_by_threads
from seg.requests import PackRequest

log = logging.getLogger(__name__)

SHARD_BYTES = 2**25
"""What a task hands over at most, or one image: a worker's memory, and the object store's, stay small."""
SHARDS_A_TASK = 4
"""Shards that each of the tasks at once finds at least, so that they end together."""


@dataclass(frozen=True, slots=True)
class PackSummary:
    """One pack that is there now."""

    part: str
    path: Path
    images: int
    bytes: int
    seconds: float | None
    """What building it took; None: it was there."""

    @property
    def line(self) -> str:
        """The pack in one line for the screen."""
        how = "was there already" if self.seconds is None else f"built in {self.seconds:.1f} s"
        return f"{self.part}: {self.path}: {self.images:,} images, {self.bytes:,} bytes, {how}"


def pack(request: PackRequest, session: Session) -> tuple[PackSummary, ...]:
    """Build the packs that a training with this recipe, data, seed and limit would.

    RequestError: recipe and data do not fit, an image or label is bad, no room.
    """
    if request.workers is not None and request.workers < 0:
        raise RequestError(f"`workers` is {request.workers}, below 0; try `workers=1`")
    request = training_data.apply_foreground(request)
    data = training_data.open_requested(request, request.recipe)
    log.info(f"data {data.root}: {data.split.how}")
    prepare = choose_preparation(session, request.workers)
    plans = training_data.plan_packs(data, request.recipe)
    summaries = tuple(
        _ensure(part, plan, prepare) for part, plan in zip(("training", "validation"), plans, strict=True)
    )
    train, validation = (Pack(summary.path) for summary in summaries)
    training_data.warn_of_absent_classes(data.classes, train)
    training_data.warn_of_orientation(train, validation)
    return summaries


def _ensure(part: str, plan: PackPlan, prepare: PrepareRows) -> PackSummary:
    started, built = time.perf_counter(), False

    def prepare_and_note(plan: PackPlan) -> Generator[pa.RecordBatch, None, None]:
        nonlocal built
        built = True
        return prepare(plan)

    path = ensure_pack(plan, prepare_and_note)
    seconds = time.perf_counter() - started if built else None
    return PackSummary(part, path, len(plan.samples), path.stat().st_size, seconds)


def choose_preparation(session: Session, workers: int | None = None) -> PrepareRows:
    """Who prepares rows: tasks where the session has a cluster, or where so many `workers` are asked for.

    Else, and for 0, threads of this process: starting Ray takes longer than they gain by it.
    """
    if workers == 0 or (workers is None and not session.connected):
        return rows_by_threads
    return partial(rows_by_tasks, session=session, workers=workers)


def rows_by_tasks(
    plan: PackPlan, session: Session, workers: int | None = None
) -> Generator[pa.RecordBatch, None, None]:
    """A plan's rows in order, prepared by tasks of one CPU each, `workers` at once or as many as there are.

    The rows, and so the pack's bytes, are those that threads prepare. A task whose worker dies is run again
    by Ray. RequestError: an image or label is bad.
    """
    session.start()
    import ray
    from ray.exceptions import RayTaskError

    at_once = workers or 2 * session.cpus
    sent, task = ray.put(plan), ray.remote(num_cpus=1)(_prepare_shard)
    size = _shard_rows(plan, at_once)
    starts, pending = iter(range(0, len(plan.samples), size)), deque[ray.ObjectRef]()
    try:
        while True:
            for start in islice(starts, at_once - len(pending)):
                pending.append(task.remote(sent, start, start + size))
            if not pending:
                return
            rows, messages = ray.get(pending.popleft())
            for message in messages:
                warnings.warn(message, DataWarning, stacklevel=2)
            yield from rows
    except RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise error.cause from None
        raise
    finally:
        for left in pending:
            ray.cancel(left)


def _shard_rows(plan: PackPlan, at_once: int) -> int:
    row_bytes = max(1, estimate_bytes(plan) // len(plan.samples))
    return max(1, min(SHARD_BYTES // row_bytes, ceil(len(plan.samples) / (SHARDS_A_TASK * at_once))))


def _prepare_shard(plan: PackPlan, start: int, stop: int) -> tuple[list[pa.RecordBatch], list[str]]:
    """Rows `start` to `stop`, and what was to be warned of: a task's own warnings reach nobody."""
    cv2.setNumThreads(1)  # tasks are the parallelism
    files = ImageFiles()
    reader = plan.frame_reader(files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        rows = [pack_row(sample, plan.settings, reader, files) for sample in plan.samples[start:stop]]
    return rows, [str(entry.message) for entry in caught if issubclass(entry.category, DataWarning)]
