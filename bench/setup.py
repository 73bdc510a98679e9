"""What all measurements share: frames, trainings, a model, jobs, turns, and torch's own clocks."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.utils.benchmark import Timer, timer

from seg.files import read_json
from seg.ledger.ledger import Ledger
from seg.pack.training_data import TrainingData, open_training_data
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.simulate.archive import Simulation, simulate_archive
from seg.train.training import Training, TrainingPlan

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when a measurement imports it

CPU_RECIPE, GPU_RECIPE = "interferogram-small", "interferogram-icnet"
BATCH = 4
"""Crops in a forward pass: the scoring job's default."""
SCORE_JOB = Path(__file__).parents[1] / "jobs" / "score.py"

CPU = torch.device("cpu")
Result = TypeVar("Result")


def time_ms(call: Callable[[], object], *, least_s: float = 0.2, clock: Callable[[], float] = timer) -> float:
    """What a call takes, with all that it gives a GPU to do: the median over blocks of at least so long."""
    measured = Timer("call()", globals={"call": call}, timer=clock, num_threads=torch.get_num_threads())
    return 1e3 * measured.blocked_autorange(min_run_time=least_s).median


def once_ms(call: Callable[[], object]) -> float:
    """What a call takes that is another one each time: an epoch, a job, rows for a ledger."""
    started = timer()
    call()
    return 1e3 * (timer() - started)


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def bench_folder(folder: Path | None) -> Iterator[Path]:
    """The folder, which then also is the cache of the jobs that the block starts; None: a temporary one."""
    with ExitStack() as stack:
        place = (folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        place.mkdir(parents=True, exist_ok=True)
        os.environ["FRINGE_CACHE"] = str(place)
        yield place


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where and how a bench measures."""

    quick: bool
    repeat: int
    folder: Path
    device: torch.device = CPU
    precision: Literal["float32", "bf16"] = "bf16"
    """Of scoring, and of the training of what it scores with."""
    pool: Path | None = None
    """A checkout of the last commit whose scoring was a pool of workers; None: it is not measured."""

    @property
    def recipe(self) -> Recipe:
        """What is trained, with enough crops of each image for epochs of some seconds."""
        recipe = RECIPES[GPU_RECIPE if self.device.type == "cuda" else CPU_RECIPE]
        per_image = 4 if self.quick else 40 if self.device.type == "cuda" else 16
        size = (256, 256) if self.quick else recipe.crops.size_px
        return replace(
            recipe,
            precision="float32" if self.quick else recipe.precision,  # which every CPU has
            preprocessing=replace(recipe.preprocessing, background_every=0),
            crops=replace(recipe.crops, per_image=per_image, size_px=size),
        )

    @property
    def frames(self) -> Path:
        """Ten frames of 3072 px and 8 bits, two of them to validate on; in a quick run six of 768 px."""
        return self.folder / ("small-frames" if self.quick else "frames")

    @property
    def model(self) -> Path:
        """The network of CPU_RECIPE."""
        return self.folder / ("small-run" if self.quick else "run") / "best.safetensors"

    def simulate(self) -> None:
        """Make what is missing of the frames."""
        sequences, size_px = (3, 768) if self.quick else (5, 3072)
        simulation = Simulation(num_sequences=sequences, num_frames=2, size_px=size_px)
        simulate_archive(self.frames, simulation, workers=min(count_cores(), sequences))

    def train_model(self) -> None:
        """Train so long that masks have cells and not noise, which costs more to write and to count."""
        if self.model.is_file():
            return
        recipe = replace(RECIPES[CPU_RECIPE], precision=self.precision)
        recipe = shorten(recipe, epochs=1 if self.quick else 3)
        self.model.parent.mkdir(parents=True, exist_ok=True)
        for _ in self.open_training(recipe, self.model.parent).epochs():
            pass

    def open_data(self, recipe: Recipe) -> TrainingData:
        """The frames as a recipe's data."""
        return open_training_data(self.frames, recipe, seed=0)

    def open_training(self, recipe: Recipe, folder: Path | None = None) -> Training:
        """A training from the start, in a folder of its own."""
        folder = folder or Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))
        plan = TrainingPlan(recipe=recipe, data=self.open_data(recipe), seed=0, folder=folder, parent="bench")
        return Training(plan, self.device)

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

    def take_turns(
        self, contenders: dict[str, Callable[[], float]], *, more: int = 1, warm_up: bool = False
    ) -> dict[str, list[float]]:
        """What each contender returns, `repeat` times `more`; every other turn goes backwards.

        warm_up: after a turn that is thrown away.
        """
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(self.repeat * more + warm_up):
            for name in list(contenders)[:: -1 if turn % 2 else 1]:
                value = contenders[name]()
                if turn or not warm_up:
                    found[name].append(value)
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
    job: Path = SCORE_JOB,
) -> Finished:
    """Run jobs/score.py, on a Ray of its own if on any, as a user does; SystemExit: another exit code.

    watch: called once the process runs; returns when nothing more is to be seen. job: that of another
    checkout, which `make setup` has made.
    """
    own = job.parents[1] / ".venv" / "bin" / "python"
    python = str(own) if job != SCORE_JOB else sys.executable
    log = out.with_name(f"{out.name}.log")
    ended: list[int] = []

    def run() -> None:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [python, job, *map(str, words), "--out", str(out)],
                cwd=job.parents[1],  # where Ray's workers look for modules
                env=os.environ | {"RAY_ADDRESS": "local"},
                stdout=file,
                stderr=file,
            )
            if watch:
                watch(process)
            ended.append(process.wait())

    seconds = once_ms(run) / 1e3
    if ended != [code]:
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
