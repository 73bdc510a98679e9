"""What bench/scoring.py measures with: frames, a model that knows them, and jobs/score.py as a process."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from seg.files import read_json
from seg.ledger.ledger import Ledger
from seg.pack.training_data import open_training_data
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.simulate.archive import Simulation, simulate_archive
from seg.train.training import Training, TrainingPlan

RECIPE = "interferogram-small"
BATCH = 4
"""Crops in a forward pass: the job's default."""
SCORE_JOB = Path(__file__).parents[1] / "jobs" / "score.py"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all measurements share."""

    quick: bool
    repeat: int
    precision: Literal["float32", "bf16"]
    folder: Path

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return len(os.sched_getaffinity(0))

    @property
    def frames(self) -> Path:
        """Ten frames of 3072 px and 8 bits; in a quick run six of 768 px."""
        return self.folder / ("small-frames" if self.quick else "frames")

    @property
    def model(self) -> Path:
        """The network of RECIPE."""
        return self.folder / ("small-run" if self.quick else "run") / "best.safetensors"

    def prepare(self) -> None:
        """Make what is missing of frames and model."""
        sequences, size_px = (3, 768) if self.quick else (5, 3072)
        simulation = Simulation(num_sequences=sequences, num_frames=2, size_px=size_px)
        simulate_archive(self.frames, simulation, workers=min(self.cores, sequences))
        if not self.model.is_file():
            self._train()

    def _train(self) -> None:
        """Train so long that masks have cells and not noise, which costs more to write and to count."""
        recipe = shorten(RECIPES[RECIPE], epochs=1 if self.quick else 3)
        data = open_training_data(self.frames, recipe, seed=0)
        self.model.parent.mkdir(parents=True, exist_ok=True)
        plan = TrainingPlan(recipe=recipe, data=data, seed=0, folder=self.model.parent, parent="bench")
        for _ in Training(plan, torch.device("cpu")).epochs():
            pass

    def link_archive(self, count: int) -> Path:
        """An archive of so many images in the plain layout: further names of the frames' files and masks."""
        root = self.folder / f"{self.frames.name}-{count}"
        images = sorted((self.frames / "images").rglob("*.png"))
        for number in range(count):
            for kind in ("images", "masks"):
                source = self.frames / kind / images[number % len(images)].relative_to(self.frames / "images")
                link = root / kind / f"{number:04}.png"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(source, link)
        (root / "classes.txt").write_bytes((self.frames / "classes.txt").read_bytes())
        return root

    def new_folder(self) -> Path:
        """A folder for results, which is not there yet."""
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="run-")) / "scores"

    def time_ms(self, call: Callable[[], object]) -> float:
        """What a call takes."""
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    def take_turns(self, contenders: dict[str, Callable[[], float]], more: int = 1) -> dict[str, list[float]]:
        """What each contender returns, `repeat` times `more`; every other turn goes backwards."""
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(self.repeat * more):
            for name in list(contenders)[:: -1 if turn % 2 else 1]:
                found[name].append(contenders[name]())
        return found


def shorten(recipe: Recipe, *, epochs: int) -> Recipe:
    """The recipe with fewer epochs; one of 1 epoch sees few crops as well."""
    crops = replace(recipe.crops, per_image=2) if epochs == 1 else recipe.crops
    return replace(recipe, epochs=epochs, crops=crops)


@dataclass(frozen=True, slots=True)
class Finished:
    """A scoring that has ended."""

    seconds: float
    """From the start of its process to its end."""
    times_s: list[float]
    """When each image was finished, by the clock, in order."""
    summary: dict[str, Any]


def score(
    words: Sequence[object],
    out: Path,
    *,
    watch: Callable[[subprocess.Popen[bytes]], None] | None = None,
    code: int = 0,
) -> Finished:
    """Run jobs/score.py, on a Ray of its own if on any, as a user does; SystemExit: another exit code.

    watch: called once the process runs; returns when nothing more is to be seen.
    """
    log = out.with_name(f"{out.name}.log")
    started = time.perf_counter()
    with log.open("wb") as file:
        job = subprocess.Popen(
            [sys.executable, SCORE_JOB, *map(str, words), "--out", str(out)],
            env=os.environ | {"RAY_ADDRESS": "local"},
            stdout=file,
            stderr=file,
        )
        if watch:
            watch(job)
        ended = job.wait()
    seconds = time.perf_counter() - started
    if ended != code:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {ended}\n{log.read_text()[-2000:]}")
    times = [time.timestamp() for part in Ledger(out).rows(["finished_at"]) for time in part[0].to_pylist()]
    return Finished(seconds, sorted(times), read_json(out / "summary.json"))


def steady_ms(times_s: Iterable[float], *, first: int, last: int) -> float:
    """Milliseconds an image takes, from when each was finished; without the first and last so many.

    Then whatever was read ahead when this time begins is matched by what is read ahead when it ends.
    """
    times = sorted(times_s)
    times = times[first : len(times) - last]
    return 1e3 * (times[-1] - times[0]) / (len(times) - 1)


def in_processes(count: int, measure: Callable[..., Result], tasks: Iterable[object]) -> list[Result]:
    """What `measure` returns for each task, in fresh processes, so many at a time."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(measure, tasks))
