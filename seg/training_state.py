"""What a training goes on from: all that its steps changed, and the journal of its epochs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from seg.learner import Learner
from seg.recipe import Recipe
from seg.state_files import State, epoch_name, find_epochs, last_folder, write_state


@dataclass(slots=True)
class Journal:
    """What happened so far, as plain data: finished epochs, one history row each, and the best of them."""

    history: list[dict[str, float | int | None]] = field(default_factory=list)
    best_epoch: int = 0
    best_miou: float = -1.0
    best_confusion: list[list[int]] = field(default_factory=list)
    skips: int = 0
    """Steps in a row, up to the last one, that were left out."""

    @property
    def epochs_done(self) -> int:
        """Epochs that are trained, validated and saved."""
        return len(self.history)

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether all epochs are done, or the recipe's patience is: so many brought nothing better."""
        since_best = self.epochs_done - self.best_epoch
        return self.epochs_done >= recipe.epochs or 0 < recipe.patience <= since_best


def state_file(folder: Path) -> Path:
    """A run's newest state; where it has none, what its first one will be called."""
    files = last_folder(folder)
    epochs = find_epochs(path.name for path in files.glob("*")) if files.is_dir() else []
    return files / epoch_name(max(epochs, default=1))


def save_state(folder: Path, learner: Learner, journal: Journal) -> None:
    """Write a run's state after an epoch (see `write_state`)."""
    write_state(folder, State(asdict(journal), learner.tensors()))
