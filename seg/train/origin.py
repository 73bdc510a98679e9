"""A run that begins with a state that another one kept: what may differ, and what comes over."""

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from seg.errors import RequestError
from seg.files import first_difference, read_json, replacing
from seg.plain_data import Plain, to_plain
from seg.recipe import Recipe
from seg.train import state
from seg.train.start import find_card
from seg.train.state import DamagedState, Journal, State

log = logging.getLogger(__name__)
_Content = TypeVar("_Content")

STEPS = {"crops", "augmentation", "batch", "accumulate", "precision", "compile", "batch_norm", "freeze"}
AIMS = {"loss", "class_weights", "output_weights", "optimizer", "ema_decay", "epochs", "patience", "name"}
MAY_DIFFER = STEPS | AIMS
"""Fields of the recipe that say how steps are taken; by all others the state would be of another network, or
its epochs judged otherwise."""
NOT_COMPARED = {"recipe", "seed", "augmenter", "horizon", "begun_from"}


@dataclass(frozen=True, slots=True)
class Origin:
    """The run, and its epoch, with whose state another run begins."""

    folder: Path
    """Absolute; nothing in it is changed."""
    epoch: int

    @property
    def claim(self) -> dict[str, Plain]:
        """What the other run's run.json says of it."""
        return {"begun_from": {"run": self.folder.name, "epoch": self.epoch}}


def find_origin_name(run: Path | None) -> str | None:
    """Name of the run that the one in this folder began with; None: with none, or there is no run."""
    file = run and run / "run.json"
    found = read_json(file) if file and file.is_file() else None
    begun = found.get("begun_from") if isinstance(found, dict) else None
    return begun.get("run") if isinstance(begun, dict) else None


def check_origin(origin: Origin, identity: Mapping[str, Plain], recipe: Recipe) -> dict[str, Any]:
    """The origin's run.json, after a look whether a run of this identity may begin there.

    RequestError: it is no run, or one of other data or of another network; it keeps no whole state of that
    epoch; nothing would be left to train.
    """
    found = _read_claim(origin)
    if _compared(found) != (wanted := _compared(to_plain(identity))):
        raise RequestError(
            f"`from_run={origin.folder}` is of a run with {first_difference(_compared(found), wanted)}; its "
            "states go on with the same network, data and way of judging alone (for others: "
            f"`weights={origin.folder}/best.safetensors`)"
        )
    if _read_kept(origin, state.read_journal).is_finished(recipe):
        raise RequestError(
            f"`from_epoch={origin.epoch}` leaves nothing to train with `epochs={recipe.epochs}` and "
            f"`patience={recipe.patience}`; raise them, or begin earlier"
        )
    return found


def begin_from(origin: Origin, folder: Path, recipe: Recipe, keep_best: int) -> None:
    """Bring a run's folder to the origin's epoch: model files first, the state last, as at an epoch's end.

    Weights, the optimiser's moments and history come over; moments only where `optimizer.name` is the same. A
    moving average that the origin had none of begins with the first step. Of the best epochs those compete on
    whose model files the origin still has. Again, after a kill half-way, is the same. RequestError: as of
    `check_origin`, when the origin has changed since.
    """
    before, kept = _read_claim(origin), _read_kept(origin, state.read_state)
    journal = _bring_best(origin, folder, kept.journal, recipe, keep_best)
    had = before["recipe"]["optimizer"]["name"]
    fresh = "" if had == recipe.optimizer.name else f"; new moments, as {had}'s are none of its optimiser's"
    state.write_state(folder, State(journal, _adapt(kept.tensors, recipe, new_moments=bool(fresh))))
    log.info(f"begun with {origin.folder} after epoch {origin.epoch}{fresh}")


def _read_claim(origin: Origin) -> dict[str, Any]:
    file = origin.folder / "run.json"
    if not file.is_file():
        raise RequestError(
            f"{origin.folder} holds no run to begin with: no run.json; name one by `from_run=DIR`"
        )
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        raise RequestError(
            f"{file} is not of a run, so there is none to begin with; name one by `from_run=DIR`"
        )
    return found


def _compared(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run and its origin share."""
    recipe = {name: value for name, value in identity["recipe"].items() if name not in MAY_DIFFER}
    return {name: value for name, value in identity.items() if name not in NOT_COMPARED} | {"recipe": recipe}


def _read_kept(origin: Origin, read: Callable[[Path], _Content]) -> _Content:
    """What `read` gives for the origin's state of that epoch."""
    path = state.state_path(origin.folder, origin.epoch)
    try:
        return read(path)
    except FileNotFoundError:
        kept = state.list_epochs(path.parent)[::-1]
        has = f"those of {', '.join(map(str, kept))}; try `from_epoch={kept[-1]}`" if kept else "none at all"
        raise RequestError(
            f"`from_epoch={origin.epoch}`: of its states {origin.folder} has kept {has}, "
            "or let a run keep more by `keep_states`"
        ) from None
    except DamagedState as error:
        raise RequestError(f"{error}; begin with another one by `from_epoch`") from None


def _bring_best(origin: Origin, folder: Path, journal: Journal, recipe: Recipe, keep_best: int) -> Journal:
    """Copy the best epochs' model files that are there; the journal in which no other epoch competes."""
    winner, brought = journal.best_epoch, set[int]()
    for epoch in journal.best_epochs(keep_best, recipe.monitor):
        own = [state.best_path(folder, epoch)] if keep_best > 1 else []
        targets = own + [folder / "best.safetensors"] * (epoch == winner)
        sources = state.best_path(origin.folder, epoch), origin.folder / "best.safetensors"
        if all(any(_copy_model(source, target, epoch) for source in sources) for target in targets):
            brought.add(epoch)
    if winner not in brought:  # a later epoch was better: without the best of these, none stands for it
        brought = set()
        journal = replace(journal, best_epoch=0, best_miou=-1.0, best_confusion=[])
    return replace(journal, absent=[one.epoch for one in journal.history if one.epoch not in brought])


def _copy_model(source: Path, target: Path, epoch: int) -> bool:
    """Copy a model file if it is that epoch's; the copy decides, as the origin may be in training."""
    with suppress(FileNotFoundError):
        if _is_of(source, epoch):
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            if _is_of(target, epoch):
                return True
            target.unlink()
    return False


def _is_of(file: Path, epoch: int) -> bool:
    card = find_card(str(file))
    return card is not None and isinstance(card.validation, dict) and card.validation.get("epoch") == epoch


def _adapt(tensors: Mapping[str, Tensor], recipe: Recipe, *, new_moments: bool) -> dict[str, Tensor]:
    """A state's tensors as a training with the recipe takes them."""
    left_out = ("optimizer.",) * new_moments + ("average.",) * (not recipe.ema_decay)
    taken = {name: value for name, value in tensors.items() if not name.startswith(left_out)}
    if recipe.ema_decay and not any(name.startswith("average.") for name in taken):
        weights = {name: value for name, value in taken.items() if name.startswith("model.")}
        taken |= {
            name.replace("model.", "average.module.", 1): value.clone() for name, value in weights.items()
        }
        taken["average.n_averaged"] = torch.tensor(0)
    return taken
