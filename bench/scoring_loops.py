"""jobs/score.py against plain loops: the same model, engine and threads, without Ray and reading ahead."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bench.setup import BATCH, SCORE_JOB, Bench, Finished, count_cores, in_processes, score, steady_ms
from bench.table import Row
from seg.data.images import decode_image
from seg.data.labels import decode_label, encode_mask
from seg.data.preprocess import choose_statistics, preprocess
from seg.metrics import confusion_matrix
from seg.model_file import load_model
from seg.predict.predictor import Predictor
from seg.score.pipeline import BUSY

APART, POOL = "three stages apart, 1 that predicts", "the pool that was before"
REHEARSED = 3
"""Images that a scoring tries one by one before it feeds its workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What a plain loop scores, in a process of its own."""

    archive: Path
    """In the plain layout, all images in one folder."""
    images: tuple[str, ...]
    model: Path
    masks: Path
    precision: str
    threads: int


@dataclass(frozen=True, slots=True)
class Looped:
    """What a plain loop found: the sum of its matrices, and when each image was done, by the clock."""

    confusion: NDArray[np.int64]
    times_s: list[float]


def run_loop(loop: Loop) -> Looped:
    """Read, decode, preprocess, predict, count and write a mask, one image after the other.

    What scoring does besides is not asked of it: hashes, objects, brightness, notes of what is in work, and
    files that survive a power cut.
    """
    torch.set_num_threads(loop.threads)
    cv2.setNumThreads(loop.threads)
    model, card = load_model(loop.model)
    device, num_classes = torch.device("cpu"), len(card.classes)
    predictor = Predictor(model, card.tiling, batch=BATCH, device=device, precision=loop.precision)
    confusion, times_s = torch.zeros(num_classes, num_classes, dtype=torch.int64), []
    for name in loop.images:
        pixels = decode_image((loop.archive / "images" / name).read_bytes())
        size, label = (pixels.shape[0], pixels.shape[1]), loop.archive / "masks" / name
        truth = decode_label(label.read_bytes(), label, size, card.classes, card.label_map)
        working = preprocess(pixels, card.preprocessing)
        statistics = choose_statistics(working, card.preprocessing, card.statistics)
        ids = predictor.predict(working, statistics, size).ids
        confusion += confusion_matrix(truth, ids, num_classes)
        mask = loop.masks / name
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encode_mask(ids.numpy()))
        times_s.append(time.time())
    return Looped(confusion.numpy(), times_s)


class Contest:
    """One archive, scored by jobs and by loops, each in a folder of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.count = bench, 24 if bench.quick else 48
        self.archive = bench.link_archive(self.count)
        self.names = tuple(sorted(path.name for path in (self.archive / "images").iterdir()))
        self.start_ms: dict[str, list[float]] = {}
        """Of each job, what it took beyond its images at its steady rate."""
        self.expected: NDArray[np.int64] | None = None

    def run_job(self, name: str, workers: int, threads: int, *more: object, job: Path = SCORE_JOB) -> float:
        """Milliseconds an image takes a job of so many workers, once all of them are fed."""
        out = self.bench.new_folder()
        options = ("--workers", workers, "--threads", threads, "--precision", self.bench.precision, *more)
        finished = score((self.archive, "--model", self.bench.model, *options), out, job=job)
        self._check(np.array(finished.summary["confusion"]))
        found = self._note(name, finished, max(workers, 1))
        print(
            f"{name}: {found:.0f} ms an image, {finished.seconds:.0f} s in all", file=sys.stderr, flush=True
        )
        return found

    def run_loops(self, processes: int, threads: int, per_process: int) -> float:
        """Milliseconds an image takes plain loops side by side."""
        shares = [self.names[first::processes][:per_process] for first in range(processes)]
        loops = [
            Loop(
                archive=self.archive,
                images=share,
                model=self.bench.model,
                masks=self.bench.new_folder(),
                precision=self.bench.precision,
                threads=threads,
            )
            for share in shares
        ]
        looped = in_processes(processes, run_loop, loops)
        if sum(map(len, shares)) == self.count:
            self._check(np.sum([part.confusion for part in looped], axis=0))
        times = [at for part in looped for at in part.times_s]
        found = steady_ms(times, first=2 * processes, last=processes if processes > 1 else 0)
        print(f"{processes} x plain loop: {found:.0f} ms an image", file=sys.stderr, flush=True)
        return found

    def _note(self, name: str, finished: Finished, workers: int) -> float:
        last = BUSY * workers
        found = steady_ms(finished.times_s, first=REHEARSED + BUSY * workers, last=last)
        self.start_ms.setdefault(name, []).append(1e3 * finished.seconds - found * self.count)
        return found

    def _check(self, confusion: NDArray[np.int64]) -> None:
        """Threads sum in another order, which may change a pixel in a million; more is other work."""
        if self.expected is None:
            self.expected = confusion
        if np.abs(confusion - self.expected).sum() > 1e-5 * confusion.sum():
            raise SystemExit("two contenders count other pixels: not timed")


def measure_pipeline(bench: Bench) -> Iterator[Row]:
    """Steady rates, as time an image; starts and ends of jobs apart."""
    contest, cores = Contest(bench), count_cores()
    jobs = {"in this process": (0, cores)}
    if not bench.quick:
        jobs |= {f"{cores} Ray workers": (cores, 1), "1 Ray worker": (1, cores)}
    contenders = {name: partial(contest.run_job, name, *counts) for name, counts in jobs.items()}
    others: dict[str, tuple[int, int]] = {}
    if not bench.quick:
        others[APART] = (1, 1)
        contenders[APART] = partial(contest.run_job, APART, 1, 1, "--stages", "apart")
    if bench.pool is not None:
        others[POOL] = (cores, 1)
        old = bench.pool.resolve() / "jobs" / "score.py"
        contenders[POOL] = partial(contest.run_job, POOL, cores, 1, job=old)
    contenders["loop"] = partial(contest.run_loops, 1, cores, contest.count // 2)
    contenders["loops"] = partial(contest.run_loops, cores, 1, contest.count // cores)
    found = bench.take_turns(contenders)
    for name, (_, threads) in jobs.items():
        what = f"an image, {name} x {threads} threads"
        yield Row(what, found[name], f"a plain loop, {cores} threads", found["loop"], "rate", 0.9)
    jobs |= others
    for name in jobs:
        yield Row(f"the same, {name}", found[name], f"{cores} plain loops, 1 thread", found["loops"], "rate")
    for name in jobs:
        start, nothing = contest.start_ms[name], [0.0] * bench.repeat
        yield Row(f"start and end, {name}", start, "steady time alone", nothing, "apart")
