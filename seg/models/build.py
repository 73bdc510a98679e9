"""From the names in a recipe or a model file to a network."""

from collections.abc import Container, Mapping
from inspect import Parameter, signature
from typing import Any

from torch import nn

from seg.errors import RequestError, describe_unknown
from seg.models import MODELS, smp
from seg.models.backbones import Features
from seg.models.pretrained import fill_backbone


def build(
    architecture: str,
    *,
    backbone: str | None = None,
    num_classes: int,
    channels: int,
    weights: str = "none",
    options: Mapping[str, int] | None = None,
) -> nn.Module:
    """A network in training mode; what `weights` does not fill is random, from torch's default generator.

    architecture: key of MODELS, or smp/NAME/ENCODER of segmentation-models-pytorch. backbone: one of the
    architecture's BACKBONES; None is the first of them. weights: "none", "imagenet" or a file, for the
    backbone alone (seg/models/pretrained.py); the same random numbers are drawn with and without. options:
    keyword arguments of the architecture's own, such as pyramid-fcn's n_layers.
    RequestError: an unknown architecture, backbone or option, with the near matches and all that are known;
    weights that cannot be had or do not fit.
    """
    if architecture.startswith(smp.PREFIX):
        refuse_extras(architecture, backbone, options)
        return smp.build_smp(architecture, num_classes=num_classes, channels=channels, weights=weights)
    model = find_model(architecture)
    if backbone is not None and backbone not in model.BACKBONES:
        raise RequestError(describe_unknown(f"backbone of {architecture}", backbone, model.BACKBONES))
    options = options or {}
    check_options(architecture, options, model)
    network = model(num_classes, channels, backbone, **options)
    if weights != "none":
        if not isinstance(network.features, Features):
            raise RequestError(f"{architecture} has no pretrained weights ({weights}); use weights none")
        fill_backbone(network.features, weights)
    return network


def takes_frames(architecture: str) -> bool:
    """Whether it is a sequence model: forward gets [N, K, channels, H, W]. RequestError: unknown."""
    if architecture.startswith(smp.PREFIX):
        return False
    return getattr(find_model(architecture), "TAKES_FRAMES", False)


def output_weights(model: nn.Module) -> tuple[float, ...]:
    """What each output of a model counts in the loss, the finest first."""
    return getattr(model, "OUTPUT_WEIGHTS", (1.0,))


def find_encoder(model: nn.Module) -> nn.Module:
    """The part of a network that pretrained weights fill, or might."""
    return model.network.encoder if isinstance(model, smp.SMPModel) else model.features  # type: ignore[return-value]


def refuse_older(model: nn.Module, names: Container[str], where: str) -> None:
    """RequestError: tensors of these names are of the network as it was before a change of its shape."""
    for name, change in getattr(model, "OLDER_TENSORS", {}).items():
        if name in names:
            raise RequestError(f"{where} is of an older shape: {change}; train it again")


def find_model(architecture: str) -> Any:
    """The class of that name. RequestError: unknown, with the near matches."""
    if architecture not in MODELS:
        raise RequestError(describe_unknown("architecture", architecture, MODELS))
    return MODELS[architecture]


def check_options(architecture: str, options: Mapping[str, int], model: Any) -> None:
    """RequestError: an option that is no keyword-only parameter of the architecture."""
    parameters = signature(model).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for name in options:
        if not known:
            raise RequestError(f"{architecture} takes no options, but {name} is given; leave it out")
        if name not in known:
            raise RequestError(describe_unknown(f"option of {architecture}", name, known))


def refuse_extras(architecture: str, backbone: str | None, options: Mapping[str, int] | None) -> None:
    """RequestError: a backbone or an option of a network that takes neither."""
    if backbone is not None:
        raise RequestError(f"{architecture} names its encoder; leave the backbone {backbone} out")
    for name in options or ():
        raise RequestError(f"{architecture} takes no options, but {name} is given; leave it out")
