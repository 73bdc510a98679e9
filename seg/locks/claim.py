"""Whose a folder is: its run.json says which training, search or scoring it is of, one job holds it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from seg.errors import RequestError
from seg.files import first_difference, is_leftover
from seg.locks.folder_lock import FolderLock, is_lock
from seg.plain_data import FROM_A_COPY, Plain, to_plain
from seg.storage import Place, as_place, refusing


def is_earlier(found: Any, wanted: Mapping[str, Plain]) -> bool:
    """Whether a run.json is of a run that `grow` let have more epochs since."""
    return "horizon" in wanted and epochs_of(found) < epochs_of(wanted) and _is_same_run(found, wanted)


def epochs_of(identity: Any) -> int:
    """How many epochs a run.json asks for; 0: it is none of a run."""
    recipe = identity.get("recipe") if isinstance(identity, Mapping) else None
    epochs = recipe.get("epochs") if isinstance(recipe, Mapping) else None
    return epochs if type(epochs) is int else 0


def _is_same_run(found: Any, wanted: Mapping[str, Plain]) -> bool:
    """Whether two run.json differ at most in epochs, and what became of the schedule then."""
    return epochs_of(found) > 0 and _without_epochs(found) == _without_epochs(wanted)


def _without_epochs(run: Any) -> Any:
    return {**run, "recipe": {**run["recipe"], "epochs": 0}, "horizon": 0} if epochs_of(run) else run


def grow(
    claims: Iterable[Any], identity: Mapping[str, Plain], horizon: Literal["keep", "stretch"]
) -> dict[str, Plain]:
    """A run's identity, of which epochs alone may grow, with its `horizon` if they did.

    That is the number of epochs over which the learning rate's schedule goes. When they grow it stays as it
    is, or is to `stretch` to all of them. claims: run.json of the run's folder and of its checkpoints, None
    where there is none. RequestError: it has more epochs already, or its horizon is damaged.
    """
    wanted = to_plain(identity)
    now = epochs_of(wanted)
    last = max((found for found in claims if _is_same_run(found, wanted)), key=epochs_of, default=wanted)
    before = epochs_of(last)
    span = last.get("horizon", before)
    if type(span) is not int or not 1 <= span <= before:
        raise RequestError(f"run.json is damaged: its horizon is {span} of {before} epochs; {FROM_A_COPY}")
    if before > now:
        raise RequestError(f"`epochs={now}`: the run has {before} already; try `epochs={before}`")
    if before < now:
        return wanted | {"horizon": now if horizon == "stretch" else span}
    return wanted | ({"horizon": span} if "horizon" in last else {})


def claim_folder(folder: Place | Path, identity: Mapping[str, Plain], *, older_reader: bool = False) -> None:
    """Write run.json, or find that it says the same; errors as of `check_folder`.

    To be called by who holds the folder's lock: of two that find no run.json, both would write theirs.
    """
    if not check_folder(folder, identity, older_reader=older_reader):
        place = as_place(folder)
        with nullcontext() if place.is_local else refusing(place.uri):
            place.write_json("run.json", identity)


def check_folder(folder: Place | Path, identity: Mapping[str, Plain], *, older_reader: bool = False) -> bool:
    """Whether a folder has a run.json, which says the same; nothing is written.

    One that says the same but for fewer epochs will do where the identity has a `horizon` (see `grow`), and
    is to be written anew. A run.json without a `reader` or `augmenter` is of the first, which wrote none.
    older_reader: whether the folder of an earlier reader will do, if only that differs. RequestError: the
    folder is another's, or not ours.
    """
    place = as_place(folder)
    if place.is_local and place.local().is_file():
        raise RequestError(f"`out={place}` is a file; give an empty or a new folder")
    wanted = to_plain(identity)
    with nullcontext() if place.is_local else refusing(place.uri):
        found = place.read_json("run.json")
        if found is None:
            # what a job may have left in a folder that it has not claimed yet: a lock comes first
            ours = all(is_leftover(Path(name)) or is_lock(name) for name in place.entries())
            found = place.read_json("run.json")  # again: another job may have claimed the folder meanwhile
            if found is None and not ours:
                raise RequestError(
                    f"`out={place}` holds other files and no run.json; give an empty or a new folder"
                )
    if found is not None and not isinstance(found, dict):
        raise RequestError(f"{place}/run.json is damaged: it is no object; {FROM_A_COPY}")
    if found is not None and "augmenter" in wanted:
        found = {"augmenter": 1} | found
    if found is not None and "reader" in wanted:
        reader, newest = found.get("reader", 1), wanted["reader"] if older_reader else 1
        found |= {"reader": newest if reader in range(1, newest) else reader}
    grown = is_earlier(found, wanted)
    if found is not None and found != wanted and not grown:
        runs = found, wanted
        if not _is_same_run(*runs):  # more epochs are no difference worth naming
            runs = _without_epochs(found), _without_epochs(wanted)
        raise RequestError(
            f"`out={place}` holds another run, with {first_difference(*runs)}; give another `out`"
        )
    return found is not None and not grown


@contextmanager
def holding(
    folder: Place | Path, identity: Mapping[str, Plain], *, what: str, older_reader: bool = False
) -> Iterator[FolderLock]:
    """Hold a folder that is this run's, or becomes it: its run.json is written under the lock.

    older_reader: as of `check_folder`.
    RequestError: it holds another run or other files, also while another job works there, or is in use.
    Nothing is written then.
    """
    check_folder(folder, identity, older_reader=older_reader)
    with FolderLock(folder, what=what) as lock:
        # another job may have been faster, and be done already
        claim_folder(folder, identity, older_reader=older_reader)
        yield lock
