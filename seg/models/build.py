"""From the names in a recipe or a model file to a network."""

from torch import nn

from seg.errors import RequestError, describe_unknown
from seg.models import MODELS


def build(architecture: str, *, backbone: str | None, num_classes: int, channels: int) -> nn.Module:
    """A network with random weights, drawn from torch's default generator, in training mode.

    architecture: key of MODELS. backbone: one of the architecture's BACKBONES; None is the first of them.
    RequestError: unknown architecture or backbone, with the near matches and all that are known.
    """
    if architecture not in MODELS:
        raise RequestError(describe_unknown("architecture", architecture, MODELS))
    model = MODELS[architecture]
    if backbone is not None and backbone not in model.BACKBONES:
        raise RequestError(describe_unknown(f"backbone of {architecture}", backbone, model.BACKBONES))
    return model(num_classes, channels, backbone)
