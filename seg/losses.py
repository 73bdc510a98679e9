"""Losses as sums and the weights that divide them, so that workers together find the whole batch's loss."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from seg.errors import RequestError, describe_unknown

IGNORED = 255


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum of losses, each over all outputs of a model; build_loss makes one from its name.

    parts: keys of LOSSES. class_weights: one a class, None counts all alike. output_weights: the model's
    OUTPUT_WEIGHTS, what each of its outputs counts, finest first.
    """

    parts: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None
    output_weights: tuple[float, ...] = (1.0,)

    def __call__(self, logits: Tensor | tuple[Tensor, ...], truth: Tensor) -> tuple[Tensor, Tensor]:
        """Sums and weights of the parts; mean_loss divides them. The parts and workers' crops add up.

        logits: float [N, C, h, w], one tensor (which counts 1) or a tuple, one for each output weight; a size
        other than the truth's is interpolated to it (bilinear, align_corners=False): ids are never shrunk.
        truth: uint8 class ids [N, H, W]; pixels of 255 count nothing and have no gradient.
        Returns sums, float32 [parts], differentiable, and weights, float64 [parts], without gradient: for a
        pixel loss the number of counted pixels, for a region loss that of regions, each times its class's
        weight. Both are zero where nothing counts. Computed in float32 whatever autocast says (float64 logits
        stay float64).
        ValueError: the number of outputs or of classes is not that of their weights.
        """
        outputs = (logits,) if isinstance(logits, Tensor) else logits
        output_weights = (1.0,) if isinstance(logits, Tensor) else self.output_weights
        if len(outputs) != len(output_weights):
            raise ValueError(f"{len(outputs)} outputs of the model for {len(output_weights)} output weights")
        with torch.autocast(truth.device.type, enabled=False):
            resized = [resize_logits(output, truth) for output in outputs]
            class_weights, ids = self.spread_weights(resized[0]), truth.long()
            terms = [[LOSSES[part](output, ids, class_weights) for part in self.parts] for output in resized]
        sums = torch.stack([torch.stack([total for total, _ in output]) for output in terms])
        weights = torch.stack([weight for _, weight in terms[0]])  # the truth's alone: one for all outputs
        return (sums * sums.new_tensor(output_weights)[:, None]).sum(0), weights

    def spread_weights(self, logits: Tensor) -> Tensor:
        """Class weights as a tensor [C] beside the logits."""
        num_classes = logits.shape[1]
        if self.class_weights is None:
            return logits.new_ones(num_classes)
        if len(self.class_weights) != num_classes:
            raise ValueError(f"{len(self.class_weights)} class weights for {num_classes} classes")
        return logits.new_tensor(self.class_weights)


def build_loss(
    spec: str, class_weights: tuple[float, ...] | None = None, output_weights: tuple[float, ...] = (1.0,)
) -> Loss:
    """The loss that a recipe names: "cross_entropy", or a sum such as "cross_entropy+dice".

    RequestError: a name that is not in LOSSES, with the near matches and all names; class weights below zero.
    """
    parts = tuple(part.strip() for part in spec.split("+"))
    for part in parts:
        if part not in LOSSES:
            raise RequestError(describe_unknown("loss", part, LOSSES))
    if class_weights is not None and not all(isfinite(weight) and weight >= 0 for weight in class_weights):
        raise RequestError(f"class weights are {class_weights}; each must be a number from 0 up")
    return Loss(parts, class_weights, output_weights)


def mean_loss(sums: Tensor, weights: Tensor) -> Tensor:
    """The loss to differentiate, a scalar: each sum divided by its weight, added; 0 where nothing counts.

    Over several workers: all-reduce `weights`, but not `sums`; the workers' results then add up to the whole
    batch's loss, and their gradients too. DDP takes the mean of gradients: multiply by the number of workers.
    """
    return (sums / weights.where(weights > 0, 1)).sum()


def resize_logits(logits: Tensor, truth: Tensor) -> Tensor:
    """Logits in float32 (or float64) at the truth's height and width."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.shape[-2:] == truth.shape[-2:]:
        return logits
    return F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)


def cross_entropy(logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of each pixel; sum / weight is torch's CrossEntropyLoss(weight), mean.

    Like all of LOSSES it takes logits, float [N, C, H, W], truth, int64 [N, H, W], and class_weights, [C],
    and returns (sum, weight), two scalars.
    """
    total = F.cross_entropy(logits, truth, class_weights, ignore_index=IGNORED, reduction="sum")
    return total, weigh_pixels(truth, class_weights).sum(dtype=torch.float64)


def focal(logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy times (1 - p)^2 (Lin et al. 2017, arXiv:1708.02002, section 3.2).

    p is the true class's probability, gamma the paper's 2; class_weights are its alpha. Unlike the paper:
    softmax for sigmoid, and divided by all counted pixels rather than by those of the foreground, as cross
    entropy is.
    """
    nll = F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="none")  # 0 where ignored
    weights = weigh_pixels(truth, class_weights)
    miss = -torch.expm1(-nll)  # 1 - p without cancellation
    return (weights * miss.square() * nll).sum(), weights.sum(dtype=torch.float64)


def dice(logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """1 - 2 sum(p g) / (sum(p) + sum(g)) of each region (Sudre et al. 2017, arXiv:1707.03237, section 2).

    A region is one class in one crop: g is 1 on the class's true pixels, p its probability, both summed over
    the crop's counted pixels. Unlike the paper: only classes that the crop's truth has make a region, so
    nothing needs smoothing, and class_weights weigh regions.
    """
    classes = torch.arange(logits.shape[1], device=truth.device)[:, None, None]
    is_class = truth[:, None] == classes  # [N, C, H, W]
    probabilities = logits.softmax(1) * (truth != IGNORED)[:, None]
    overlap = (probabilities * is_class).sum((2, 3))
    true_px = is_class.sum((2, 3))  # [N, C]
    present = true_px > 0
    ratio = 2 * overlap / (probabilities.sum((2, 3)) + true_px).where(present, 1)
    return (class_weights * present * (1 - ratio)).sum(), (class_weights * present).sum(dtype=torch.float64)


def weigh_pixels(truth: Tensor, class_weights: Tensor) -> Tensor:
    """The weight of each pixel's true class, [N, H, W]; 0 where ignored."""
    table = F.pad(class_weights, (0, IGNORED + 1 - len(class_weights)))
    return table[truth]


LossPart = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
LOSSES: dict[str, LossPart] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
}
