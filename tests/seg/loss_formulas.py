"""The losses as their papers write them: float64, one pixel at a time, sharing no code with ours."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weights = tuple[float, ...]
Floats = NDArray[np.float64]
Expected = Callable[[Tensor, Tensor, Weights], tuple[float, float]]

WEIGHTS: Weights = (1.0, 4.0, 0.5, 2.0)


def make_batch(
    crops: int = 3,
    num_classes: int = 4,
    height: int = 6,
    width: int = 5,
    *,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Logits, and truth of which a fifth is ignored; the last crop lacks class 1 and its first row."""
    seeded = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(crops, num_classes, height, width, generator=seeded, dtype=dtype)
    truth = torch.randint(num_classes, (crops, height, width), generator=seeded, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=seeded) < 0.2] = 255
    truth[-1][truth[-1] == 1] = 0
    truth[-1, 0] = 255
    return logits, truth


def softmax(scores: Floats) -> Floats:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def cross_entropy(p: Floats, true: int, *, smoothing: float = 0.0) -> float:
    """-sum q ln p, where q is 1 on the true class, but for what all classes share."""
    q = [smoothing / len(p) + (1 - smoothing) * (c == true) for c in range(len(p))]
    return -sum(q[c] * math.log(p[c]) for c in range(len(p)))


def focal(p: Floats, true: int, *, alpha: float = 1.0, gamma: float = 2.0) -> float:
    return -alpha * (1 - p[true]) ** gamma * math.log(p[true])


def asymmetric(
    p: Floats, true: int, *, gamma_neg: float = 4.0, gamma_pos: float = 0.0, smoothing: float = 0.1
) -> float:
    """Cross entropy whose terms are focused: by (1 - p)^gamma_pos if true, else by p^gamma_neg."""
    total = 0.0
    for c in range(len(p)):
        focus = (1 - p[c]) ** gamma_pos if c == true else p[c] ** gamma_neg
        target = smoothing / len(p) + (1 - smoothing) * (c == true)
        total -= target * focus * math.log(p[c])
    return total


def dice(p: Floats, true: NDArray[np.bool_]) -> float:
    return 1 - 2 * sum(p[true]) / (sum(p) + sum(true))


def lovasz(p: Floats, true: NDArray[np.bool_]) -> float:
    """The Lovasz extension of 1 - IoU, which is a function of the set of wrong pixels, by its definition."""
    foreground = set(np.flatnonzero(true))
    errors = np.where(true, 1 - p, p)
    total, wrong, before = 0.0, set(), 0.0
    for pixel in sorted(range(len(p)), key=lambda pixel: -errors[pixel]):
        wrong.add(pixel)
        after = len(wrong) / len(foreground | wrong)
        total, before = total + errors[pixel] * (after - before), after
    return total


def over_pixels(
    loss: Callable[[Floats, int], float], logits: Tensor, truth: Tensor, weights: Weights
) -> tuple[float, float]:
    """The loss of each counted pixel times its true class's weight, summed, and the sum of these weights."""
    scores, ids = logits.numpy().astype(np.float64), truth.numpy()
    total = weight = 0.0
    for n, y, x in product(*map(range, ids.shape)):
        if ids[n, y, x] != 255:
            total += weights[ids[n, y, x]] * loss(softmax(scores[n, :, y, x]), ids[n, y, x])
            weight += weights[ids[n, y, x]]
    return total, weight


def over_regions(
    loss: Callable[[Floats, NDArray[np.bool_]], float], logits: Tensor, truth: Tensor, weights: Weights
) -> tuple[float, float]:
    """The loss of each class that each crop has times its weight, summed, and the sum of these weights."""
    scores, ids = logits.numpy().astype(np.float64), truth.numpy()
    total = weight = 0.0
    for n, c in product(range(len(ids)), range(scores.shape[1])):
        places = list(zip(*np.nonzero(ids[n] != 255), strict=True))
        p = np.array([softmax(scores[n, :, y, x])[c] for y, x in places])
        true = np.array([ids[n, y, x] == c for y, x in places])
        if true.any():
            total += weights[c] * loss(p, true)
            weight += weights[c]
    return total, weight


FORMULAS: dict[str, Expected] = {
    "cross_entropy": partial(over_pixels, cross_entropy),
    "cross_entropy(smoothing=0.3)": partial(over_pixels, partial(cross_entropy, smoothing=0.3)),
    "focal": partial(over_pixels, focal),
    "focal(alpha=0.8,gamma=0.5)": partial(over_pixels, partial(focal, alpha=0.8, gamma=0.5)),
    "asymmetric": partial(over_pixels, asymmetric),
    "asymmetric(gamma_neg=1.5,gamma_pos=0.5,smoothing=0.4)": partial(
        over_pixels, partial(asymmetric, gamma_neg=1.5, gamma_pos=0.5, smoothing=0.4)
    ),
    "dice": partial(over_regions, dice),
    "lovasz": partial(over_regions, lovasz),
}
"""What a recipe says, and the sum and weight that it means."""
