"""Losses that sum over regions, which measure overlap: dice, and Lovasz-softmax for intersection over union.

A region is one class in one crop, where the crop's truth has that class. So each worker's crops make regions
of their own, and the workers' sums add up to those of the whole batch.

Each is called with logits, float [N, C, H, W], truth, int64 [N, H, W], 255 ignored, and class_weights, [C].
It returns (sum, weight), two scalars; a region counts what its class weighs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seg.data.labels import IGNORE


@dataclass(frozen=True, slots=True)
class Dice:
    """1 - 2 sum(p g) / (sum(p) + sum(g)) of each region (Sudre et al. 2017, arXiv:1707.03237, section 2).

    g is 1 on the class's true pixels, p its probability, both summed over the crop's counted pixels. Unlike
    the paper: only classes that the crop's truth has make a region, so nothing needs smoothing.
    """

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight, as the module says."""
        probabilities, is_class = split_by_class(logits, truth)
        true_px = is_class.sum(2)  # [N, C]
        overlap = (probabilities * is_class).sum(2)
        ratios = 2 * overlap / (probabilities.sum(2) + true_px).where(true_px > 0, 1)
        return weigh_regions(1 - ratios, true_px > 0, class_weights)

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight alone."""
        return (class_weights * find_regions(truth, len(class_weights))).sum(dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Lovasz:
    """Lovasz-softmax of each region, a surrogate of 1 - IoU (Berman et al. 2018, arXiv:1705.08790).

    A pixel's error is 1 - p on the class's true pixels and p on others. The loss is the Lovasz extension, at
    these errors, of what 1 - IoU becomes as pixels turn wrong, the largest error first. It is 1 - IoU itself
    where every p is 0 or 1. Like the paper's, it counts the classes that are there; unlike it, by crop.
    """

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight, as the module says."""
        probabilities, is_class = split_by_class(logits, truth)
        errors = (is_class.to(probabilities.dtype) - probabilities).abs()  # [N, C, pixels]; 0 where ignored
        other = (truth != IGNORE).flatten(1)[:, None] & ~is_class
        losses = (errors * lovasz_steps(errors, is_class, other)).sum(2)
        return weigh_regions(losses, is_class.any(2), class_weights)

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight alone."""
        return (class_weights * find_regions(truth, len(class_weights))).sum(dtype=torch.float64)


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


def weigh_regions(losses: Tensor, present: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and weight of the regions that are there; losses and present are [N, C]."""
    weights = class_weights * present
    return (weights * losses).sum(), weights.sum(dtype=torch.float64)
