"""The network of a training as it starts: by chance, from pretrained weights, or from a model file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seg.errors import RequestError
from seg.model_card import METADATA_KEY, ModelCard, find_model_file, parse_card
from seg.model_file import read_model, weights_sha256
from seg.models import MODELS
from seg.models.backbones import find_input
from seg.models.build import build, find_encoder, refuse_older
from seg.models.pretrained import COUNTER, SUFFIXES, download, read_state
from seg.recipe import Recipe
from seg.train.learner import name_parts

NAMED = ("none", "imagenet", "coco")
"""Weights that are no file."""
TORCHVISION_ENCODER = "backbone."
"""How torchvision's whole networks call what is `features.` here; an auxiliary head is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What weights of a whole network brought to one, and what they left to chance."""

    weights: str
    """As the recipe names them."""
    sha256: str
    """Of the tensors, as a model file's `weights_sha256`."""
    lines: tuple[str, ...]
    """One for each tensor of the network: taken, or new."""
    taken: int
    fresh: tuple[str, ...]
    """Parts that are new, by name."""

    def __str__(self) -> str:
        """One line for the screen."""
        new = f"by chance: {', '.join(self.fresh)}" if self.fresh else "nothing is left to chance"
        return f"weights {self.weights}: {self.taken} of {len(self.lines)} tensors taken; {new}"


class _Whole(NamedTuple):
    """Weights of a whole network; classes: what its head tells apart, None: not known."""

    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None


def locate(recipe: Recipe) -> Recipe:
    """The recipe with the whole path of the file that it starts from: workers run in other folders."""
    file = Path(recipe.weights)
    there = file.suffix.lower() in SUFFIXES and file.is_file()
    return replace(recipe, weights=str(file.resolve())) if there else recipe


def open_weights(recipe: Recipe) -> Recipe:
    """The recipe with the model file in place of a run's or a search's folder that its weights name.

    RequestError: as of `find_model_file`.
    """
    folder = Path(recipe.weights)
    if recipe.weights in NAMED or not folder.is_dir():
        return recipe  # a file as it was spelled: that is part of the run
    return replace(recipe, weights=str(find_model_file(folder)))


def build_start(recipe: Recipe, classes: tuple[str, ...], weights: str) -> tuple[nn.Module, Start | None]:
    """A recipe's network, in training mode, and how weights of a whole network filled it; None: by no such.

    weights: the recipe's, or "none" where a state goes in. Of a model file, or of torchvision's whole FCN
    ("coco", or a file of it), each tensor is taken whose name and shape fit; the head is new where the file's
    classes are not `classes`, also if they are as many. All of the encoder must fit; with 1 channel its first
    filters are summed over the file's three, as in `fill_backbone`. On "meta" all is checked, nothing copied.
    RequestError: as of `build`, `read_model` and `read_state`; an encoder that does not fit.
    """
    network = partial(
        build,
        recipe.model,
        backbone=recipe.backbone,
        channels=recipe.preprocessing.channels,
        options=dict(recipe.model_options),
    )
    whole = _read_whole(recipe.model, weights)
    if whole is None:
        return network(num_classes=len(classes), weights=weights), None
    model, head = network(num_classes=len(classes)), frozenset[str]()
    refuse_older(model, whole.tensors, f"weights {weights}")
    if whole.classes not in (None, classes):
        with torch.device("meta"):
            other = network(num_classes=len(classes) + 1).state_dict()
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        head = frozenset(name for name, shape in shapes.items() if other[name].shape != shape)
    return model, _fill(model, whole.tensors, head, weights)


def _read_whole(architecture: str, weights: str) -> _Whole | None:
    """The weights where they are of a whole network; None: of a backbone, or none."""
    name = getattr(MODELS.get(architecture), "TORCHVISION", None)
    if weights == "coco":
        if name is None:
            raise RequestError(
                f"weights coco are of fcn-resnet50 and fcn-resnet101, not of {architecture}; "
                "use `weights=imagenet`"
            )
        return _from_torchvision(download(name, weights))
    if weights in ("none", "imagenet"):
        return None
    if find_card(weights):
        tensors, card = read_model(find_model_file(Path(weights)))
        return _Whole(tensors, card.classes)
    if name is None:
        return None
    state = read_state(Path(weights))
    return _from_torchvision(state) if any(key.startswith(TORCHVISION_ENCODER) for key in state) else None


def find_card(weights: str) -> ModelCard | None:
    """The card of the model file that a recipe's weights name; None: they name none.

    RequestError: it is damaged, or they name a folder without one.
    """
    if weights in NAMED:
        return None
    file = find_model_file(Path(weights))
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(METADATA_KEY)
    except SafetensorError:  # said by whoever reads it as weights
        return None
    return None if text is None else parse_card(file, text)


def _from_torchvision(state: Mapping[str, Tensor]) -> _Whole:
    ours = {
        name.replace(TORCHVISION_ENCODER, "features.", 1)
        if name.startswith(TORCHVISION_ENCODER)
        else name: tensor
        for name, tensor in state.items()
    }
    return _Whole(ours, None)


@torch.no_grad()
def _fill(model: nn.Module, found: Mapping[str, Tensor], head: Collection[str], weights: str) -> Start:
    own, encoder = model.state_dict(), find_encoder(model)
    prefix = next(path for path, part in model.named_modules() if part is encoder)
    path, conv = find_input(encoder)
    first, sha256 = f"{prefix}.{path}.weight", weights_sha256(dict(found))
    if conv.in_channels == 1 and first in found and found[first].shape[1] == 3:
        found = {**found, first: found[first].sum(1, keepdim=True)}
    lines, fresh = [], set()
    for name, tensor in own.items():
        there, wanted = found.get(name), tuple(tensor.shape)
        if there is not None and there.shape == tensor.shape and name not in head:
            tensor.copy_(there)
            lines.append(f"taken {name} {wanted}")
            continue
        has = "it has none" if there is None else f"it has {tuple(there.shape)}"
        if name.startswith(f"{prefix}.") and not name.endswith(COUNTER):
            raise RequestError(
                f"weights {weights}: of the encoder's tensor {name}, {wanted}, {has}; "
                "give those of the same `model` and `backbone`"
            )
        lines.append(f"new {name} {wanted}: {has}")
        fresh.add(name)
    return Start(
        weights=weights,
        sha256=sha256,
        lines=tuple(lines),
        taken=len(lines) - len(fresh),
        fresh=tuple(name_parts(model, fresh & {name for name, _ in model.named_parameters()})),
    )
