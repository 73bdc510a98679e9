"""A network with all that a step of training changes, and the step itself."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seg.errors import RequestError
from seg.models.build import find_encoder
from seg.pack.crops import Batch
from seg.predict.passes import autocast
from seg.recipe import Optimizer, Recipe
from seg.train.losses import Loss, mean_loss


def build_optimizer(
    model: nn.Module, settings: Optimizer, *, fused: bool = True, encoder_lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters.

    fused: one kernel for all of a step, which torch has for CPUs and CUDA; else what torch chooses, which
    rounds otherwise. encoder_lr_factor: the encoder's rate as a share of the others', `factor` of its group.
    """
    lr, decay = settings.lr, settings.weight_decay
    encoder = set(find_encoder(model).parameters()) if encoder_lr_factor != 1 else set()
    parameters: list[dict[str, Any]] = [
        {"params": [value for value in model.parameters() if value not in encoder], "factor": 1.0}
    ]
    if encoder:
        slower = [value for value in model.parameters() if value in encoder]
        parameters.append({"params": slower, "factor": encoder_lr_factor})
    kernel = fused or None  # False would choose the slow loop where torch's own choice is foreach
    match settings.name:
        case "adam":
            return torch.optim.Adam(parameters, lr, settings.betas, settings.eps, decay, fused=kernel)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, settings.betas, settings.eps, decay, fused=kernel)
        case "sgd":
            momentum, nesterov = settings.momentum, settings.nesterov
            return torch.optim.SGD(
                parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=kernel
            )


def learning_rate(settings: Optimizer, step: int, epochs: int, steps_per_epoch: int) -> float:
    """The rate of a run's step, counted from 0, in a run of so many epochs.

    step: lr times the factor of the last pair whose epoch, counted from 1, is over.
    one_cycle: from lr / 25 up to lr over 30 % of the run, then down to lr / 250000, both along a half cosine
    (Smith and Topin 2018, arXiv:1708.07120; the same numbers as torch's OneCycleLR).
    cosine: half a cosine from lr down to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts).
    poly: lr times (1 - share of the run that is over)^poly_power (Chen et al. 2017, arXiv:1606.00915).
    In a warm-up, step k of n has k / n of lr (k from 1); cosine and poly then run over what is left.
    """
    steps = epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    over = (step - warmup) / max(1, steps - warmup)
    match settings.schedule:
        case "constant":
            return settings.lr
        case "step":
            factors = [factor for epoch, factor in settings.steps if step >= epoch * steps_per_epoch]
            return settings.lr * (factors[-1] if factors else 1)
        case "cosine":
            return _half_cosine(settings.lr, 0.0, over)
        case "poly":
            return settings.lr * (1 - over) ** settings.poly_power
        case "one_cycle":
            return _one_cycle(settings.lr, step, steps)


def _one_cycle(lr: float, step: int, steps: int) -> float:
    start, end, peak, last = lr / 25, lr / 250_000, 0.3 * steps - 1, steps - 1
    if step <= peak:
        return _half_cosine(start, lr, step / peak)
    return _half_cosine(lr, end, (step - peak) / (last - peak))


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + cos(pi * share)) / 2


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `world_size`, its `rank` counted from 0."""

    rank: int = 0
    world_size: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value added over all ranks, in place and returned."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return once every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


def find_ranks() -> Ranks:
    """The ranks that torch.distributed connects now."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found, the same on every rank: the whole batch's loss, and whether it was left out."""

    loss: float
    skipped: bool


class Learner:
    """A model, its optimiser, its loss scale (fp16) and the moving average of its weights.

    Every rank holds the same weights. Batch norm's running statistics are a rank's own until `agree`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        recipe: Recipe,
        device: torch.device,
        ranks: Ranks,
        *,
        fused: bool = True,
    ) -> None:
        """recipe: with the batch that is trained on; fused: as of `build_optimizer`.

        RequestError: synchronised batch norm without GPUs, or with unequal shares of a batch.
        """
        self.recipe, self.loss, self.device, self.ranks = recipe, loss, device, ranks
        if recipe.batch_norm == "synchronised" and ranks.world_size > 1:
            _check_sync(recipe, device, ranks)
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.frozen = find_encoder(self.model) if recipe.freeze == "encoder" else nn.Identity()
        self.frozen.requires_grad_(False)
        self.optimizer = build_optimizer(
            self.model, recipe.optimizer, fused=fused, encoder_lr_factor=recipe.encoder_lr_factor
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.average = _build_average(self.model, recipe.ema_decay)
        self.replica: DistributedDataParallel | None = None
        self.network: Callable[[Tensor], Any] = self.model
        if recipe.compile and ranks.world_size == 1:
            self.network = torch.compile(self.model)
        self.idle: list[str] = []
        """Parts that no gradient reached in the first step of several ranks; they are frozen."""

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the average where there is one, else the model."""
        return self.model if self.average is None else self.average.module

    def begin_epoch(self) -> None:
        """Make the network train, but for batch norm, or an encoder, where a recipe freezes it."""
        self.model.train()
        self.frozen.eval()
        if self.recipe.batch_norm == "frozen":
            for layer in self.model.modules():
                if isinstance(layer, BatchNorm):
                    layer.eval()

    def step(self, batch: Batch, rate: float, num_classes: int) -> StepResult:
        """One step with this rank's share of a batch, at a learning rate.

        Where the loss or a gradient is not finite nothing changes: weights, moments, running statistics and
        average stay as they were.
        """
        parts = [part.to_inputs(self.device) for part in batch.split(self.recipe.accumulate)]
        weights = torch.stack([self.loss.weigh(truth, num_classes) for _, truth in parts]).sum(0)
        self.ranks.sum(weights)
        before = [buffer.clone() for buffer in self.model.buffers()]
        if self.ranks.world_size > 1 and self.replica is None:
            self._connect(*parts[0], weights)
            self._put_back(before)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for number, (images, truth) in enumerate(parts, start=1):
            with self._exchanging(last=number == len(parts)):
                loss += self._backward(images, truth, weights)
        self.scaler.unscale_(self.optimizer)
        gradients = [value.grad for value in self.model.parameters() if value.grad is not None]
        norm = get_total_norm(gradients)
        total, size = torch.stack((self.ranks.sum(loss), norm)).tolist()
        # a loss scale that is too high shows as gradients that are not finite: the scaler lowers it by itself
        skipped = not isfinite(total) or not (isfinite(size) or self.scaler.is_enabled())
        if skipped:
            self._put_back(before)
        else:
            self._update(norm, rate, finite=isfinite(size))
        if self.scaler.is_enabled():
            self.scaler.update()
        return StepResult(total, skipped)

    def _connect(self, images: Tensor, truth: Tensor, weights: Tensor) -> None:
        """Let ranks exchange gradients, of the parameters that this first part of a step gives some.

        DDP waits for the gradient of each that is not frozen: where one never comes, in vain, and its second
        step fails. Costs a pass forward and back, and leaves the random generators as they were.
        """
        named = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            with autocast(self.device, self.recipe.precision):
                logits = self.model(images)
            loss = mean_loss(self.loss.sums(logits, truth), weights)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        reached = torch.tensor([gradient is not None for gradient in gradients], device=self.device).int()
        everywhere = (self.ranks.sum(reached) == self.ranks.world_size).tolist()
        idle = {name for name, is_reached in zip(named, everywhere, strict=True) if not is_reached}
        for name in idle:
            named[name].requires_grad_(False)
        self.idle = name_parts(self.model, idle)
        # running statistics are not needed before `agree`: broadcasting them each step would cost a wait
        self.replica = DistributedDataParallel(
            self.model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        self.network = torch.compile(self.replica) if self.recipe.compile else self.replica

    def _put_back(self, buffers: list[Tensor]) -> None:
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(value)

    def _backward(self, images: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Add a part's gradients; returns its share of the batch's loss, of which the sum is the whole."""
        with autocast(self.device, self.recipe.precision):
            logits = self.network(images)
        loss = mean_loss(self.loss.sums(logits, truth), weights)
        # DDP takes the mean over ranks of what must be a sum
        self.scaler.scale(loss * self.ranks.world_size).backward()
        return loss.detach()

    def _exchanging(self, *, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients once a step: with its last part."""
        return nullcontext() if last or self.replica is None else self.replica.no_sync()

    def _update(self, norm: Tensor, rate: float, *, finite: bool) -> None:
        if self.recipe.optimizer.clip_norm:
            clip_grads_with_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        if finite:  # torch 2.15's fused SGD, left to skip a first step itself, keeps momenta that nothing set
            self.scaler.step(self.optimizer)
        if self.average is not None and finite:
            self.average.update_parameters(self.model)

    def agree(self) -> None:
        """Give every rank the running statistics of rank 0, which are the model file's."""
        buffers = list(self.model.buffers())
        if self.average is not None:
            buffers += self.average.module.buffers()
        self.ranks.copy_from_first(buffers)

    def tensors(self) -> dict[str, Tensor]:
        """All that steps changed, by name, on the CPU; `restore` takes it back.

        Random generators are not in it: each epoch reseeds them from (seed, epoch, rank).
        """
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        if self.average is not None:
            named |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        scale = self.scaler.state_dict()  # empty but for fp16
        named |= {f"scale.{name}": torch.tensor(value, dtype=torch.float64) for name, value in scale.items()}
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self.model.load_state_dict(_below("model", tensors))
        weights = [value for group in self.optimizer.param_groups for value in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer", tensors).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = _lay_out(value, weights[int(index)])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        if self.average is not None:
            self.average.load_state_dict(_below("average", tensors))
        if scale := {name: value.item() for name, value in _below("scale", tensors).items()}:
            counts = {name: int(scale[name]) for name in ("growth_interval", "_growth_tracker")}
            self.scaler.load_state_dict(scale | counts)


def _check_sync(recipe: Recipe, device: torch.device, ranks: Ranks) -> None:
    if device.type != "cuda":
        raise RequestError("recipe: batch_norm synchronised is for GPUs; use `batch_norm=own` on CPUs")
    if recipe.batch % ranks.world_size:
        raise RequestError(
            f"recipe: batch_norm synchronised wants equal shares, but a batch of {recipe.batch} falls to "
            f"{ranks.world_size} workers; choose `batch` as a multiple of the workers"
        )


def _build_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of a model's weights and running statistics; the first step's are its beginning."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).eval()


def name_parts(model: nn.Module, parameters: Collection[str]) -> list[str]:
    """Names of the largest modules that have none but these parameters, and of the parameters left over."""
    left, parts = set(parameters), []
    for path, module in model.named_modules():  # the outer ones first
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters()}
        if own and own <= left:
            parts.append(path or "all of it")
            left -= own
    return parts + sorted(left)


def _lay_out(moment: Tensor, weight: Tensor) -> Tensor:
    """A moment from a file with its numbers in the places in memory that its weight's have.

    Fused kernels of torch 2.15 pair the two by their place, and its foreach kernels are slow where they
    differ, as from a file, where all lies channel by channel.
    """
    if moment.shape != weight.shape:  # the number of steps
        return moment
    return torch.empty_like(weight, dtype=moment.dtype, device=moment.device).copy_(moment)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
