"""What a training has come to, and its files by epoch: states to resume from, model files of the best."""

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seg.errors import DataWarning, RequestError
from seg.files import permit, replacing, write_bytes
from seg.model_file import weights_sha256
from seg.plain_data import Measured, Plain, from_plain
from seg.recipe import Recipe

METADATA_KEY = "fringe-state"
"""One key, as safetensors writes several in any order: the same state is the same file, byte for byte."""
DIGEST, JOURNAL_DIGEST = "sha256", "journal_sha256"
"""Of all that a state holds, and of its journal, which is read alone; states from before lack the second."""

_NAME = re.compile(r"epoch-(\d{4,})\.safetensors")
_Content = TypeVar("_Content")


class DamagedState(Exception):
    """A state file is not what was written; one sentence that names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochResult:
    """One epoch, trained and validated: a line of history.csv, whose columns are these fields.

    The same on every rank, but for times and memory.
    """

    epoch: int
    """From 1."""
    loss: Measured
    """Mean over its steps but those that were left out; NaN without any."""
    lr: float
    """Of its last step."""
    miou: Measured
    """Like the next two on all validation images, all pixels together; NaN without any truth."""
    dice: Measured
    pixel_accuracy: Measured
    skipped_steps: int
    """Those that were left out, as the loss or a gradient was not finite."""
    crops_per_second: float
    wait_share: float
    memory_bytes: int
    """The most that the process has held so far."""
    validation_seconds: float
    seconds: float
    """With validation."""
    validation_loss: Measured = math.nan
    """The recipe's, on all validation images at working size; NaN without truth, or in runs begun before."""


@dataclass(slots=True)
class Journal:
    """What happened so far: finished epochs, and the best of them."""

    history: list[EpochResult] = field(default_factory=list)
    best_epoch: int = 0
    best_miou: float = -1.0
    """Of the best epoch."""
    best_confusion: list[list[int]] = field(default_factory=list)
    skips: int = 0
    """Steps in a row, up to the last one, that were left out."""
    fused: bool = False
    """Whether fused kernels step: a run goes on with those that it began with, of before there were any."""
    start_sha256: str | None = None
    """As in the model file's provenance: what it started from is not looked at again."""
    idle: list[str] = field(default_factory=list)
    """Parts of the network that no gradient reaches, which workers that exchange gradients freeze."""
    absent: list[int] = field(default_factory=list)
    """Epochs of the run that this one began with whose model files it lacks: none of them is its best."""

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained, validated and saved."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """What the epochs took."""
        return sum(result.seconds for result in self.history)

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are done, or the recipe's patience is: so many brought nothing better."""
        since_best = self.epochs_done - (self.best_epoch or max(self.absent, default=0))
        return self.epochs_done >= recipe.epochs or 0 < recipe.patience <= since_best

    def best_epochs(self, keep: int, monitor: Literal["miou", "loss"] = "miou") -> list[int]:
        """The `keep` best epochs of those that may be the best, as of `best_epochs`."""
        return best_epochs([one for one in self.history if one.epoch not in self.absent], keep, monitor)


@dataclass(frozen=True, slots=True)
class State:
    """What a state file holds."""

    journal: Journal
    tensors: dict[str, Tensor]

    @property
    def epoch(self) -> int:
        """The epoch after which it was written, from 1."""
        return self.journal.epochs_done


def epoch_name(epoch: int) -> str:
    """Name of an epoch's state file, and of its model file."""
    return f"epoch-{epoch:04}.safetensors"


def find_epochs(names: Iterable[str]) -> list[int]:
    """Epochs that files are named by, the newest first; other names do not count."""
    return sorted((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), reverse=True)


def list_epochs(folder: Path) -> list[int]:
    """The same of the files in a folder; none where it is not there."""
    return find_epochs(path.name for path in folder.glob("*"))


def state_path(run: Path, epoch: int) -> Path:
    """Where a run keeps its state after an epoch."""
    return run / "last" / epoch_name(epoch)


def best_path(run: Path, epoch: int) -> Path:
    """Where a run keeps the model file of an epoch that is among its best."""
    return run / "best" / epoch_name(epoch)


def write_state(
    folder: Path, state: State, keep: int = 2, *, may_write: Callable[[], object] = permit
) -> None:
    """Write a run's state after an epoch, whole or not at all; those of the last `keep` epochs stay.

    The one before it is there for the day that the newest is damaged. may_write: as of `save_model`.
    """
    values = asdict(state.journal)
    digests = {DIGEST: _digest(values, state.tensors), JOURNAL_DIGEST: _digest(values)}
    file = state_path(folder, state.epoch)
    content = save(state.tensors, {METADATA_KEY: json.dumps(digests | values)})
    write_bytes(file, content, may_write=may_write)
    keep_epochs(file.parent, last_epochs(state.epoch, keep))


def read_state(path: Path) -> State:
    """A state file, every byte of it checked. DamagedState: it is not as it was written."""
    with _refuse_damage(path), safe_open(path, framework="pt") as file:
        values, digests = _parse(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        if digests[DIGEST] != _digest(values, tensors):
            raise DamagedState(f"its content does not fit its {DIGEST}")
        return State(from_plain(Journal, values), tensors)


def read_journal(path: Path) -> Journal:
    """The journal of a state file, without reading the tensors.

    DamagedState: the file is cut off, no state, or its journal not as it was written. Tensors that changed in
    place are not noticed here.
    """
    with _refuse_damage(path), safe_open(path, framework="pt") as file:
        values, digests = _parse(file.metadata())
        if JOURNAL_DIGEST in digests:
            return from_plain(Journal, values)
    return read_state(path).journal


def newest_state(folder: Path) -> State | None:
    """The state that a run goes on from; None where no epoch is done. Errors as of `newest_whole`."""
    return newest_whole(folder, read_state)


def read_run(folder: Path) -> Journal | None:
    """The journal of that state, as `read_journal` finds it."""
    return newest_whole(folder, read_journal)


def newest_whole(folder: Path, read: Callable[[Path], _Content]) -> _Content | None:
    """What `read` gives for a run's newest state file that it does not find damaged; None without any.

    DataWarning: a damaged one is left out, so that its epoch is trained again. RequestError: all are damaged
    and were not of the first epoch, so that all that was trained would be lost in silence.
    """
    files = folder / "last"
    epochs = list_epochs(files)
    for epoch in epochs:
        try:
            return read(state_path(folder, epoch))
        except FileNotFoundError:  # a training that goes on has removed it: there are newer ones
            return newest_whole(folder, read)
        except DamagedState as error:
            warnings.warn(f"{error}; its epoch is trained again", DataWarning, stacklevel=2)
    if would_lose(epochs):
        raise RequestError(
            f"every state in {files} is damaged; put one back from a copy, or remove that folder to train "
            "from the beginning"
        )
    return None


def would_lose(epochs: Sequence[int]) -> bool:
    """Whether the training of more than two epochs goes with these states, the newest first."""
    return bool(epochs) and (epochs[-1] > 1 or len(epochs) > 2)


def best_epochs(
    history: Sequence[EpochResult], keep: int, monitor: Literal["miou", "loss"] = "miou"
) -> list[int]:
    """The epochs of the `keep` highest mIoU, or lowest loss, on validation, the earlier of equals first.

    One without an mIoU, or without a loss (NaN), is never among them.
    """
    values = {one.epoch: -one.miou if monitor == "miou" else one.validation_loss for one in history}
    judged = [epoch for epoch, value in values.items() if not math.isnan(value)]
    return sorted(judged, key=lambda epoch: (values[epoch], epoch))[:keep]


def settle_best(folder: Path, best: Sequence[int]) -> None:
    """Leave in a run's best/ the model files of these epochs, best first; once more is the same.

    The best of all is copied there from best.safetensors where best/ lacks it: a run may begin to keep them.
    """
    winner, copy = folder / "best.safetensors", best_path(folder, best[0] if best else 0)
    if best and winner.is_file() and not copy.is_file():
        with replacing(copy) as temporary:
            shutil.copyfile(winner, temporary)
    keep_epochs(copy.parent, best)


def last_epochs(epoch: int, keep: int) -> range:
    """The `keep` epochs that end with this one, whose states stay."""
    return range(epoch - keep + 1, epoch + 1)


def keep_epochs(folder: Path, epochs: Iterable[int]) -> None:
    """Remove the files of all other epochs from a folder."""
    for epoch in set(list_epochs(folder)) - set(epochs):
        (folder / epoch_name(epoch)).unlink(missing_ok=True)


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Name the file in what is found wrong with it."""
    try:
        yield
    except (SafetensorError, DamagedState, ValueError, RecursionError) as error:
        raise DamagedState(f"state {path} is damaged ({error})") from None


def _parse(metadata: dict[str, str] | None) -> tuple[Plain, dict[str, str]]:
    """The journal of a state file's metadata, as plain data, and what digests it has."""
    values = json.loads((metadata or {}).get(METADATA_KEY, "null"))
    if not isinstance(values, dict) or DIGEST not in values:
        raise DamagedState(f"it has no metadata {METADATA_KEY!r} with a {DIGEST}")
    digests = {name: values.pop(name) for name in (DIGEST, JOURNAL_DIGEST) if name in values}
    if digests.get(JOURNAL_DIGEST) not in (None, _digest(values)):
        raise DamagedState(f"its journal does not fit its {JOURNAL_DIGEST}")
    return values, digests


def _digest(journal: Plain, tensors: dict[str, Tensor] | None = None) -> str:
    """Of a journal alone, or of it and all tensors."""
    of_tensors = "" if tensors is None else f"\0{weights_sha256(tensors)}"
    return hashlib.sha256(f"{json.dumps(journal)}{of_tensors}".encode()).hexdigest()


def state_file(folder: Path) -> Path:
    """A run's newest state; where it has none, what its first one will be called."""
    return state_path(folder, max(list_epochs(folder / "last"), default=1))
