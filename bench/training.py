"""How fast is training? Its crops, loop, metrics and Ray, and the reference systems' loops beside it.

python -m bench.training [--rows crops loop ...] [--device cpu|cuda] [--repeat 5] [--quick] [--folder DIR]

Contenders take turns, so that they share a busy machine's noise; a row's figure is of the two times of one
turn. A loop's time is that of its steps, with its crops: validation and files are apart, where they are not
named. The recipe is the one that jobs take on such a device, without a background.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.benchmark import timer

from bench.gpu_time import NUM_STEPS, profile_steps
from bench.reference_loops import REFERENCE_LOOPS, DecodedCrops
from bench.setup import CPU_RECIPE, Bench, bench_folder, count_cores, once_ms, time_ms
from bench.sharing import measure_sharing
from bench.table import Row, print_table
from bench.training_on_ray import measure_ray
from seg import metrics
from seg.data.layout import Sample
from seg.pack.crops import CropSampler
from seg.pack.pack import Pack, PackedImage
from seg.pack.training_data import open_packs
from seg.predict.confusion import confusion_matrix
from seg.predict.passes import autocast
from seg.predict.predictor import Predictor
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.train.losses import mean_loss
from seg.train.state import EpochResult
from seg.train.training import StepReport, Training
from seg.train.validation import predict_clips


class DecodedPack(Pack):
    """A pack that decodes an image's files each time a crop of it is made; single frames at own size only."""

    def __init__(self, path: Path, samples: tuple[Sample, ...]) -> None:
        super().__init__(path)
        self.samples = samples

    def clip(self, row: int, frames: int) -> list[PackedImage]:
        """The packed image, with pixels and mask from its files."""
        sample = self.samples[row]
        assert frames == 1, "only single frames are decoded here"
        assert sample.label is not None, "simulated frames have masks"
        return [replace(self[row], pixels=decode(sample.image), mask=decode(sample.label))]


def decode(file: Path) -> NDArray[np.uint8]:
    """An 8-bit PNG."""
    pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, f"{file} does not decode"
    return np.asarray(pixels, np.uint8)


def measure_crops(bench: Bench) -> Iterator[Row]:
    """Crops at own size from a pack, and the same ones decoded: an image each, by all cores, a few ahead."""
    side_px, recipe = 256 if bench.quick else 1024, RECIPES[CPU_RECIPE]
    crops = replace(recipe.crops, size_px=(side_px, side_px), per_image=1)
    recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, shrink=1), crops=crops, batch=2)
    data = bench.open_data(recipe)
    train, _ = open_packs(data, recipe)
    packed, decoded = (
        CropSampler(pack, recipe, seed=0, fitted=None, threads=count_cores())
        for pack in (train, DecodedPack(train.path, data.split.train))
    )
    for ours, other in zip(packed.batches(1), decoded.batches(1), strict=True):
        if not (torch.equal(ours.images, other.images) and torch.equal(ours.truth, other.truth)):
            raise SystemExit("the pack's crops are not those of the files: not timed")

    def crop_ms(sampler: CropSampler, epochs: int) -> float:
        took_ms = time_ms(lambda: [sum(1 for _ in sampler.batches(epoch)) for epoch in range(epochs)])
        return took_ms / (epochs * sampler.steps_per_epoch * sampler.batch)

    contenders = {"pack": lambda: crop_ms(packed, 8), "png": lambda: crop_ms(decoded, 1)}
    found = bench.take_turns(contenders, warm_up=True)
    yield Row(f"a crop of {side_px} px", found["pack"], "decoded from its PNGs", found["png"], "times", 20)


class ResidentSteps:
    """Bare steps: forward, backward and update on an epoch's inputs, which lie on the device."""

    def __init__(self, training: Training) -> None:
        self.learner, self.precision = training.learner, training.recipe.precision
        self.learner.model.train()
        self.inputs = cycle([batch.to_inputs(training.device) for batch in training.sampler.batches(1)])

    def step(self) -> None:
        """The next one."""
        learner, (images, truth) = self.learner, next(self.inputs)
        with autocast(learner.device, self.precision):
            outputs = learner.model(images)
        loss = mean_loss(*learner.loss(outputs, truth))
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learner.optimizer.step()


class Alternation:
    """Takes a bare step after each step of a training, as its listener; both meet the same noise."""

    def __init__(self, bare: ResidentSteps) -> None:
        self.bare = bare
        self.ours_ms: list[float] = []
        self.bare_ms: list[float] = []
        self.resumed: float | None = None

    def __call__(self, report: StepReport) -> None:
        """Note what the training's step took, crops and waiting included; an epoch's first one warms up."""
        ended = timer()  # when a GPU has done what it was given
        if report.step > 1 and self.resumed is not None:
            self.ours_ms.append(1e3 * (ended - self.resumed))
            self.bare_ms.append(once_ms(self.bare.step))
        self.resumed = timer()


def on_step(_: StepReport) -> None:
    """Jobs always listen to steps."""


def crop_ms(result: EpochResult) -> float:
    """What a crop took in an epoch's steps."""
    return 1e3 / result.crops_per_second


def measure_loop(bench: Bench) -> Iterator[Row]:
    """Our loop's steps against bare ones, in turn; then its validation, which no limit is set for."""
    recipe = replace(bench.recipe, epochs=bench.repeat)
    alternation = Alternation(ResidentSteps(bench.open_training(recipe)))
    for _ in bench.open_training(recipe).epochs(alternation):
        pass
    yield Row("a step in the whole loop", alternation.ours_ms, "a bare step", alternation.bare_ms, "above", 5)
    results = list(bench.open_training(recipe).epochs(on_step))
    validated = [1e3 * result.validation_seconds for result in results]
    trained = [1e3 * (result.seconds - result.validation_seconds) for result in results]
    yield Row("an epoch's validation", validated, "its training", trained, "share")


def measure_metrics(bench: Bench) -> Iterator[Row]:
    """What counting takes of a validation, where it happens; sums and ratios included."""
    training = bench.open_training(bench.recipe)
    recipe, num_classes = training.recipe, len(training.plan.data.classes)
    predictor = Predictor(
        training.learner.model, recipe.tiling, batch=1, device=bench.device, precision=recipe.precision
    )
    counted = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=bench.device)

    def add(truth: NDArray[np.uint8], ids: Tensor) -> None:
        counted.add_(confusion_matrix(truth, ids, num_classes))

    def summarise() -> None:
        confusion = counted.cpu().numpy()
        metrics.mean_present(metrics.iou(confusion))
        metrics.mean_present(metrics.dice(confusion))
        metrics.pixel_accuracy(confusion)

    def count_ms() -> float:
        counted.zero_()
        clips = training.validation_pack.clips(frames=1)
        pairs = (
            (image.own_mask[piece.own], piece.ids)
            for image, pieces in predict_clips(predictor, clips, training.statistics)
            for piece in pieces
            if image.own_mask is not None
        )
        return sum(once_ms(partial(add, *pair)) for pair in pairs) + once_ms(summarise)

    count_ms()
    if not np.array_equal(counted.cpu().numpy(), training.validate()[0]):
        raise SystemExit("what is counted here is not what validation counts: not timed")
    contenders = {"metrics": count_ms, "all": lambda: once_ms(training.validate)}
    found = bench.take_turns(contenders, warm_up=True)
    what = f"metrics of {len(training.validation_pack)} images"
    yield Row(what, found["metrics"], "their validation", found["all"], "share", 1)


class ReferenceRun:
    """A reference system's loop on a network of its own, with the beginning of ours."""

    def __init__(self, bench: Bench, recipe: Recipe, name: str) -> None:
        self.loop = REFERENCE_LOOPS[name]
        training = bench.open_training(recipe)
        self.learner, data = training.learner, training.plan.data
        self.learner.model.to(memory_format=torch.contiguous_format)
        self.num_classes, self.num_crops = len(data.classes), training.sampler.steps_per_epoch * recipe.batch
        self.batches = self.loop.load(DecodedCrops(data.split.train, recipe), recipe.batch)

    def crop_ms(self) -> float:
        """What a crop takes in an epoch."""
        train = partial(self.loop.train_epoch, self.batches, self.learner, self.num_classes)
        return once_ms(train) / self.num_crops


PLAIN = "camvid U-Net"
"""Of the reference loops with processes that read ahead, the one that measures least."""


def measure_references(bench: Bench) -> Iterator[Row]:
    """Our loop against each reference system's, in float32 as they describe it; then at equal precision."""
    few = replace(bench, repeat=min(bench.repeat, 3))
    crops = replace(bench.recipe.crops, per_image=12 if bench.device.type == "cuda" else 4)
    recipe = replace(bench.recipe, crops=crops, epochs=1 + few.repeat)
    in_float32 = replace(recipe, precision="float32")
    ours = bench.open_training(recipe)
    epochs = ours.epochs(on_step)
    float32_epochs = bench.open_training(in_float32).epochs(on_step)
    results: list[EpochResult] = []

    def train() -> float:
        results.append(next(epochs))
        return crop_ms(results[-1])

    contenders = {name: ReferenceRun(few, in_float32, name).crop_ms for name in REFERENCE_LOOPS}
    contenders |= {"ours": train, "ours, float32": lambda: crop_ms(next(float32_epochs))}
    contenders["like ours"] = ReferenceRun(few, recipe, PLAIN).crop_ms
    found = few.take_turns(contenders, warm_up=True)
    for name in REFERENCE_LOOPS:
        yield Row("a crop in the whole loop", found["ours"], f"in {name}'s", found[name], "times", 2)
    num_crops = ours.sampler.steps_per_epoch * recipe.batch
    whole_ms = [1e3 * result.seconds / num_crops for result in results[1:]]
    yield Row("with our validation", whole_ms, f"in {PLAIN}'s without", found[PLAIN], "times")
    yield Row("both in float32", found["ours, float32"], f"in {PLAIN}'s", found[PLAIN], "times")
    yield Row(f"both in {recipe.precision}", found["ours"], f"in {PLAIN}'s", found["like ours"], "times")


def measure_busy(bench: Bench) -> Iterator[Row]:
    """What the GPU works of the time that steps of our loop take."""
    training = bench.open_training(replace(bench.recipe, epochs=1 + bench.repeat))
    working, whole = zip(*[profile_steps(training) for _ in range(1 + bench.repeat)][1:], strict=True)
    yield Row("the GPU at work", [*working], f"{NUM_STEPS} steps of the whole loop", [*whole], "filled", 95)


MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "crops": measure_crops,
    "loop": measure_loop,
    "metrics": measure_metrics,
    "references": measure_references,
    "ray": measure_ray,
    "sharing": measure_sharing,
    "busy": measure_busy,
}


def reason_to_skip(bench: Bench, name: str) -> str | None:
    """Why a measurement is left out; None: it can be made."""
    if name == "ray" and find_spec("ray") is None:
        return "ray is not installed"
    if name == "ray" and bench.quick:
        return "Ray's start alone takes longer than a quick run"
    if name == "sharing" and bench.quick:
        return "torch is loaded for each figure, which takes longer than a quick run"
    if name == "busy" and bench.device.type != "cuda":
        return "it is for a GPU"
    if name == "busy" and bench.quick:
        return "a quick epoch has too few steps"
    return None


def describe(bench: Bench) -> str:
    """What the numbers belong to."""
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else f"{count_cores()} cores"
    recipe, size = bench.recipe, "x".join(map(str, bench.recipe.crops.size_px))
    return (
        f"{platform.machine()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
        f"{recipe.name}: {recipe.model}, batch {recipe.batch} of {size}, {recipe.precision}"
    )


def main(
    rows: tuple[str, ...] = tuple(MEASUREMENTS),
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu",
    repeat: int = 5,
    quick: bool = False,
    folder: Path | None = None,
) -> None:
    """Print a line a row, then one JSON line.

    rows: what to measure, keys of MEASUREMENTS. repeat: turns of each contender after a warm-up.
    quick: small frames, one turn, float32: to see soon whether all works. folder: where frames, packs and
    runs go, and frames and packs are found again; None: a temporary one.
    """
    with bench_folder(folder) as place:
        bench = Bench(device=torch.device(device), quick=quick, repeat=1 if quick else repeat, folder=place)
        bench.simulate()
        measurements = ((name, partial(MEASUREMENTS[name], bench)) for name in rows)
        print_table(describe(bench), measurements, partial(reason_to_skip, bench))


if __name__ == "__main__":
    tyro.cli(main)
