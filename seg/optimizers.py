"""The optimisers a recipe names."""

import torch
from torch import nn

from seg.recipe import Optimizer


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters.

    Not fused: torch 2.15's fused kernels pair weights and moments by their place in memory, and moments that
    come back from a file lie otherwise than channels-last weights do. A resumed run then went another way.
    """
    parameters, lr, decay = model.parameters(), settings.lr, settings.weight_decay
    match settings.name:
        case "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=decay)
