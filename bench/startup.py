"""How long until a job answers, trains, predicts: in seconds, and as multiples of `import tyro`."""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
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


def time_first_step(data: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds until a training has done its first step, and until its last file is written."""
    words = f"{ROOT}/jobs/train.py --data {data} --out {out} --workers {workers} {SMALL}".split()
    began, first_s = time.perf_counter(), 0.0
    with subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as job:
        while job.poll() is None:
            if not first_s and (out / "last/progress.json").is_file():
                first_s = time.perf_counter() - began
            time.sleep(0.05)
    if job.returncode:
        raise SystemExit(f"a training with {workers} workers ended with {job.returncode}: not timed")
    return first_s, time.perf_counter() - began


def time_first_mask(data: Path, model: Path, out: Path) -> tuple[float, float]:
    """Seconds until `fringe predict` has written a mask, and of importing torch and reading its model."""
    image = min((data / "images").rglob("*.png"))
    began, first_s = time.perf_counter(), 0.0
    words = [f"{ROOT}/jobs/predict.py", str(image), "--model", str(model), "--out", str(out)]
    command, silent = [sys.executable, *words], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent) as job:
        while not first_s and job.poll() is None:
            if any(out.rglob("*.png")):
                first_s = time.perf_counter() - began
            time.sleep(0.01)
    if job.returncode or not first_s:
        raise SystemExit(f"predict ended with {job.returncode}: not timed")
    reading = f"import torch; from seg.model_file import load_model; load_model({str(model)!r})"
    return first_s, run(["-c", reading], ROOT)[1]


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
            run([f"{ROOT}/jobs/simulate.py", "data", "--sequences", "2", "--size", str(size_px)], here)
        for count in workers:
            rows[f"first step, {count} workers"] = [*time_first_step(here / "data", here / f"{count}", count)]
            first_s, all_s = rows[f"first step, {count} workers"]
            print(f"{f'--workers {count}':16} first step after {first_s:.1f} s, all after {all_s:.1f} s")
        if workers:
            model = here / f"{workers[0]}" / "best.safetensors"
            times = [time_first_mask(here / "data", model, here / f"mask-{turn}") for turn in range(repeat)]
            first_s, read_s = (median(column) for column in zip(*times, strict=True))
            rows["first mask"] = [first_s, read_s]
            verdict = "" if first_s - read_s <= MASK_LIMIT_S else f", over the limit of {MASK_LIMIT_S:g}"
            beyond = f"{first_s - read_s:.1f} s beyond torch and model ({read_s:.1f} s)"
            print(f"{'first mask':16} {beyond}{verdict}")
    print(json.dumps(rows))


if __name__ == "__main__":
    tyro.cli(main)
