"""The learning rate of each step as a pure function of the step, so that a resumed run has the same."""

from math import cos, pi

from seg.recipe import Optimizer


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
