"""Resumable state of a training: one safetensors file, its scalars as JSON in the metadata."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from seg.files import write_bytes
from seg.recipe import Recipe

METADATA_KEY = "fringe-state"


@dataclass(slots=True)
class Journal:
    """What happened so far, as plain data: finished epochs, one history row each, and the best of them."""

    history: list[dict[str, float | int | None]] = field(default_factory=list)
    best_epoch: int = 0
    best_miou: float = -1.0
    best_confusion: list[list[int]] = field(default_factory=list)

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained, validated and saved."""
        return len(self.history)

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are done, or the recipe's patience is: so many brought nothing better."""
        since_best = self.epochs_done - self.best_epoch
        return self.epochs_done >= recipe.epochs or 0 < recipe.patience <= since_best


def state_file(folder: Path) -> Path:
    """Where a run keeps its state."""
    return folder / "last" / "state.safetensors"


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, journal: Journal) -> None:
    """Write weights, buffers, the optimiser's moments and the journal as one file, whole or not at all.

    Random generators are not in it: each epoch reseeds them from (seed, epoch, rank).
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, {METADATA_KEY: json.dumps(asdict(journal))}))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Journal:
    """Fill model and optimiser from a state file and return its journal."""
    with safe_open(path, framework="pt") as file:
        journal = read_journal(path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    model.load_state_dict(_below("model", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = tensor
    values: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict(values | {"state": moments})
    return journal


def read_journal(path: Path) -> Journal:
    """The journal alone, without the tensors."""
    with safe_open(path, framework="pt") as file:
        return Journal(**json.loads(file.metadata()[METADATA_KEY]))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
