"""What a step of each recipe costs, beside the same network from SMP or torchvision, and whether it learns.

python -m bench.models [--recipes NAME ...] [--steps 50] [--learn-px 192] [--repeat 3] [--shared DIR]

Costs are at the recipe's own crop and batch; losses, which want many steps, at crops of `learn_px`, 4 to 8
of them a step.
"""

import json
import os
import platform
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torchvision
import tyro
from torch import Tensor, nn

from bench.setup import in_processes, time_ms
from seg.models.build import build, output_weights
from seg.pack.crops import CropSampler
from seg.pack.training_data import open_packs, open_training_data
from seg.predict.passes import autocast
from seg.recipe import STRIDE_PX, Recipe
from seg.recipes import RECIPES
from seg.simulate.archive import Simulation, simulate_archive
from seg.train.learner import build_optimizer
from seg.train.losses import build_loss, mean_loss
from seg.train.training import find_class_weights, fit_statistics

PETS = "oxford-iiit-pet"
FOLDERS = {"camvid": "camvid", "pets-breeds": PETS, "pets-breeds-only": PETS, "drinks": "drinks"}
"""Where the shared data has a data set; interferograms are simulated."""


def smp_unet(num_classes: int, channels: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, in_channels=channels, classes=num_classes)


def smp_fpn(num_classes: int, channels: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.FPN("mobilenet_v2", encoder_weights=None, in_channels=channels, classes=num_classes)


def torchvision_fcn(num_classes: int, channels: int) -> nn.Module:
    del channels  # it takes three
    return torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=num_classes
    )


PEERS: dict[str, tuple[str, Callable[[int, int], nn.Module]]] = {
    "interferogram-small": ("smp.Unet", smp_unet),
    "camvid-fpn-mobilenet": ("smp.FPN", smp_fpn),
    "drinks-fpn-mobilenet": ("smp.FPN", smp_fpn),
    "pets-fcn-resnet101": ("torchvision", torchvision_fcn),
}


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement, done in a process of its own."""

    recipe: Recipe
    data: Path
    repeat: int


class Contender:
    """A network with its loss and optimiser, and a batch that it is asked to learn."""

    def __init__(self, task: Task, *, is_peer: bool = False) -> None:
        recipe = self.recipe = task.recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = open_training_data(task.data, recipe, seed=0)
        train, validation = open_packs(data, recipe)
        fitted = recipe.preprocessing.normalisation == "fitted"
        statistics = fit_statistics(train, validation) if fitted else None
        self.sampler = CropSampler(train, recipe, seed=0, fitted=statistics)
        torch.manual_seed(0)
        num_classes, channels = len(data.classes), recipe.preprocessing.channels
        if is_peer:
            model = PEERS[recipe.name][1](num_classes, channels)
        else:
            model = build(recipe.model, backbone=recipe.backbone, num_classes=num_classes, channels=channels)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        outputs = output_weights(model)
        self.loss = build_loss(recipe.loss, find_class_weights(recipe, train), outputs)
        self.optimizer = build_optimizer(self.model, recipe.optimizer)

    def predict(self, images: Tensor) -> Any:
        """Logits in eval, without gradients."""
        self.model.eval()
        with torch.inference_mode():
            return self.forward(images)

    def forward(self, images: Tensor) -> Any:
        """What the network gives, in the recipe's precision."""
        with autocast(self.device, self.recipe.precision):
            found = self.model(images)
        return found["out"] if isinstance(found, dict) else found

    def step(self, images: Tensor, truth: Tensor) -> float:
        """One step of training; returns the loss before it."""
        self.model.train()
        value = mean_loss(*self.loss(self.forward(images), truth))
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        return float(value.detach())

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Crops and truth, at the recipe's own size."""
        return self.sampler.batch_at(1, 0).to_inputs(self.device)


def learn(task: Task) -> list[float]:
    """The losses of `repeat` steps, each on another batch."""
    contender = Contender(task)
    per_epoch = contender.sampler.steps_per_epoch
    places = [(1 + step // per_epoch, step % per_epoch) for step in range(task.repeat)]
    batches = (contender.sampler.batch_at(*place).to_inputs(contender.device) for place in places)
    return [contender.step(*batch) for batch in batches]


def peak_mb(task: Task, is_peer: bool) -> float:
    """What two steps add to the process's, or the GPU's, memory at its highest."""
    contender = Contender(task, is_peer=is_peer)
    batch, before = contender.first_batch(), memory_mb(contender.device)
    for _ in range(2):  # the second has the optimiser's moments
        contender.step(*batch)
    return memory_mb(contender.device) - before


def time_steps(task: Task) -> dict[str, dict[str, Any]]:
    """Parameters in millions, forward and step in ms, by contender; they take turns and share the noise."""
    contenders = {"fringe": Contender(task)}
    if task.recipe.name in PEERS:
        contenders[PEERS[task.recipe.name][0]] = Contender(task, is_peer=True)
    batch = contenders["fringe"].first_batch()
    rows: dict[str, dict[str, Any]] = {name: {"forward_ms": [], "step_ms": []} for name in contenders}
    for turn in range(task.repeat):
        order = list(contenders.items())
        for name, contender in order if turn % 2 else order[::-1]:  # each comes first in turn
            rows[name]["forward_ms"].append(time_ms(partial(contender.predict, batch[0])))
            rows[name]["step_ms"].append(time_ms(partial(contender.step, *batch)))
    for name, contender in contenders.items():
        rows[name]["parameters"] = sum(part.numel() for part in contender.model.parameters()) / 1e6
    return rows


def memory_mb(device: torch.device) -> float:
    """The most memory so far: of the GPU's tensors, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def shrunk(recipe: Recipe, side_px: int) -> Recipe:
    """The recipe with crops no larger than a side; 4 to 8 of them, for one alone has a noisy loss."""
    size = tuple(min(side, side_px // STRIDE_PX * STRIDE_PX) for side in recipe.crops.size_px)
    return replace(recipe, crops=replace(recipe.crops, size_px=size), batch=min(max(recipe.batch, 4), 8))


def find_data(recipe: Recipe, shared: Path, simulated: Path) -> tuple[Recipe, Path]:
    """The recipe as the data that is there wants it, and where that lies."""
    if recipe.dataset == "camvid-rgb":  # only the layout with ids is there
        recipe = replace(recipe, dataset="camvid", label_map=((11, 255),))
    return recipe, shared / FOLDERS[recipe.dataset] if recipe.dataset in FOLDERS else simulated


def main(
    recipes: tuple[str, ...] = tuple(RECIPES),
    steps: int = 50,
    learn_px: int = 192,
    repeat: int = 3,
    shared: Path = Path("../shared/data"),
) -> None:
    """Print a line a recipe and contender, then one JSON line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    print(f"{platform.machine()}, {device}, torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{'recipe':24}{'by':12}{'M params':>9}{'crop':>11}{'batch':>6}", end="")
    print(f"{'forward ms':>12}{'step ms':>10}{'peak MB':>9}  loss over {steps} steps at {learn_px} px")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FRINGE_CACHE"] = folder
        simulated = Path(folder) / "simulated"
        simulate_archive(simulated, Simulation(num_sequences=2, num_frames=4), workers=2, advance=_quiet)
        for name in recipes:
            recipe, data = find_data(RECIPES[name], shared.resolve(), simulated)
            losses = in_processes(1, learn, [Task(shrunk(recipe, learn_px), data, steps)])[0]
            task = Task(recipe, data, repeat)
            for by, found in in_processes(1, time_steps, [task])[0].items():
                is_peer = by != "fringe"
                (peak,) = in_processes(1, partial(peak_mb, is_peer=is_peer), [task])
                found |= {"peak_mb": peak, "losses": None if is_peer else losses}
                rows.append({"recipe": name, "by": by, **found})
                _print_row(recipe, rows[-1])
    print(json.dumps(rows))


def _quiet(*_: object) -> None:
    pass


def _print_row(recipe: Recipe, row: dict[str, Any]) -> None:
    crop = "x".join(map(str, recipe.crops.size_px))
    line = f"{row['recipe']:24}{row['by']:12}{row['parameters']:9.1f}{crop:>11}{recipe.batch:6}"
    line += f"{median(row['forward_ms']):12.0f}{median(row['step_ms']):10.0f}{row['peak_mb']:9.0f}"
    if row["losses"]:
        line += f"  {mean(row['losses'][:5]):.3f} -> {mean(row['losses'][-5:]):.3f}"
    print(line, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
