"""The training loop: plain PyTorch, in one process or in one of several that torch.distributed connects."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import nan, prod
from pathlib import Path
from platform import node

import numpy as np
import torch
from numpy.typing import NDArray

from seg import metrics
from seg.data.preprocess import Statistics
from seg.errors import OutOfMemory, RequestError, TrainingDiverged
from seg.files import persistently, write_bytes
from seg.locks.folder_lock import check_owner
from seg.model_card import ModelCard, Provenance
from seg.model_file import code_version, package_versions, save_model
from seg.models.build import output_weights, refuse_older
from seg.pack.crops import Batch, CropSampler
from seg.pack.pack import Pack
from seg.pack.training_data import TrainingData, open_packs
from seg.plain_data import Measured
from seg.predict.averaging import average
from seg.predict.predictor import Predictor
from seg.predict.tiling import place_grid
from seg.recipe import TTA_VIEWS, Recipe
from seg.train import state
from seg.train.learner import Learner, find_ranks, learning_rate
from seg.train.losses import build_loss, median_frequency_weights
from seg.train.origin import Origin
from seg.train.start import build_start
from seg.train.state import EpochResult, Journal, State
from seg.train.store import CheckpointStore
from seg.train.validation import LossTotal, count_confusion

SKIPS_ALLOWED = 9
"""Steps in a row whose loss was not finite; one more ends the training."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step of training that is done."""

    epoch: int
    step: int
    """In the epoch; both from 1."""
    steps: int
    """In an epoch."""
    loss: Measured
    """The whole batch's, over all workers."""
    rate: float
    crops_per_second: float
    """Over all workers, of the epoch so far."""
    wait_share: float
    """Share of the epoch's time so far that this rank waited for crops."""
    skipped: int
    """Steps of the epoch so far that were left out, their loss not being finite."""
    validated: int = 0
    """Images that this rank has validated after the epoch's last step, whose report this then is."""
    to_validate: int = 0
    """Of how many; 0: it has not begun to."""


OnStep = Callable[[StepReport], None]

STAGES = ("loading", "computing", "validating")
"""What a rank does in a step, in this order; it validates after an epoch's last."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a training a rank is."""

    epoch: int
    step: int
    """In the epoch; both from 1, 0 before they begin."""
    stage: str
    """One of STAGES."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Rises as the training goes on."""
        return self.epoch, self.step, STAGES.index(self.stage)


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process held so far: on a GPU of torch's tensors, else resident.

    Of Linux's figures VmHWM, in KiB: that of getrusage begins with what the process was forked from.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


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
    horizon: int = 0
    """Epochs that the learning rate's schedule goes over, then its last rate stays; 0: the recipe's."""
    fused: bool = True
    """Whether it is begun with fused kernels: see `Journal`, whose word counts once there is a state."""
    keep_best: int = 1
    """How many of the best epochs' model files stay."""
    keep_states: int = 2
    """How many of the newest states stay."""
    store: CheckpointStore | None = None
    """Elsewhere, with a copy of states and best model files."""
    origin: Origin | None = None
    """The run with a state of which this one began."""
    lock: tuple[Path, str] | None = None
    """The folder that the job holds for this training, and the token of its lock."""

    @property
    def keeps_epochs(self) -> bool:
        """Whether model files are kept by epoch, in best/, besides best.safetensors."""
        return self.keep_best > 1 or self.store is not None

    def check_owner(self) -> None:
        """To be called before anything is written there; errors as of `folder_lock.check_owner`."""
        if self.lock is not None:
            check_owner(*self.lock)


class Training:
    """A training in progress on this rank; picks up the state its folder holds."""

    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        """Open packs, build the network, load the last state. RequestError: recipe and data do not fit."""
        recipe = plan.recipe
        self.plan, self.recipe, self.device = plan, recipe, device
        self.ranks = find_ranks()
        self.train_pack, self.validation_pack = open_packs(plan.data, recipe)
        fitted = recipe.preprocessing.normalisation == "fitted"
        self.statistics = fit_statistics(self.train_pack, self.validation_pack) if fitted else None
        self.sampler = CropSampler(self.train_pack, recipe, seed=plan.seed, fitted=self.statistics)
        if self.sampler.batch < self.ranks.world_size:
            raise RequestError(
                f"{self.ranks.world_size} workers share a batch of {self.sampler.batch} crops; "
                "lower `workers`"
            )
        torch.manual_seed(plan.seed)
        found = state.newest_state(plan.folder)
        if found is None and plan.origin:  # without it the first epochs would be missing, in silence
            raise RequestError(
                f"no state in {plan.folder}/last is whole; remove {plan.folder} to begin again with that of "
                f"{plan.origin.folder}"
            )
        model, start = build_start(recipe, plan.data.classes, "none" if found else recipe.weights)
        loss = build_loss(
            recipe.loss,
            find_class_weights(recipe, self.train_pack),
            recipe.output_weights or output_weights(model),
        )
        used = replace(recipe, batch=self.sampler.batch)  # no more than there are samples
        new = Journal(fused=plan.fused, start_sha256=start and start.sha256)
        self.journal = found.journal if found else new
        self.learner = Learner(model, loss, used, device, self.ranks, fused=self.journal.fused)
        if found:
            names = {name.removeprefix("model.") for name in found.tensors}
            refuse_older(model, names, f"state in {plan.folder}")
            self.learner.restore(found.tensors)
        if start and self.ranks.rank == 0:
            plan.check_owner()
            write_bytes(plan.folder / "weights.log", "".join(f"{line}\n" for line in start.lines).encode())
        self.position = Position(self.journal.epochs_done, 0, "loading")
        """Where this rank is, for whoever watches it from another thread."""

    def epochs(self, on_step: OnStep | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left, one a step of the iterator; each is saved before it is yielded.

        on_step: told of each step, and of the last one again with each image that is then validated.
        TrainingDiverged: the loss was not finite too many times in a row. OutOfMemory: a step, or a window of
        validation, does not fit on this rank's device.
        """
        while not self.journal.is_finished(self.recipe):
            epoch = self.journal.epochs_done + 1
            started = time.perf_counter()
            torch.manual_seed(_fold(self.plan.seed, epoch, self.ranks.rank))
            trained = self._train_epoch(epoch, on_step)
            between = time.perf_counter()
            self.position = Position(epoch, trained.steps, "validating")
            height, width = self.recipe.tiling.crop_px
            what = f"a window of {height} x {width} px does not fit; lower `tiling.crop_px`"
            with self._refusing_memory(f"validation of epoch {epoch}", what):
                confusion, validation_loss = self.validate(partial(self._tell_validated, trained, on_step))
            ended = time.perf_counter()
            result = EpochResult(
                epoch=epoch,
                loss=trained.loss,
                lr=trained.rate,
                miou=metrics.mean_present(metrics.iou(confusion)),
                dice=metrics.mean_present(metrics.dice(confusion)),
                pixel_accuracy=metrics.pixel_accuracy(confusion),
                skipped_steps=trained.skipped,
                crops_per_second=trained.crops_per_second,
                wait_share=trained.wait_share,
                memory_bytes=peak_memory_bytes(self.device),
                validation_seconds=ended - between,
                seconds=ended - started,
                validation_loss=validation_loss,
            )
            self._save(result, confusion)
            yield result

    @property
    def validation_work(self) -> float:
        """Time that a validation takes as a share of an epoch's training, as far as pixels foretell it.

        A step's forward and backward pass are taken for three forward passes.
        """
        tiling = self.recipe.tiling
        grids = (
            place_grid(image.mask.shape, image.own_size, tiling) for image in self.validation_pack.images()
        )
        pixels = sum(len(grid.tiles) for grid in grids) * prod(tiling.crop_px)
        trained = self.sampler.steps_per_epoch * self.sampler.batch * prod(self.recipe.crops.size_px)
        return pixels * TTA_VIEWS[self.recipe.tta] / (3 * trained)

    def _tell_validated(self, trained: StepReport, on_step: OnStep | None, validated: int) -> None:
        mine = range(self.ranks.rank, len(self.validation_pack.labelled), self.ranks.world_size)
        if on_step is not None:
            on_step(replace(trained, validated=validated, to_validate=len(mine)))

    def _train_epoch(self, epoch: int, on_step: OnStep | None) -> StepReport:
        """Train all steps of an epoch; the last one's report, with the mean loss."""
        self.learner.begin_epoch()
        steps, losses, waited = self.sampler.steps_per_epoch, [], 0.0
        span = self.plan.horizon or self.recipe.epochs
        report = StepReport(epoch, 0, steps, nan, nan, 0.0, 0.0, 0)
        started = time.perf_counter()
        ranks, pin = self.ranks, self.device.type == "cuda"
        share = self.sampler.batches(epoch, rank=ranks.rank, world_size=ranks.world_size, pin=pin)
        with closing(share) as batches:
            for step in range(1, steps + 1):
                self.position = Position(epoch, step, "loading")
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                self.position = Position(epoch, step, "computing")
                done = (epoch - 1) * steps + step - 1
                rate = learning_rate(self.recipe.optimizer, min(done, span * steps - 1), span, steps)
                with self._refusing_memory(f"step {step} of epoch {epoch}", self._describe(batch)):
                    result = self.learner.step(batch, rate, len(self.plan.data.classes))
                losses += [] if result.skipped else [result.loss]
                self._count_skips(batch, epoch, step, skipped=result.skipped)
                seconds = time.perf_counter() - started
                speed, share = step * self.sampler.batch / seconds, waited / seconds
                report = StepReport(epoch, step, steps, result.loss, rate, speed, share, step - len(losses))
                if on_step is not None:
                    on_step(report)
        return replace(report, loss=sum(losses) / len(losses) if losses else nan)

    def _describe(self, share: Batch) -> str:
        recipe, (height, width) = self.recipe, self.recipe.crops.size_px
        return (
            f"{len(share.images)} crops of {height} x {width} px do not fit; lower `batch`, now "
            f"{recipe.batch}, or `crops.size_px`, or raise `accumulate`, now {recipe.accumulate}"
        )

    @contextmanager
    def _refusing_memory(self, when: str, what: str) -> Iterator[None]:
        """For the length of a block: memory that the device has not is the request's fault. OutOfMemory."""
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's has no class of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            where = f"worker {self.ranks.rank} on {node()} ({self.device.type})"
            raise OutOfMemory(f"{where} ran out of memory in {when}: {what}") from error

    def _count_skips(self, batch: Batch, epoch: int, step: int, *, skipped: bool) -> None:
        self.journal.skips = self.journal.skips + 1 if skipped else 0
        if self.journal.skips > SKIPS_ALLOWED:
            names = ", ".join(dict.fromkeys(batch.names))
            raise TrainingDiverged(
                f"the loss was not finite in {self.journal.skips} steps in a row, the last in step {step} "
                f"of epoch {epoch} with {names}; lower `optimizer.lr`, or look at these images"
            )

    def validate(
        self, on_image: Callable[[int], None] = lambda count: None
    ) -> tuple[NDArray[np.int64], float]:
        """Confusion matrix of all validation images at their own size, int64 [C, C], and their loss.

        Both are the same on every rank; the loss is NaN without any truth. Each image is counted on one rank,
        none twice: no padding, whatever the number of workers. on_image: told of each one of this rank's how
        many they are by then.
        """
        self.learner.agree()
        predictor = Predictor(
            average([self.learner.judged], self.recipe.tta),
            self.recipe.tiling,
            batch=1,
            device=self.device,
            precision=self.recipe.precision,
        )
        clips = self.validation_pack.clips(
            self.recipe.frames, first=self.ranks.rank, step=self.ranks.world_size
        )
        loss = LossTotal(self.learner.loss, self.device)
        confusion = count_confusion(
            predictor, clips, self.statistics, len(self.plan.data.classes), loss, on_image
        )
        return self.ranks.sum(confusion).cpu().numpy(), loss.mean(self.ranks)

    def _save(self, result: EpochResult, confusion: NDArray[np.int64]) -> None:
        """Best model file first, the state last: killed between the two, the epoch is trained again."""
        self.journal.history.append(result)
        self.journal.idle = self.learner.idle
        better = self._best_epochs(1) == [result.epoch]
        if better:
            self.journal.best_epoch, self.journal.best_miou = result.epoch, result.miou
            self.journal.best_confusion = confusion.tolist()
        if self.ranks.rank == 0:
            persistently(partial(self._write, result, confusion, better=better), str(self.plan.folder))
            if self.plan.store:
                self.plan.store.publish(self.plan.folder, result.epoch)
        self.ranks.wait()  # nobody goes on from an epoch that is not saved

    def _write(self, result: EpochResult, confusion: NDArray[np.int64], *, better: bool) -> None:
        """Write what an epoch changed; may be called again after it failed anywhere. LostLock: not ours.

        Before each file appears that is asked again: a process may be frozen while it writes, and its folder
        taken over.
        """
        plan, folder = self.plan, self.plan.folder
        plan.check_owner()
        files = [folder / "best.safetensors"] if better else []
        if plan.keeps_epochs and result.epoch in self._best_epochs(plan.keep_best):
            files.append(state.best_path(folder, result.epoch))
        for file in files:
            save_model(file, self.learner.judged, self.card(result, confusion), may_write=plan.check_owner)
        after = State(self.journal, self.learner.tensors())
        state.write_state(folder, after, plan.keep_states, may_write=plan.check_owner)
        if plan.keeps_epochs:
            state.settle_best(folder, self._best_epochs(plan.keep_best))

    def _best_epochs(self, keep: int) -> list[int]:
        return self.journal.best_epochs(keep, self.recipe.monitor)

    def card(self, result: EpochResult, confusion: NDArray[np.int64]) -> ModelCard:
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
            intensities=self.train_pack.intensities(),
            class_shares=self.train_pack.class_shares(),
            tiling=recipe.tiling,
            validation=asdict(result) | {"confusion": confusion.tolist()},
            provenance=Provenance(
                recipe=asdict(recipe),
                data_fingerprint=plan.data.fingerprint,
                code_version=code_version(),
                packages=package_versions(),
                seed=plan.seed,
                parent=plan.parent,
                start_sha256=self.journal.start_sha256,
            ),
        )


def fit_statistics(train: Pack, validation: Pack) -> Statistics:
    """Statistics of the training images' pixels. RequestError: a validation image has another bit depth."""
    fitted = train.pooled_statistics()
    for image in validation.images():
        if image.statistics.bit_depth != fitted.bit_depth:
            raise RequestError(
                f"data: {image.name} has {image.statistics.bit_depth} bits, the training images "
                f"{fitted.bit_depth}; use `preprocessing.normalisation=per_image`"
            )
    return fitted


def find_class_weights(recipe: Recipe, train: Pack) -> tuple[float, ...] | None:
    """A recipe's class weights, balanced over the training images where it asks for that; None: all alike."""
    if recipe.class_weights == "median_frequency":
        return median_frequency_weights(train.class_pixels())
    return recipe.class_weights or None


def _fold(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
