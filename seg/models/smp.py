"""Networks of segmentation-models-pytorch, smp/NAME/ENCODER; it is imported here alone, and when needed."""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg.errors import RequestError, describe_unknown

PREFIX = "smp/"


class SMPModel(nn.Module):
    """One of that library's networks, for images of any size.

    Input: float [N, channels, H, W], normalised as the recipe says. Output: logits, float [N, C, H, W]. Sides
    are rounded up to multiples of 32 by repeating the last row and column, and cropped again.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C, H, W]."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")
        return self.network(padded)[..., :height, :width]


def build_smp(architecture: str, *, num_classes: int, channels: int, weights: str) -> SMPModel:
    """The network that "smp/NAME/ENCODER" names, such as smp/unetplusplus/resnet34, in training mode.

    It is on the CPU whatever torch's default device is. NAME in any case. weights: "none", or "imagenet" for
    the library's download for the encoder, which with 1 channel sums the first filters. RequestError: the
    library is not installed; an unknown name, with the near ones; weights that it does not offer; a download
    that fails; a network that it refuses to build.
    """
    library = import_library(architecture)
    name, encoder = split_name(architecture, library)
    if weights not in ("none", "imagenet"):
        raise RequestError(f"{architecture} takes no weights from a file ({weights}); use none or imagenet")
    if weights == "imagenet" and channels not in (1, 3):
        raise RequestError(f"weights {weights} fit 1 or 3 channels, not {channels}; use weights none")
    try:
        with torch.device("cpu"):  # some of its encoders cannot be built on "meta"
            network = library.create_model(
                name,
                encoder_name=encoder,
                # encoders of timm carry the tag of their weights in their name
                encoder_weights=None if weights == "none" else encoder.startswith("tu-") or weights,
                in_channels=channels,
                classes=num_classes,
            )
    except Exception as error:  # its checks, its encoders' and its downloads' raise nearly anything
        reason = str(error).partition("\n")[0]
        raise RequestError(
            f"{architecture} with weights {weights}: segmentation-models-pytorch refuses "
            f"({type(error).__name__}: {reason}); try another encoder or weights none"
        ) from None
    return SMPModel(network)


def import_library(architecture: str) -> ModuleType:
    """The module segmentation_models_pytorch."""
    try:
        import segmentation_models_pytorch
    except ImportError:
        raise RequestError(
            f"{architecture} needs the extra smp; install it: pip install segmentation-models-pytorch"
        ) from None
    return segmentation_models_pytorch


def split_name(architecture: str, library: Any) -> tuple[str, str]:
    """The library's names of network and encoder; encoders of timm, `tu-...`, are for it to check."""
    name, slash, encoder = architecture.removeprefix(PREFIX).partition("/")
    if not slash:
        raise RequestError(f"architecture {architecture!r} is not smp/NAME/ENCODER; try smp/unet/resnet34")
    known = library.MODEL_ARCHITECTURES_MAPPING
    if name.lower() not in known:
        raise RequestError(describe_unknown("network of smp", name, known))
    encoders = library.encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith("tu-"):
        raise RequestError(describe_unknown("encoder of smp", encoder, encoders))
    return name.lower(), encoder
