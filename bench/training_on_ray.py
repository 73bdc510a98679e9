"""A training on Ray beside one without, each a job of its own."""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.setup import Bench, count_cores, once_ms
from bench.table import Row

TRAIN_JOB = Path(__file__).parents[1] / "jobs" / "train.py"


def measure_ray(bench: Bench) -> Iterator[Row]:
    """jobs/train.py with one Ray Train worker and with none, each a process: the epochs after the first.

    Once with a thread for each core, so that Ray's own processes take turns with them; once with one less.
    """
    for threads in sorted({count_cores(), max(1, count_cores() - 1)}, reverse=True):
        yield from compare_with_ray(bench, threads)


def compare_with_ray(bench: Bench, threads: int) -> Iterator[Row]:
    """The same for a number of threads that compute."""
    num_epochs, turns = (2, 1) if bench.quick else (5, 2)
    steady: dict[int, list[float]] = {0: [], 1: []}
    apart: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(turns):
        for workers in (turn % 2, 1 - turn % 2):
            epochs, seconds = run_training_job(bench, workers, num_epochs, threads)
            steady[workers] += [1e3 / float(epoch["crops_per_second"]) for epoch in epochs[1:]]
            apart[workers].append(1e3 * (seconds - sum(float(epoch["seconds"]) for epoch in epochs)))
    what = f"a crop, Ray worker of {threads} threads"
    yield Row(what, steady[1], "without Ray", steady[0], "below", 3)
    yield Row("a run's start, files and end", apart[1], "without Ray", apart[0], "apart")


def run_training_job(
    bench: Bench, workers: int, epochs: int, threads: int
) -> tuple[list[dict[str, str]], float]:
    """The lines of history.csv of a training, on a Ray of its own if on any, and the seconds of it all."""
    recipe, out = bench.recipe, Path(tempfile.mkdtemp(dir=bench.folder, prefix="job-"))
    options = {
        "--data": (bench.frames,),
        "--out": (out,),
        "--workers": (workers,),
        "--epochs": (epochs,),
        "--crops.per-image": (recipe.crops.per_image,),
        "--crops.size-px": recipe.crops.size_px,
        "--preprocessing.background-every": (0,),
    } | ({"--cpus-per-worker": (threads,)} if workers else {})
    words = [str(word) for name, values in options.items() for word in (name, *values)]
    environment = os.environ | {"RAY_ADDRESS": "local", "OMP_NUM_THREADS": str(threads)}
    log = out.with_suffix(".log")

    def run() -> None:
        with log.open("wb") as said:
            command = [sys.executable, TRAIN_JOB, recipe.name, *words]
            job = subprocess.run(command, env=environment, stdout=said, stderr=said, check=False)
        if job.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {job.returncode}\n{log.read_text()[-2000:]}")

    seconds = once_ms(run) / 1e3
    with (out / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file)), seconds
