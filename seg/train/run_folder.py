"""A run's files beside weights and state: identity, history, summary, pictures (docs/reference/runs.md)."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seg.alarms import find_alarms
from seg.data.images import READER, ImageFiles, is_read_anew
from seg.figures import plots
from seg.files import replacing, write_bytes
from seg.metrics import score_classes
from seg.pack.crops import AUGMENTER
from seg.pack.training_data import TrainingData, open_packs
from seg.plain_data import Plain
from seg.predict.predictor import open_predictor
from seg.progress import progress
from seg.recipe import Recipe, recipe_identity
from seg.train.state import EpochResult, Journal

MOST_EXAMPLES = 4
"""Validation images in examples.png."""
CURVES_SHARE = 0.1
"""Most of a training's time in which its curves are drawn: of epochs of a second not each is."""


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
