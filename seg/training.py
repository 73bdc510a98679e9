"""The training loop: plain PyTorch, in one process or in one of several that torch.distributed connects."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seg import metrics
from seg.checkpoint import ModelCard, save_model
from seg.class_weights import median_frequency_weights
from seg.data.crops import CropSampler
from seg.data.pack import Pack, PackedImage
from seg.data.preprocess import Statistics
from seg.data.training_data import TrainingData, open_packs
from seg.errors import RequestError
from seg.losses import build_loss, mean_loss
from seg.metrics import confusion_matrix
from seg.models.build import build
from seg.predict import Predictor
from seg.provenance import code_version, package_versions
from seg.recipe import Optimizer, Recipe, recipe_to_dict
from seg.training_state import Journal, load_state, save_state, state_file

OnStep = Callable[[int, int, float], None]
"""Called after each step with the epoch and the step in it (both from 1) and this rank's loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """One training, as plain data that travels to workers."""

    recipe: Recipe
    data: TrainingData
    seed: int
    folder: Path
    """Absolute path of the run's folder, on storage that every worker sees."""
    parent: str
    """Run or trial that this training is, for the model file's provenance."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch, trained and validated: the same on every rank, but for the seconds."""

    epoch: int
    loss: float
    lr: float
    confusion: NDArray[np.int64]
    seconds: float
    crops_per_second: float
    wait_share: float
    """Share of the training time spent waiting for crops."""

    @property
    def miou(self) -> float:
        """Mean IoU over the validation images, all pixels together; NaN without any truth."""
        return metrics.mean_present(metrics.iou(self.confusion))

    def row(self) -> dict[str, float | int | None]:
        """The epoch's line in history.csv."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "lr": self.lr,
            "miou": self.miou,
            "dice": metrics.mean_present(metrics.dice(self.confusion)),
            "pixel_accuracy": metrics.pixel_accuracy(self.confusion),
            "crops_per_second": self.crops_per_second,
            "wait_share": self.wait_share,
            "seconds": self.seconds,
        }


class Training:
    """A training in progress on this rank; picks up the state its folder holds."""

    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        """Open packs, build the network, load the last state. RequestError: recipe and data do not fit."""
        recipe = plan.recipe
        self.plan, self.recipe, self.device = plan, recipe, device
        self.rank, self.world_size = _world()
        self.train_pack, self.validation_pack = open_packs(plan.data, recipe)
        fitted = recipe.preprocessing.normalisation == "fitted"
        self.statistics = fit_statistics(self.train_pack, self.validation_pack) if fitted else None
        self.sampler = CropSampler(self.train_pack, recipe, seed=plan.seed, fitted=self.statistics)
        if self.sampler.batch < self.world_size:
            raise RequestError(
                f"{self.world_size} workers share a batch of {self.sampler.batch} crops; lower --workers"
            )
        torch.manual_seed(plan.seed)
        state = state_file(plan.folder)
        self.model = build(
            recipe.model,
            backbone=recipe.backbone,
            num_classes=len(plan.data.classes),
            channels=recipe.preprocessing.channels,
            weights="none" if state.is_file() else recipe.weights,
            options=dict(recipe.model_options),
        ).to(device)
        self.model.to(memory_format=torch.channels_last)
        self.loss = build_loss(
            recipe.loss,
            find_class_weights(recipe, self.train_pack),
            recipe.output_weights or getattr(self.model, "OUTPUT_WEIGHTS", (1.0,)),
        )
        self.optimizer = build_optimizer(self.model, recipe.optimizer)
        self.journal = load_state(state, self.model, self.optimizer) if state.is_file() else Journal()
        self.network = DistributedDataParallel(self.model) if self.world_size > 1 else self.model

    def epochs(self, on_step: OnStep | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left, one a step of the iterator; each is saved before it is yielded."""
        while not self.journal.is_finished(self.recipe):
            epoch = self.journal.epochs_done + 1
            started = time.perf_counter()
            torch.manual_seed(_fold(self.plan.seed, epoch, self.rank))
            loss, rate, wait_share, crops_per_second = self._train_epoch(epoch, on_step)
            confusion = self.validate()
            seconds = time.perf_counter() - started
            result = EpochResult(epoch, loss, rate, confusion, seconds, crops_per_second, wait_share)
            self._save(result)
            yield result

    def _train_epoch(self, epoch: int, on_step: OnStep | None) -> tuple[float, float, float, float]:
        self.network.train()
        steps = self.sampler.steps_per_epoch
        total, rate, waited = torch.zeros((), device=self.device), 0.0, 0.0
        started = time.perf_counter()
        for step in range(steps):
            asked = time.perf_counter()
            batch = self.sampler.batch_at(epoch, step, rank=self.rank, world_size=self.world_size)
            waited += time.perf_counter() - asked
            rate = learning_rate(self.recipe.optimizer, (epoch - 1) * steps + step, self.recipe.epochs, steps)
            loss = self._step(*batch.to_inputs(self.device), rate)
            total += loss
            if on_step is not None:
                on_step(epoch, step + 1, float(loss) * self.world_size)
        mean = float(self._sum_over_ranks(total)) / steps
        seconds = time.perf_counter() - started
        return mean, rate, waited / seconds, steps * self.sampler.batch / seconds

    def _step(self, images: Tensor, truth: Tensor, rate: float) -> Tensor:
        """One step; returns this rank's share of the batch's loss, of which the ranks' sum is the whole."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.network(images)
        sums, weights = self.loss(logits, truth)
        loss = mean_loss(sums, self._sum_over_ranks(weights))
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.world_size).backward()  # DDP takes the mean over ranks of what must be a sum
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach()

    def validate(self) -> NDArray[np.int64]:
        """Confusion matrix of all validation images at their own size, int64 [C, C], the same on every rank.

        Each image is counted on one rank, none twice: no padding, whatever the number of workers.
        """
        if self.world_size > 1:  # batch norm's running statistics are rank 0's, as in the model file
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)
        predictor = Predictor(
            self.model, self.recipe.tiling, batch=1, device=self.device, precision=self.recipe.precision
        )
        windows = self.validation_pack.windows(self.recipe.frames, first=self.rank, step=self.world_size)
        confusion = count_confusion(predictor, windows, self.statistics, len(self.plan.data.classes))
        return self._sum_over_ranks(confusion).cpu().numpy()

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def _save(self, result: EpochResult) -> None:
        """Best model file first, the state last: killed between the two, the epoch is trained again."""
        self.journal.history.append(result.row())
        better = result.miou > self.journal.best_miou
        if better:
            self.journal.best_epoch, self.journal.best_miou = result.epoch, result.miou
            self.journal.best_confusion = result.confusion.tolist()
        if self.rank == 0:
            if better:
                save_model(self.plan.folder / "best.safetensors", self.model, self.card(result))
            save_state(state_file(self.plan.folder), self.model, self.optimizer, self.journal)
        if self.world_size > 1:
            dist.barrier()  # nobody goes on from an epoch that is not saved

    def card(self, result: EpochResult) -> ModelCard:
        """What the model file of this epoch says of itself."""
        plan, recipe = self.plan, self.recipe
        return ModelCard(
            architecture=recipe.model,
            backbone=recipe.backbone,
            classes=plan.data.classes,
            label_map=recipe.label_map,
            model_options=recipe.model_options,
            frames=recipe.frames,
            sequence=recipe.sequence,
            preprocessing=recipe.preprocessing,
            statistics=self.statistics,
            tiling=recipe.tiling,
            validation=result.row() | {"confusion": result.confusion.tolist()},
            provenance={
                "recipe": recipe_to_dict(recipe),
                "data_fingerprint": plan.data.fingerprint,
                "code_version": code_version(),
                "packages": package_versions(),
                "seed": plan.seed,
                "parent": plan.parent,
            },
        )


def fit_statistics(train: Pack, validation: Pack) -> Statistics:
    """Statistics of the training images' pixels. RequestError: a validation image has another bit depth."""
    fitted = train.pooled_statistics()
    for image in validation.images():
        if image.statistics.bit_depth != fitted.bit_depth:
            raise RequestError(
                f"data: {image.name} has {image.statistics.bit_depth} bits, the training images "
                f"{fitted.bit_depth}; use --preprocessing.normalisation per_image"
            )
    return fitted


def find_class_weights(recipe: Recipe, train: Pack) -> tuple[float, ...] | None:
    """A recipe's class weights, balanced over the training images where it asks for that; None: all alike."""
    if recipe.class_weights == "median_frequency":
        return median_frequency_weights(train.class_pixels())
    return recipe.class_weights or None


def count_confusion(
    predictor: Predictor, windows: Iterable[list[PackedImage]], fitted: Statistics | None, num_classes: int
) -> Tensor:
    """Confusion matrix of each window's last image at own size, int64 [C, C] on the predictor's device."""
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=predictor.device)
    for window in windows:
        image = window[-1]
        assert image.own_mask is not None, "a validation pack holds masks at own size"
        frames = [(frame.pixels, fitted or frame.statistics) for frame in window]
        ids = predictor.predict_frames(frames, image.own_size).ids
        total += confusion_matrix(torch.tensor(image.own_mask, device=predictor.device), ids, num_classes)
    return total


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The optimiser a recipe names."""
    match settings.name:
        case "adam":
            return torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                model.parameters(), settings.lr, momentum=0.9, weight_decay=settings.weight_decay
            )


def learning_rate(settings: Optimizer, step: int, epochs: int, steps_per_epoch: int) -> float:
    """The rate of a run's step, counted from 0: a pure function, so that it resumes.

    step: lr times the factor of the last pair whose epoch, counted from 1, is over.
    one_cycle: from lr / 25 up to lr over 30 % of the run, then down to lr / 250000, both along a half cosine
    (Smith and Topin 2018, arXiv:1708.07120; the same numbers as torch's OneCycleLR).
    """
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        over = [factor for epoch, factor in settings.steps if step >= epoch * steps_per_epoch]
        return settings.lr * (over[-1] if over else 1)
    steps = epochs * steps_per_epoch
    start, end, peak, last = settings.lr / 25, settings.lr / 250_000, 0.3 * steps - 1, steps - 1
    if step <= peak:
        return _half_cosine(start, settings.lr, step / peak)
    return _half_cosine(settings.lr, end, (step - peak) / (last - peak))


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + cos(pi * share)) / 2


def _fold(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def _world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
