"""Losses that sum over pixels: cross entropy, and two kinds that count the easy pixels less.

Each is called with logits, float [N, C, H, W], truth, int64 [N, H, W], 255 ignored, and class_weights, [C].
It returns (sum, weight), two scalars; a pixel counts what its true class weighs.
"""

from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from seg.data.labels import IGNORE
from seg.errors import RequestError


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood of the true class; sum / weight is torch's CrossEntropyLoss(weight), mean.

    smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7. A pixel's weight then holds for its whole
    target. In torch the share that goes to a class is multiplied by that class's weight, so that weights move
    the best prediction and pixels of weight 0 still count (pytorch/pytorch#104776).
    """

    smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes, from 0 to below 1."""

    def __post_init__(self) -> None:
        check_parameter("cross_entropy", "smoothing", self.smoothing, below=1)

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight, as the module says."""
        weights = weigh_pixels(truth, class_weights)
        weight = weights.sum(dtype=torch.float64)
        if not self.smoothing:
            total = F.cross_entropy(logits, truth, class_weights, ignore_index=IGNORE, reduction="sum")
            return total, weight
        log_p = logits.log_softmax(1)
        total = F.nll_loss(log_p, truth, class_weights, ignore_index=IGNORE, reduction="sum")
        even = -(weights * log_p.mean(1)).sum()
        return (1 - self.smoothing) * total + self.smoothing * even, weight

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight alone."""
        return weigh_pixels(truth, class_weights).sum(dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Asymmetric:
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

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight, as the module says."""
        weights = weigh_pixels(truth, class_weights)
        log_p = logits.log_softmax(1)
        nll = F.nll_loss(log_p, truth, ignore_index=IGNORE, reduction="none")  # 0 where ignored
        classes = torch.arange(logits.shape[1], device=truth.device)[:, None, None]
        by_class = -log_p * (self.gamma_neg * log_p).exp()
        others = by_class.masked_fill(truth[:, None] == classes, 0).sum(1)
        share = self.smoothing / logits.shape[1]
        losses = (1 - self.smoothing + share) * focus(nll, self.gamma_pos) + share * others
        return (weights * losses).sum(), weights.sum(dtype=torch.float64)

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight alone."""
        return weigh_pixels(truth, class_weights).sum(dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Focal:
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

    def __call__(self, logits: Tensor, truth: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight, as the module says."""
        weights = weigh_pixels(truth, class_weights)
        nll = F.cross_entropy(logits, truth, ignore_index=IGNORE, reduction="none")  # 0 where ignored
        return self.alpha * (weights * focus(nll, self.gamma)).sum(), weights.sum(dtype=torch.float64)

    def weigh(self, truth: Tensor, class_weights: Tensor) -> Tensor:
        """The weight alone."""
        return weigh_pixels(truth, class_weights).sum(dtype=torch.float64)


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
