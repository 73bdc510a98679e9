"""The model file: weights and what is needed to use them, one .safetensors (docs/reference/model-file.md)."""

import subprocess
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from seg.errors import RequestError
from seg.files import permit, write_bytes
from seg.model_card import METADATA_KEY, ModelCard, card_text, check_weights, hash_weights, open_model_file
from seg.words import fringe_version

PACKAGES = ("torch", "torchvision", "ray", "numpy", "opencv-python", "pyarrow", "safetensors")


def save_model(
    path: Path, model: nn.Module, card: ModelCard, *, may_write: Callable[[], object] = permit
) -> None:
    """Write a model file, whole or not at all; the hash of the weights joins the card's provenance.

    may_write: called once all is written, before it appears; what it raises goes through, the old file stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = save(tensors, {METADATA_KEY: card_text(card, weights_sha256(tensors))})
    write_bytes(path, content, may_write=may_write)


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelCard]:
    """The network, in eval mode on `device`, and what its file says of it.

    RequestError, naming file and field: no such file, not safetensors, not ours, another format version,
    an older shape of the architecture, missing or extra tensors, wrong shapes, weights that are
    not those that were saved.
    """
    # here, as torchvision takes 5 s and 140 MiB, and readers of cards need none
    from seg.models.build import build, refuse_older

    tensors, card = read_model(path)
    try:
        model = build(
            card.architecture,
            backbone=card.backbone,
            num_classes=len(card.classes),
            channels=card.channels,
            options=dict(card.model_options),
        )
    except RequestError as error:
        raise RequestError(f"model {path}: {error}") from None
    refuse_older(model, tensors, f"model {path}")
    _check_tensors(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.to(device).to(memory_format=torch.channels_last).eval(), card


def read_model(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and card of a model file, checked against its own hash but not against an architecture."""
    with open_model_file(path, "pt") as (file, card):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        check_weights(path, card, weights_sha256(tensors))
    return tensors, card


def weights_sha256(tensors: dict[str, Tensor]) -> str:
    """Sha256, in hexadecimal, of tensors: see `hash_weights`."""
    whole = ((name, tensors[name].contiguous()) for name in sorted(tensors))
    return hash_weights(
        (name, str(tensor.dtype), tensor.shape, tensor.flatten().view(torch.uint8).numpy())
        for name, tensor in whole
    )


def _check_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if odd := sorted(set(wanted) ^ set(found)):
        kind = "lacks" if odd[0] in wanted else "has the unknown"
        raise RequestError(
            f"model {path} {kind} tensor {odd[0]} ({len(odd)} in all); it is of another architecture"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, wanted {tuple(tensor.shape)}"
            raise RequestError(f"model {path}: tensor {name} is {shapes}; its metadata and weights disagree")


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result; those not installed are left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # ray: seg runs without it
            continue
    return versions


@cache
def code_version() -> str:
    """Version of fringe, and the commit of the checkout it runs from ('+' where files have changed)."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except OSError:  # no git on this machine: a finished epoch is worth more than its commit
        described = ""
    return f"{fringe_version()} {described.strip()}".strip()
