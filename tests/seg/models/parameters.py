"""Counts of parameters, by a module and by formula."""

from torch import nn


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(inputs: int, outputs: int, side: int, *, norm: bool = True) -> int:
    """Parameters of a convolution with batch or group norm's two a channel, or with a bias."""
    return inputs * outputs * side**2 + outputs * (2 if norm else 1)
