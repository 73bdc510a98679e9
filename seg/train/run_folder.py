"""A run's files beside weights and state: identity, history, summary, pictures (docs/reference/runs.md)."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, astuple, fields
from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from seg.alarms import find_alarms
from seg.data.images import READER, ImageFiles, split_page
from seg.errors import RequestError
from seg.figures import plots
from seg.files import first_difference, is_leftover, replacing, write_bytes
from seg.locks.folder_lock import FolderLock, is_lock
from seg.metrics import score_classes
from seg.pack.crops import AUGMENTER
from seg.pack.training_data import TrainingData, open_packs
from seg.plain_data import FROM_A_COPY, Plain, to_plain
from seg.predict.predictor import open_predictor
from seg.progress import progress
from seg.recipe import Recipe, recipe_identity
from seg.storage import Place, as_place, refusing
from seg.train.state import EpochResult, Journal

READ_ANEW = frozenset({".tif", ".tiff"})
"""Endings of the files that READER reads otherwise than the reader before it."""
MOST_EXAMPLES = 4
"""Validation images in examples.png."""
CURVES_SHARE = 0.1
"""Most of a training's time in which its curves are drawn: of epochs of a second not each is."""


def is_read_anew(image: str) -> bool:
    """Whether an image, by its name, has other pixels since READER."""
    return Path(split_page(image)[0]).suffix.lower() in READ_ANEW


def run_identity(recipe: Recipe, data: TrainingData, seed: int) -> dict[str, Plain]:
    """What makes a run this run: plain data, the same whenever the same command is given.

    `reader` is there where the data hold images that it reads anew: other runs keep their names. So is
    `augmenter`, where a recipe moves pixels.
    """
    names = {sample.name for sample in (*data.split.train, *data.split.validation)}
    names |= {name for frames in data.sequences.values() for name, _ in frames}
    reader = {"reader": READER} if any(map(is_read_anew, names)) else {}
    return (
        reader
        | augmenter_identity(recipe)
        | {
            "recipe": recipe_identity(recipe),
            "data_fingerprint": data.fingerprint,
            "classes": data.classes,
            "train": [sample.name for sample in data.split.train],
            "validation": [sample.name for sample in data.split.validation],
            "split": data.split.how,
            "seed": seed,
        }
    )


def augmenter_identity(*recipes: Recipe) -> dict[str, Plain]:
    """The part of an identity that says which version moves pixels; empty: none of the recipes does."""
    return {"augmenter": AUGMENTER} if any(recipe.augmentation.moves for recipe in recipes) else {}


def run_name(recipe: Recipe, identity: Mapping[str, Plain]) -> str:
    """RECIPE-HASH: the default folder of a run."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{recipe.name}-{digest[:8]}"


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


class HistoryWriter:
    """Keeps history.csv and curves.png up to date while a training runs; `write_history` ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._due_s = -inf

    def write(self, journal: Journal) -> None:
        """Write what another epoch has changed; both files are whole or the old ones."""
        _write_table(self.folder, journal)
        if (began_s := time.monotonic()) >= self._due_s:
            _draw_curves(self.folder, journal)
            ended_s = time.monotonic()
            self._due_s = ended_s + (ended_s - began_s) / CURVES_SHARE


def write_history(folder: Path, journal: Journal) -> None:
    """Write history.csv, a line an epoch, and curves.png from the journal; both are whole or the old ones."""
    _write_table(folder, journal)
    _draw_curves(folder, journal)


def _write_table(folder: Path, journal: Journal) -> None:
    text, history = io.StringIO(), journal.history
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in fields(EpochResult))
    writer.writerows(astuple(result) for result in history)
    write_bytes(folder / "history.csv", text.getvalue().encode())


def _draw_curves(folder: Path, journal: Journal) -> None:
    curves = ((one.epoch, one.loss, one.validation_loss, one.miou) for one in journal.history)
    with replacing(folder / "curves.png") as temporary:
        plots.plot_curves(temporary, *zip(*curves, strict=True), best_epoch=journal.best_epoch)


def training_summary(
    folder: Path,
    recipe: Recipe,
    classes: tuple[str, ...],
    journal: Journal,
    trained: Sequence[float] = (),
) -> dict[str, Any]:
    """The figures of summary.json that the journal gives: those of the best epoch, on validation.

    trained: share of each class in the training's labels, for the alarms; empty: not known.
    """
    confusion = np.array(journal.best_confusion, np.int64).reshape(-1, len(classes))
    if not len(confusion):
        confusion = np.zeros((len(classes), len(classes)), np.int64)
    rates = [result.crops_per_second for result in journal.history]
    best = journal.history[journal.best_epoch - 1] if journal.best_epoch else None
    return {
        "recipe": recipe.name,
        "epochs_run": journal.epochs_done,
        "best_epoch": journal.best_epoch,
        "classes": classes,
        **asdict(score_classes(confusion, classes)),
        "validation_loss": best.validation_loss if best else nan,
        "alarms": find_alarms(classes, confusion, trained=trained),
        "idle": journal.idle,
        "images_per_second": sum(rates) / max(1, len(rates)),
        "seconds": journal.seconds,
        "model_file": str(folder / "best.safetensors"),
    }


def write_confusion(folder: Path, classes: tuple[str, ...], journal: Journal) -> None:
    """Write confusion.png: the best epoch's matrix on validation."""
    sheet = plots.draw_confusion(np.array(journal.best_confusion, np.int64), classes)
    with replacing(folder / "confusion.png") as temporary:
        sheet.save(temporary)


def write_examples(folder: Path, data: TrainingData, recipe: Recipe, device: torch.device) -> None:
    """Write examples.png: image, truth, prediction and error of some validation images, evenly chosen."""
    predictor, card = open_predictor(
        folder / "best.safetensors", device, precision=recipe.precision, tta=recipe.tta
    )
    pack = open_packs(data, recipe)[1]
    samples = {sample.name: sample for sample in data.split.validation}
    count = min(MOST_EXAMPLES, len(pack.labelled))
    rows = [pack.labelled[len(pack.labelled) * place // count] for place in range(count)]
    examples = []
    with progress("drawing examples", count) as advance:
        for clip in (pack.clip(row, card.frames) for row in rows):
            image = clip[-1]
            frames = [frame.frame(card.statistics) for frame in clip]
            ids = predictor.predict_frames(frames, image.own_size).ids.cpu().numpy()
            pixels = ImageFiles().decode(samples[image.name].image, samples[image.name].page)
            assert image.own_mask is not None, "a validation pack holds masks at own size"
            examples.append(plots.Example(image.name, pixels, image.own_mask, ids))
            advance()
    sheet = plots.draw_predictions(examples, card.classes)
    with replacing(folder / "examples.png") as temporary:
        sheet.save(temporary)
