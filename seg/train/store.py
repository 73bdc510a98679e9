"""A run's newest states and best model files on storage elsewhere, from which it resumes on any machine."""

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seg.errors import DataWarning, RequestError
from seg.files import first_difference, persistently, replacing
from seg.locks.claim import is_earlier
from seg.plain_data import Plain, to_plain
from seg.storage import Place, refusing
from seg.train import state
from seg.train.state import DamagedState, epoch_name, find_epochs, list_epochs


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The folder URI/RUN: run.json, last/epoch-0007.safetensors (some of them), best/epoch-0005.safetensors.

    It follows the run's own folder: what is there is brought here, what fell out there is removed here.
    """

    place: Place
    keep_states: int = 2
    """How many of the newest states stay."""

    def claim(self, identity: Mapping[str, Plain]) -> None:
        """Write run.json, or find that it says the same, or had fewer epochs, and write it, to try the store.

        RequestError: the store holds another run, or refuses to be read or written.
        """
        wanted = to_plain(identity)
        with refusing(self.place.uri):
            found = self.place.read("run.json")
            if found is not None:
                self._compare(found, wanted)
            self.place.write("run.json", json.dumps(wanted, indent=2, ensure_ascii=False).encode())

    def publish(self, folder: Path, epoch: int) -> None:
        """Bring what a run's folder holds after an epoch; once more, or after a kill half-way, is the same.

        Model files go first and the state last, as in the folder; then goes what is no longer there. While
        storage refuses, it waits as `persistently` does.
        """
        persistently(partial(self._publish, folder, epoch), f"checkpoints to {self.place.uri}")

    def fetch(self, folder: Path) -> bool:
        """Bring a run's folder to the store's newest whole state; False: the folder was there already.

        The state comes last: cut off half-way, it is as if nothing was fetched. Waits as `publish` does.
        DataWarning: a state in the store is damaged, and the one before it is taken. RequestError: all are,
        the folder has none, and more than the first epoch would be lost.
        """
        try:
            ours = state.newest_state(folder)
        except RequestError:  # all are damaged: said again by whoever reads them, unless the store has better
            ours = None
        done = ours.epoch if ours else 0
        return persistently(partial(self._fetch, folder, done), f"checkpoints from {self.place.uri}")

    def _compare(self, found: bytes, wanted: dict[str, Plain]) -> None:
        try:
            values = json.loads(found)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            what = "a run.json that is no JSON object"
        elif values != wanted and not is_earlier(values, wanted):
            what = f"another run, with {first_difference(values, wanted)}"
        else:
            return
        raise RequestError(f"{self.place.uri} holds {what}; give other `checkpoints`")

    def _publish(self, folder: Path, epoch: int) -> None:
        best = list_epochs(folder / "best")
        there = find_epochs(self.place.names("best"))
        for wanted in best:
            if wanted == epoch or wanted not in there:  # trained again, it may differ: on a GPU sums do
                self.place.upload(f"best/{epoch_name(wanted)}", state.best_path(folder, wanted))
        self.place.upload(f"last/{epoch_name(epoch)}", state.state_path(folder, epoch))
        self._keep("best", best)
        self._keep("last", state.last_epochs(epoch, self.keep_states))

    def _keep(self, part: str, epochs: Iterable[int]) -> None:
        for epoch in set(find_epochs(self.place.names(part))).difference(epochs):
            self.place.remove(f"{part}/{epoch_name(epoch)}")

    def _fetch(self, folder: Path, done: int) -> bool:
        epochs = find_epochs(self.place.names("last"))
        for epoch in epochs:
            if epoch <= done:
                return False
            try:
                self._fetch_epoch(folder, epoch)
            except DamagedState:
                damaged = f"state {self.place.uri}/last/{epoch_name(epoch)} is damaged"
                warnings.warn(f"{damaged}; its epoch is trained again", DataWarning, stacklevel=2)
            else:
                return True
        if not done and state.would_lose(epochs):
            raise RequestError(
                f"every state in {self.place.uri}/last is damaged; put one back from a copy, or remove that "
                "folder to train from the beginning"
            )
        return False

    def _fetch_epoch(self, folder: Path, epoch: int) -> None:
        with replacing(state.state_path(folder, epoch)) as temporary:
            self.place.download(f"last/{epoch_name(epoch)}", temporary)
            journal = state.read_state(temporary).journal
            for best in find_epochs(self.place.names("best")):
                with replacing(state.best_path(folder, best)) as target:
                    self.place.download(f"best/{epoch_name(best)}", target)
            winner = state.best_path(folder, journal.best_epoch)
            if winner.is_file():
                with replacing(folder / "best.safetensors") as target:
                    shutil.copyfile(winner, target)
