"""Losses as sums and the weights that divide them, so that workers together find the whole batch's loss.

Each is called with logits, float [N, C, H, W], truth, int64 [N, H, W], 255 ignored, and class_weights, [C],
and returns its sum, a scalar. `weigh` gives what divides it, float64, for which the truth is enough.
"""

import re
from dataclasses import dataclass, fields
from math import inf, isfinite

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seg.data.labels import IGNORE
from seg.errors import RequestError, describe_unknown


class PixelLoss:
    """A sum over pixels, each of which counts what its true class weighs."""

    __slots__ = ()

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight of the counted pixels."""
        return weigh_pixels(truth, class_weights).sum(dtype=torch.float64)


class RegionLoss:
    """A sum over regions, which measures overlap; each counts what its class weighs.

    A region is one class in one crop, where the crop's truth has that class. So each worker's crops make
    regions of their own, and the workers' sums add up to those of the whole batch.
    """

    __slots__ = ()

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight of the regions that are there."""
        return (class_weights * find_regions(truth, len(class_weights))).sum(dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class CrossEntropy(PixelLoss):
    """Negative log-likelihood of the true class; sum / weight is torch's CrossEntropyLoss(weight), mean.

    smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7. A pixel's weight then holds for its whole
    target. In torch the share that goes to a class is multiplied by that class's weight, so that weights move
    the best prediction and pixels of weight 0 still count (pytorch/pytorch#104776).
    """

    smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes, from 0 to below 1."""

    def __post_init__(self) -> None:
        check_parameter("cross_entropy", "smoothing", self.smoothing, below=1)

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The sum, as the module says."""
        if not self.smoothing:
            return F.cross_entropy(logits, truth, class_weights, ignore_index=IGNORE, reduction="sum")
        log_p = logits.log_softmax(1)
        total = F.nll_loss(log_p, truth, class_weights, ignore_index=IGNORE, reduction="sum")
        even = -(weigh_pixels(truth, class_weights) * log_p.mean(1)).sum()
        return (1 - self.smoothing) * total + self.smoothing * even


@dataclass(frozen=True, slots=True)
class Asymmetric(PixelLoss):
    """Cross entropy with a focus of its own on other classes (Ben-Baruch et al. 2021, arXiv:2009.14119).

    The paper's section 2 in the single-label form of its authors' release, with softmax for sigmoid: of the
    smoothed target, the true class's share is times -(1 - p)^gamma_pos ln p, that of each other class times
    -p^gamma_neg ln p. Without smoothing only the true class counts, and this is focal with gamma_pos.
    """

    gamma_neg: float = 4.0
    """Focus on the other classes, 0 or more; the higher, the less counts an improbable one."""
    gamma_pos: float = 0.0
    """Focus on the true class, 0 or more; the higher, the less counts a probable one."""
    smoothing: float = 0.1
    """Share of the target that is spread evenly over all classes, from 0 to below 1."""

    def __post_init__(self) -> None:
        check_parameter("asymmetric", "gamma_neg", self.gamma_neg)
        check_parameter("asymmetric", "gamma_pos", self.gamma_pos)
        check_parameter("asymmetric", "smoothing", self.smoothing, below=1)

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The sum, as the module says."""
        log_p = logits.log_softmax(1)
        nll = F.nll_loss(log_p, truth, ignore_index=IGNORE, reduction="none")  # 0 where ignored
        classes = torch.arange(logits.shape[1], device=truth.device)[:, None, None]
        by_class = -log_p * (self.gamma_neg * log_p).exp()
        others = by_class.masked_fill(truth[:, None] == classes, 0).sum(1)
        share = self.smoothing / logits.shape[1]
        losses = (1 - self.smoothing + share) * focus(nll, self.gamma_pos) + share * others
        return (weigh_pixels(truth, class_weights) * losses).sum()


@dataclass(frozen=True, slots=True)
class Focal(PixelLoss):
    """Cross entropy times alpha (1 - p)^gamma (Lin et al. 2017, arXiv:1708.02002, section 3.2).

    p is the true class's probability. Unlike the paper: softmax for sigmoid; alpha is one factor of the whole
    loss, where the paper's differs between foreground and background, as class weights do; and the sum is
    divided by all counted pixels, as cross entropy's, rather than by those of the foreground.
    """

    alpha: float = 1.0
    """Factor of the loss, above 0."""
    gamma: float = 2.0
    """Focus, 0 or more; the higher, the less counts a pixel that is nearly right. 0 is cross entropy."""

    def __post_init__(self) -> None:
        check_parameter("focal", "alpha", self.alpha, above=True)
        check_parameter("focal", "gamma", self.gamma)

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The sum, as the module says."""
        nll = F.cross_entropy(logits, truth, ignore_index=IGNORE, reduction="none")  # 0 where ignored
        return self.alpha * (weigh_pixels(truth, class_weights) * focus(nll, self.gamma)).sum()


def focus(nll: Tensor, gamma: float) -> Tensor:
    """Losses -ln p times (1 - p)^gamma, with a finite gradient also where p is 1."""
    miss = -torch.expm1(-nll)  # 1 - p without cancellation
    return miss.clamp(min=torch.finfo(nll.dtype).tiny) ** gamma * nll  # d/dx x^0.5 is infinite at 0


def weigh_pixels(truth: Tensor, class_weights: Tensor) -> Tensor:
    """The weight of each pixel's true class, [N, H, W]; 0 where ignored."""
    table = F.pad(class_weights, (0, IGNORE + 1 - len(class_weights)))
    return table[truth]


def check_parameter(loss: str, name: str, value: float, *, above: bool = False, below: float = inf) -> None:
    """Refuse a value outside [0, below), or where `above` is set (0, below), or that is no number."""
    if not 0 <= value < below or (above and value == 0):
        wanted = ("above 0" if above else "from 0 up") if below == inf else f"from 0 to below {below:g}"
        raise RequestError(f"loss {loss}: {name} is {value:g}, not a number {wanted}")


@dataclass(frozen=True, slots=True)
class Dice(RegionLoss):
    """1 - 2 sum(p g) / (sum(p) + sum(g)) of each region (Sudre et al. 2017, arXiv:1707.03237, section 2).

    g is 1 on the class's true pixels, p its probability, both summed over the crop's counted pixels. Unlike
    the paper: only classes that the crop's truth has make a region, so nothing needs smoothing.
    """

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The sum, as the module says."""
        probabilities, is_class = split_by_class(logits, truth)
        true_px = is_class.sum(2)  # [N, C]
        overlap = (probabilities * is_class).sum(2)
        ratios = 2 * overlap / (probabilities.sum(2) + true_px).where(true_px > 0, 1)
        return (class_weights * (true_px > 0) * (1 - ratios)).sum()


@dataclass(frozen=True, slots=True)
class Lovasz(RegionLoss):
    """Lovasz-softmax of each region, a surrogate of 1 - IoU (Berman et al. 2018, arXiv:1705.08790).

    A pixel's error is 1 - p on the class's true pixels and p on others. The loss is the Lovasz extension, at
    these errors, of what 1 - IoU becomes as pixels turn wrong, the largest error first. It is 1 - IoU itself
    where every p is 0 or 1. Like the paper's, it counts the classes that are there; unlike it, by crop.
    """

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The sum, as the module says."""
        probabilities, is_class = split_by_class(logits, truth)
        errors = (is_class.to(probabilities.dtype) - probabilities).abs()  # [N, C, pixels]; 0 where ignored
        other = (truth != IGNORE).flatten(1)[:, None] & ~is_class
        losses = (errors * lovasz_steps(errors, is_class, other)).sum(2)
        return (class_weights * is_class.any(2) * losses).sum()


def lovasz_steps(errors: Tensor, is_class: Tensor, other: Tensor) -> Tensor:
    """By how much 1 - IoU grows when each pixel turns wrong, after all with larger errors, [N, C, pixels].

    It follows from the errors' order alone, so it has no gradient.
    errors: float; is_class, other: the class's true pixels, and the counted ones of other classes. Without
    either a pixel is ignored: it adds nothing to intersection or union, wherever it is sorted to.

    The steps are written out, 1 / union where a true pixel is lost and intersection / (union (union - 1))
    where another is taken: as differences of 1 - IoU they would keep 2 of float32's 7 digits at 10^5 pixels.
    """
    order = errors.argsort(-1, descending=True)
    lost, taken = is_class.gather(-1, order), other.gather(-1, order)
    true_px = is_class.sum(-1, keepdim=True, dtype=torch.int32)
    intersection = true_px - lost.cumsum(-1, dtype=torch.int32)
    union = (true_px + taken.cumsum(-1, dtype=torch.int32)).to(errors.dtype)
    steps = lost / union.clamp(min=1) + taken * intersection / (union * (union - 1)).clamp(min=1)
    return torch.empty_like(errors).scatter_(-1, order, steps)


def split_by_class(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, 0 where ignored, and whether a pixel is truly of the class, both [N, C, pixels]."""
    classes = torch.arange(logits.shape[1], device=truth.device)[:, None, None]
    is_class = truth[:, None] == classes
    probabilities = logits.softmax(1) * (truth != IGNORE)[:, None]
    return probabilities.flatten(2), is_class.flatten(2)


def find_regions(truth: Tensor, num_classes: int) -> Tensor:
    """Whether each crop's truth, int64 [N, H, W], has each class: bool [N, C]."""
    codes = truth.clamp(max=num_classes).flatten(1)  # the last column takes what is ignored
    present = torch.zeros(len(truth), num_classes + 1, dtype=torch.bool, device=truth.device)
    return present.scatter_(1, codes, True)[:, :num_classes]


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
        num_classes = (logits if isinstance(logits, Tensor) else logits[0]).shape[1]
        return self.sums(logits, truth), self.weigh(truth, num_classes)

    def sums(self, logits: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
        """The sums that a call returns."""
        outputs = (logits,) if isinstance(logits, Tensor) else logits
        output_weights = (1.0,) if isinstance(logits, Tensor) else self.output_weights
        if len(outputs) != len(output_weights):
            raise ValueError(f"{len(outputs)} outputs of the model for {len(output_weights)} output weights")
        with torch.autocast(truth.device.type, enabled=False):
            resized = [resize_logits(output, truth) for output in outputs]
            class_weights, ids = self.spread_weights(resized[0]), truth.long()
            sums = torch.stack(
                [torch.stack([part(output, ids, class_weights) for part in self.parts]) for output in resized]
            )
        return (sums * place_beside(sums, output_weights)[:, None]).sum(0)

    def weigh(self, truth: Tensor, num_classes: int) -> Tensor:
        """The weights that a call returns: one for all outputs, as they need the truth alone."""
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
