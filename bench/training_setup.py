"""What all measurements of training share: recipes, frames, trainings from the start, turns and clocks."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seg.pack.training_data import TrainingData, open_training_data
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.simulate.archive import Simulation, simulate_archive
from seg.train.training import Training, TrainingPlan

CPU_RECIPE, GPU_RECIPE = "interferogram-small", "interferogram-icnet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all measurements share."""

    device: torch.device
    quick: bool
    repeat: int
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """What is trained, with enough crops of each image for epochs of some seconds."""
        recipe = RECIPES[GPU_RECIPE if self.device.type == "cuda" else CPU_RECIPE]
        per_image = 4 if self.quick else 40 if self.device.type == "cuda" else 16
        size = (256, 256) if self.quick else recipe.crops.size_px
        return replace(
            recipe,
            preprocessing=replace(recipe.preprocessing, background_every=0),
            crops=replace(recipe.crops, per_image=per_image, size_px=size),
        )

    @property
    def archive(self) -> Path:
        """Ten frames of 3072 px and 8 bits, two of them to validate on; in a quick run six of 768 px."""
        return self.folder / ("small-frames" if self.quick else "frames")

    def simulate(self) -> None:
        """Make what is missing of the archive."""
        sequences, size_px = (3, 768) if self.quick else (5, 3072)
        simulation = Simulation(num_sequences=sequences, num_frames=2, size_px=size_px)
        simulate_archive(self.archive, simulation, workers=min(count_cores(), sequences))

    def open_data(self, recipe: Recipe) -> TrainingData:
        """The archive as a recipe's data."""
        return open_training_data(self.archive, recipe, seed=0)

    def open_training(self, recipe: Recipe) -> Training:
        """A training from the start, in a folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))
        plan = TrainingPlan(recipe=recipe, data=self.open_data(recipe), seed=0, folder=folder, parent="bench")
        return Training(plan, self.device)

    def time_ms(self, call: Callable[[], object]) -> float:
        """What a call takes, with all that it gives a GPU to do."""
        self.wait_for_device()
        started = time.perf_counter()
        call()
        self.wait_for_device()
        return 1e3 * (time.perf_counter() - started)

    def wait_for_device(self) -> None:
        """Until a GPU is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def take_turns(self, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """What each contender returns, `repeat` times after a warm-up; every other turn goes backwards."""
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(1 + self.repeat):
            for name in list(contenders)[:: 1 if turn % 2 else -1]:
                value = contenders[name]()
                if turn:
                    found[name].append(value)
        return found


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
