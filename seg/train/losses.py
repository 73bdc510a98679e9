"""Losses as sums and the weights that divide them, so that workers together find the whole batch's loss."""

import re
from dataclasses import dataclass, fields
from math import isfinite

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seg.errors import RequestError, describe_unknown
from seg.train.pixel_losses import Asymmetric, CrossEntropy, Focal
from seg.train.region_losses import Dice, Lovasz

LossPart = Asymmetric | CrossEntropy | Dice | Focal | Lovasz
LOSSES: dict[str, type[LossPart]] = {
    "asymmetric": Asymmetric,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "lovasz": Lovasz,
}
"""Losses by name; the fields of each are the parameters that a recipe may give it."""

PLUS = re.compile(r"\+(?![^()]*\))")  # not inside parentheses: 1e+3 is a number
PART = re.compile(r"\s*([^()]*?)\s*(?:\(([^()]*)\)\s*)?")


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum of losses, each over all outputs of a model; build_loss makes one from a recipe's words.

    class_weights: one a class, None counts all alike. output_weights: the model's OUTPUT_WEIGHTS, what each
    of its outputs counts, finest first.
    """

    parts: tuple[LossPart, ...]
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
        stay float64), and without waiting for the device.
        ValueError: the number of outputs or of classes is not that of their weights.
        """
        outputs = (logits,) if isinstance(logits, Tensor) else logits
        output_weights = (1.0,) if isinstance(logits, Tensor) else self.output_weights
        if len(outputs) != len(output_weights):
            raise ValueError(f"{len(outputs)} outputs of the model for {len(output_weights)} output weights")
        with torch.autocast(truth.device.type, enabled=False):
            resized = [resize_logits(output, truth) for output in outputs]
            class_weights, ids = self.spread_weights(resized[0]), truth.long()
            terms = [[part(output, ids, class_weights) for part in self.parts] for output in resized]
        sums = torch.stack([torch.stack([total for total, _ in output]) for output in terms])
        weights = torch.stack([weight for _, weight in terms[0]])  # the truth's alone: one for all outputs
        return (sums * place_beside(sums, output_weights)[:, None]).sum(0), weights

    def weigh(self, truth: Tensor, num_classes: int) -> Tensor:
        """The weights that a call returns, float64 [parts]: they need the truth alone."""
        class_weights = self.spread_weights(truth.new_empty((1, num_classes), dtype=torch.float32))
        ids = truth.long()
        return torch.stack([part.weigh(ids, class_weights) for part in self.parts])

    def spread_weights(self, logits: Tensor) -> Tensor:
        """Class weights as a tensor [C] beside the logits."""
        num_classes = logits.shape[1]
        if self.class_weights is None:
            return logits.new_ones(num_classes)
        if len(self.class_weights) != num_classes:
            raise ValueError(f"{len(self.class_weights)} class weights for {num_classes} classes")
        return place_beside(logits, self.class_weights)


def build_loss(
    spec: str, class_weights: tuple[float, ...] | None = None, output_weights: tuple[float, ...] = (1.0,)
) -> Loss:
    """The loss that a recipe names: "cross_entropy", or a sum such as "focal(alpha=0.8, gamma=2) + dice".

    RequestError: a loss or parameter that LOSSES does not know, with the near matches and all names; a value
    that is no number or out of its range; class weights below zero.
    """
    parts = tuple(build_part(part) for part in PLUS.split(spec))
    if class_weights is not None and not all(isfinite(weight) and weight >= 0 for weight in class_weights):
        raise RequestError(f"class weights are {class_weights}; each must be a number from 0 up")
    return Loss(parts, class_weights, output_weights)


def build_part(text: str) -> LossPart:
    """One loss of a sum: its name and, in parentheses, the parameters that are not left at their defaults."""
    found = PART.fullmatch(text)
    if found is None:
        raise RequestError(f"loss {text.strip()!r} is not like dice, or like focal(alpha=0.8, gamma=2)")
    name, listed = found[1], found[2] or ""
    if name not in LOSSES:
        raise RequestError(describe_unknown("loss", name, LOSSES))
    known = [field.name for field in fields(LOSSES[name])]
    values: dict[str, float] = {}
    for item in listed.split(",") if listed.strip() else ():
        key, value = parse_parameter(name, item, known)
        if key in values:
            raise RequestError(f"loss {name}: {key} is given twice")
        values[key] = value
    return LOSSES[name](**values)


def parse_parameter(loss: str, item: str, known: list[str]) -> tuple[str, float]:
    """Name and value of "gamma=2"."""
    key, equals, value = (word.strip() for word in item.partition("="))
    if not known:
        raise RequestError(f"loss {loss} takes no parameters, but {item.strip()!r} is given")
    if not equals:
        raise RequestError(f"loss {loss}: {item.strip()!r} is not like {known[0]}=1")
    if key not in known:
        raise RequestError(describe_unknown(f"parameter of {loss}", key, known))
    try:
        return key, float(value)
    except ValueError:
        raise RequestError(f"loss {loss}: {key} is {value!r}, not a number") from None


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


def place_beside(tensor: Tensor, values: tuple[float, ...]) -> Tensor:
    """Values as a tensor of another's type and device; `new_tensor` would wait for a GPU to be idle."""
    return torch.tensor(values, dtype=tensor.dtype).to(tensor.device, non_blocking=True)


def median_frequency_weights(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """Weights that balance the classes, in id order (Eigen and Fergus 2015, arXiv:1411.4734, section 6.3.2).

    A class's frequency is its pixels over all pixels of the images that it appears in; its weight is the
    median frequency over its own, so rare classes weigh above 1 and frequent ones below.
    pixels: of each class in each training image [images, C]; ignored pixels are left out, unlike the paper,
    which has none.
    RequestError, naming the ids: a class that no image has, since it has no frequency.
    """
    by_class = pixels.sum(0)
    absent = np.flatnonzero(by_class == 0)
    if absent.size:
        raise RequestError(
            f"class_weights median_frequency: no training image has a pixel of class id "
            f"{', '.join(map(str, absent))}; give class_weights as numbers, one a class"
        )
    of_images = np.where(pixels > 0, pixels.sum(1, keepdims=True), 0).sum(0)
    frequencies = by_class / of_images
    return tuple((np.median(frequencies) / frequencies).tolist())
