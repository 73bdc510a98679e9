"""How long until a job answers, trains, predicts: in seconds, and as multiples of `import tyro`."""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import tyro

ROOT = Path(__file__).parents[1]
LIMIT = 8.0
"""Times `import tyro` that a list, and what is refused, may take of the CPU."""
ANSWERS = {
    "help": "train --help",
    "list": "train --list",
    "wrong recipe": "train nosuch",
    "wrong option": "train --nosuch",
    "wrong path": "train --data nowhere",
    "no data set": "train --data .",
    "wrong archive": "score nowhere --model . --out out",
}
MASK_LIMIT_S = 3.0
"""Until the first mask, beyond importing torch and reading the model."""
LOOK_S = 0.01
"""Between two looks at whether a job has got so far."""
SMALL = (
    "--epochs 1 --batch 2 --backbone mobilenet_v2 --precision float32 --preprocessing.shrink 1 "
    "--crops.size-px 64 64 --crops.per-image 1 --tiling.crop-px 64 64 --tiling.halo-px 16"
)
"""A training that is over soon."""


def run(words: list[str], cwd: Path) -> tuple[float, float]:
    """Seconds of a command: of the CPU, which other processes hardly lengthen, and in all."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"RAY_ADDRESS": "local"}
    subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, check=False)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s


def watch_job(job: str, words: list[str], is_there: Callable[[], bool]) -> tuple[float, float]:
    """Seconds until `is_there` says that a job has got so far, and until its end. SystemExit: it failed."""
    began, there_s, runs = time.perf_counter(), 0.0, True
    silent, environment = subprocess.DEVNULL, os.environ | {"RAY_ADDRESS": "local"}
    command = [sys.executable, f"{ROOT}/jobs/{job}.py", *words]
    with subprocess.Popen(command, env=environment, stdout=silent, stderr=silent) as process:
        while runs:
            runs = process.poll() is None
            if not there_s and is_there():
                there_s = time.perf_counter() - began
            time.sleep(LOOK_S)
    if process.returncode or not there_s:
        raise SystemExit(f"{job} {' '.join(words)}: exit code {process.returncode}, not timed")
    return there_s, time.perf_counter() - began


def time_first_step(data: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds until a training has done its first step, and until its last file is written."""
    words = f"--data {data} --out {out} --workers {workers} {SMALL}".split()
    return watch_job("train", words, (out / "last/progress.json").is_file)


def time_first_mask(data: Path, model: Path, out: Path) -> tuple[float, float]:
    """Seconds until `fringe predict` has written a mask, and of importing torch and reading its model."""
    image = min((data / "images").rglob("*.png"))
    words = [str(image), "--model", str(model), "--out", str(out)]
    mask_s, _ = watch_job("predict", words, lambda: any(out.rglob("*.png")))
    reading = f"import torch; from seg.model_file import load_model; load_model({str(model)!r})"
    return mask_s, run(["-c", reading], ROOT)[1]


def time_work(here: Path, workers: tuple[int, ...], size_px: int, repeat: int) -> dict[str, list[float]]:
    """A training with each number of workers, then masks by the first one's model; printed."""
    rows: dict[str, list[float]] = {}
    run([f"{ROOT}/jobs/simulate.py", "data", "--sequences", "2", "--size", str(size_px)], here)
    for count in workers:
        first_s, all_s = time_first_step(here / "data", here / f"{count}", count)
        rows[f"first step, {count} workers"] = [first_s, all_s]
        print(f"{f'--workers {count}':16} first step after {first_s:.1f} s, all after {all_s:.1f} s")
    model = here / f"{workers[0]}" / "best.safetensors"
    times = [time_first_mask(here / "data", model, here / f"mask-{turn}") for turn in range(repeat)]
    mask_s, read_s = (median(column) for column in zip(*times, strict=True))
    rows["first mask"] = [mask_s, read_s]
    verdict = "" if mask_s - read_s <= MASK_LIMIT_S else f", over the limit of {MASK_LIMIT_S:g}"
    beyond = f"{mask_s - read_s:.1f} s beyond torch and model ({read_s:.1f} s)"
    print(f"{'first mask':16} {beyond}{verdict}")
    return rows


def main(repeat: int = 5, workers: tuple[int, ...] = (0, 1), size_px: int = 512) -> None:
    """Print seconds of the CPU and in all, median of `repeat`; first steps, a first mask; one JSON line.

    workers: what trainings are timed with, once each; the first one's model predicts. None: neither.
    """
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}")
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        times = [run(["-c", "import tyro"], here) for _ in range(repeat)]
        base_s = median(cpu_s for cpu_s, _ in times)
        print(f"{'import tyro':16} {base_s:6.2f} s of the CPU")
        for name, line in ANSWERS.items():
            verb, *words = line.split()
            times = [run([f"{ROOT}/jobs/{verb}.py", *words], here) for _ in range(repeat)]
            cpu_s, wall_s = (median(column) for column in zip(*times, strict=True))
            rows[name] = [cpu_s, wall_s, cpu_s / base_s]
            verdict = "" if cpu_s / base_s <= LIMIT else f", over the limit of {LIMIT:g}"
            spent = f"{cpu_s:6.2f} s of the CPU, {wall_s:6.2f} s in all"
            print(f"{name:16} {spent}, {cpu_s / base_s:4.1f} x{verdict}")
        if workers:
            rows |= time_work(here, workers, size_px, repeat)
    print(json.dumps(rows))


if __name__ == "__main__":
    tyro.cli(main)
