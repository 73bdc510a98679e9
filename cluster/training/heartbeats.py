"""Which worker stands still: each leaves in the run's folder, once a second, where in the training it is."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from platform import node

from seg.errors import RequestError
from seg.files import read_json, show_text
from seg.plain_data import require
from seg.training import Training
from seg.training_reports import Position

EVERY_S = 1.0
SILENT_S = 10.0
"""A process that has not written for so long, while another has, is frozen, dead or cut off."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Where a worker was when it last wrote."""

    rank: int
    host: str
    written: float
    """Seconds since 1970 by the worker's clock."""
    position: Position


@contextmanager
def beating(training: Training) -> Iterator[None]:
    """Write this worker's beat once a second while the block runs, in a thread of its own."""
    folder, rank, over = _folder(training.plan.folder), training.ranks.rank, threading.Event()
    folder.mkdir(parents=True, exist_ok=True)

    def beat() -> None:
        while True:
            now = Beat(rank, node(), time.time(), training.position)
            with suppress(OSError):  # storage that refuses: what must be written waits by itself
                show_text(folder / f"{rank}.json", json.dumps(asdict(now)))
            if over.wait(EVERY_S):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read_beats(run: Path) -> list[Beat]:
    """The last beat of each worker; one that a power loss has torn is nobody's."""
    beats: list[Beat] = []
    for file in sorted(_folder(run).glob("[!.]*.json")):
        with suppress(RequestError):
            beats.append(require(Beat, read_json(file), str(file)))
    return beats


def describe_late(beats: list[Beat], world_size: int) -> str:
    """One sentence that names the worker for which the others wait, as far as their beats tell."""
    beats = [beat for beat in beats if beat.rank < world_size]
    if not beats:
        return "no worker has written a beat yet"
    latest = max(beat.written for beat in beats)
    silent = [beat for beat in beats if latest - beat.written > SILENT_S]
    if silent:
        gone = "; ".join(f"{_name(beat)} for {latest - beat.written:.0f} s" for beat in silent)
        return f"silent, so frozen, killed or cut off: {gone}"
    first, last = (choose(beat.position.order for beat in beats) for choose in (min, max))
    if first == last:
        return f"all {len(beats)} workers are equally far: {_name(beats[0])}; look at devices and network"
    return f"behind the others: {'; '.join(_name(beat) for beat in beats if beat.position.order == first)}"


def _name(beat: Beat) -> str:
    where = beat.position
    return f"worker {beat.rank} on {beat.host}, {where.stage} in step {where.step} of epoch {where.epoch}"


def _folder(run: Path) -> Path:
    return run / "last" / "workers"
