"""What scoring may need of time and memory for archives of many images."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from bench.setup import BATCH, Bench, count_cores, score
from bench.values import Value
from seg.data.labels import encode_mask
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Scored

TINY_PX, FOLDER_IMAGES, LINKS = 64, 1000, 30_000
"""Side of a tiny image, images in a folder, names that a file has: ext4 allows 65,000."""
RESUME_S, DRIVER_MIB, STORE_MIB = 20, 1024, 2048
LOOK_EVERY_S, LOOKS_AT_WORKERS = 0.2, 10


def write_names(root: Path, count: int, *, labels: bool) -> None:
    """So many tiny images in the plain layout, most of them further names of one file."""
    pixels = np.random.default_rng(0).integers(256, size=(TINY_PX, TINY_PX), dtype=np.uint8)
    contents = {"images": bytes(cv2.imencode(".png", pixels)[1])}
    if labels:
        contents["masks"] = encode_mask((pixels > 128).astype(np.uint8))
    for kind, content in contents.items():
        source = root
        for number in range(count):
            path = root / kind / f"s{number // FOLDER_IMAGES:04}" / f"{number:07}.png"
            if number % FOLDER_IMAGES == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            if number % LINKS:
                os.link(source, path)
            else:
                source = path
                source.write_bytes(content)
    (root / "classes.txt").write_text("background\ncell\n")


def measure_resume(bench: Bench) -> Iterator[Value]:
    """The same command where all is done: three images by the job, the others as rows like theirs."""
    count = 200 if bench.quick else 10_000
    root, out = bench.folder / "tiny", bench.folder / "tiny-scores"
    for folder in (root, out):
        shutil.rmtree(folder, ignore_errors=True)
    write_names(root, count, labels=True)
    words = (root, "--model", bench.model, "--precision", bench.precision)
    score((*words, "--limit", 3, "--workers", 0), out)
    finish_by_hand(root, out)
    finished = score((*words, "--workers", 0 if bench.quick else count_cores()), out)
    if (finished.summary["images_scored"], finished.summary["images_skipped"]) != (0, count):
        raise SystemExit("the folder was not finished: not timed")
    yield Value(f"the same command on {count} finished images", [finished.seconds], "s", RESUME_S)


def finish_by_hand(root: Path, out: Path) -> None:
    """Put what is missing into ledger and masks, from the row of an image whose bytes are the same."""
    ledger = Ledger(out)
    known = Scored(**next(ledger.rows()).to_pylist()[0])
    mask, done = out / "masks" / f"{known.image}.png", ledger.finished_images()
    for path in sorted((root / "images").rglob("*.png")):
        name = path.relative_to(root / "images").as_posix()
        if name in done:
            continue
        label = root / "masks" / name
        times = {"mtime_ns": path.stat().st_mtime_ns, "label_mtime_ns": label.stat().st_mtime_ns}
        ledger.add([replace(known, image=name, label_path=name, **times)])
        target = out / "masks" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(mask, target)
    ledger.commit()


@dataclass(slots=True)
class MemoryWatch:
    """The most memory in use of a job's process and of its workers, in MiB, as the kernel counts it."""

    stop: Callable[[], bool] = lambda: False
    """Whether to send Ctrl-C now; asked until it says so."""
    driver: float = 0.0
    workers: dict[int, float] = field(default_factory=dict)
    shared: float = 0.0
    """Of the whole machine, beyond what was shared at the start: Ray's object store."""

    def __call__(self, job: subprocess.Popen[bytes]) -> None:
        """Look until the job has ended."""
        looks, stopped, before = 0, False, shared_mib()
        while job.poll() is None:
            self.driver = max(self.driver, peak_mib(job.pid))
            self.shared = max(self.shared, shared_mib() - before)
            if looks % LOOKS_AT_WORKERS == 0:
                self.workers |= {pid: peak_mib(pid) for pid in find_workers(job.pid)}
            if not stopped and self.stop():
                stopped = True
                job.send_signal(signal.SIGINT)
            looks += 1
            time.sleep(LOOK_EVERY_S)


def peak_mib(pid: int) -> float:
    """The most that a process had in memory, shared files included; 0: it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def shared_mib() -> float:
    """Memory of this machine that belongs to no process alone."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/meminfo has no line Shmem")


def descendants(pid: int) -> set[int]:
    """Processes that a process has started, and these, as far as they live."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    own = {pid}
    while grown := {child for child, parent in parents.items() if parent in own} - own:
        own |= grown
    return own - {pid}


def find_workers(pid: int) -> list[int]:
    """Scoring workers among the descendants of a process."""
    return [child for child in descendants(pid) if _command(child).startswith(b"ray::MapWorker")]


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def measure_memory(bench: Bench) -> Iterator[Value]:
    """A job's process, its workers, and what lies between them, over 200 frames."""
    count = 12 if bench.quick else 200
    archive = bench.link_archive(count)
    words = (archive, "--model", bench.model, "--precision", bench.precision)
    for stages, workers in [("auto", 0)] if bench.quick else [("together", count_cores()), ("apart", 1)]:
        watch = MemoryWatch()
        score((*words, "--workers", workers, "--stages", stages), bench.new_folder(), watch=watch)
        what = f"memory over {count} frames, {stages}"
        yield Value(f"{what}: the job's process", [watch.driver], "MiB", DRIVER_MIB if workers else None)
        if watch.workers:
            yield Value(f"{what}: a process, batches of {BATCH}", [*watch.workers.values()], "MiB")
            yield Value(f"{what}: object store", [watch.shared], "MiB", STORE_MIB)


def measure_listing(bench: Bench) -> Iterator[Value]:
    """A job on so many names, stopped once it has rows: listed, compared with the ledger, handed out."""
    count, workers = (2000, 0) if bench.quick else (1_000_000, 1)
    root, out = bench.folder / f"names-{count}", bench.new_folder()
    if not root.is_dir():
        write_names(root, count, labels=False)
    watch = MemoryWatch(lambda: any((out / "ledger").glob("*.parquet")))
    words = (root, "--model", bench.model, "--precision", bench.precision, "--workers", workers)
    finished = score(words, out, watch=watch, code=4)
    what = f"a listing of {count:,} names"
    yield Value(f"memory, {what}, the job's process", [watch.driver], "MiB", DRIVER_MIB if workers else None)
    yield Value(f"seconds, {what}, from start to Ctrl-C's end", [finished.seconds], "s")
