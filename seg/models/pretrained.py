"""Pretrained weights for a backbone, as torchvision has them: its download, or a local file."""

import contextlib
import sys
import warnings
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import get_model_weights

from seg.errors import RequestError
from seg.models.backbones import Features

SUFFIXES = (".pth", ".pt", ".safetensors")
CLASSIFIERS = ("classifier.", "fc.")
COUNTER = ".num_batches_tracked"
"""Batch norm's count of its steps, unused where momentum is fixed; torchvision's older files lack it."""


@torch.no_grad()
def fill_backbone(features: Features, weights: str) -> None:
    """Put pretrained weights into a backbone, in place.

    weights: "imagenet", the best that torchvision offers for this network, downloaded once into its cache; or
    the path of a state dict, .pth or .safetensors, under torchvision's names, with or without the prefix
    `features.` where those have it, complete or without the classifier, which is left out. With 1 channel the
    first convolution's filters are summed over the file's three: gray then gives what it gives three times
    over. On the device "meta" everything is checked and nothing copied.
    RequestError, in one sentence: neither 1 nor 3 channels; a download that fails; a file that is not there
    or cannot be read; a tensor, by its name, that is missing, unknown or of another shape.
    """
    own = {name: tensor for name, tensor in features.state_dict().items() if not name.endswith(COUNTER)}
    first = next(iter(own))  # of the first convolution, [width, channels, h, w]
    channels = own[first].shape[1]
    if channels not in (1, 3):
        raise RequestError(f"weights {weights} fit 1 or 3 channels, not {channels}; use weights none")
    state = download(features.name, weights) if weights == "imagenet" else read_state(Path(weights))
    found = {name.removeprefix(features.PREFIX): tensor for name, tensor in state.items()}
    shapes = {name: tensor.shape for name, tensor in own.items()}
    shapes[first] = torch.Size((shapes[first][0], 3, *shapes[first][2:]))
    check_state(found, shapes, f"weights {weights}", features)
    if channels == 1:
        found[first] = found[first].sum(1, keepdim=True)
    for name, tensor in own.items():
        tensor.copy_(found[name])


def download(name: str, weights: str) -> Mapping[str, Tensor]:
    """The best weights that torchvision has for the network of that name, from its cache or its server.

    weights: what the recipe calls them.
    """
    enum: Any = get_model_weights(name)
    best = enum.DEFAULT
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch.hub says that it downloads
            return best.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, HTTPException, RuntimeError, UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"weights {weights}: {best.url} cannot be fetched ({reason}); fetch it elsewhere and give its "
            "path, `weights=FILE`, or begin with chance, `weights=none`"
        ) from None


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, on the CPU; a .pth or .pt is unpickled with weights_only."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES or not path.is_file():
        raise RequestError(
            f"weights {path} is neither none nor imagenet nor a file that is there and ends in "
            f"{' or '.join(SUFFIXES)}; check the path"
        )
    try:
        if kind == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with warnings.catch_warnings(
            action="ignore"
        ):  # of the pickle's protocol: it is read or refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle or archive raises nearly anything
        raise RequestError(
            f"weights {path} cannot be read as tensors by name ({type(error).__name__}); "
            "give a state dict as torchvision's, saved whole"
        ) from None
    if not isinstance(state, Mapping):
        raise RequestError(f"weights {path} holds a {type(state).__name__}, not tensors by name")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RequestError(
                f"weights {path}: {name!r} is a {type(value).__name__}, not a tensor; save the state dict"
            )
    return state


def check_state(
    found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: str, features: Features
) -> None:
    """RequestError: the tensors, classifier and counters aside, are not those of the backbone."""
    advice = f"give torchvision's of {features.name}"
    if missing := [name for name in shapes if name not in found]:
        raise RequestError(
            f"{where}: tensor {features.PREFIX}{missing[0]} is missing ({len(missing)} in all); {advice}"
        )
    unknown = [name for name in found if name not in shapes and not name.endswith(COUNTER)]
    if unknown := [name for name in unknown if not name.startswith(CLASSIFIERS)]:
        raise RequestError(f"{where}: tensor {unknown[0]} is unknown ({len(unknown)} in all); {advice}")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise RequestError(
                f"{where}: tensor {features.PREFIX}{name} is {tuple(found[name].shape)}, "
                f"wanted {tuple(shape)}; {advice}"
            )
