"""What a training reads: samples split in two, their fingerprint, their packs."""

from dataclasses import dataclass, replace
from pathlib import Path

from seg.data import DATASETS
from seg.data.fingerprint import data_fingerprint
from seg.data.pack import Pack, PackSettings, ensure_pack
from seg.data.splits import Split, split_samples
from seg.errors import RequestError, describe_unknown
from seg.recipes import Recipe


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A data set as a training sees it; plain, so that it travels to workers."""

    root: Path
    classes: tuple[str, ...]
    split: Split
    fingerprint: str


def open_training_data(root: Path, recipe: Recipe, *, seed: int, limit: int | None = None) -> TrainingData:
    """Find, split and fingerprint the data a recipe trains on; `limit`: the first images of each part.

    RequestError: no such folder, not the recipe's layout, no labels, too few images, a seed below 0.
    """
    if seed < 0:
        raise RequestError(f"--seed is {seed}; give 0 or more")
    if limit is not None and limit < 1:
        raise RequestError(f"--limit is {limit}; give 1 or more, or leave it out")
    if not root.is_dir():
        raise RequestError(f"data {root} is no folder; give the one that holds the data set")
    if recipe.dataset not in DATASETS:
        raise RequestError(describe_unknown("dataset", recipe.dataset, DATASETS))
    data = DATASETS[recipe.dataset](root.resolve(), recipe.sequence)
    split = split_samples(data, recipe.validation_share, seed).limited(limit)
    fingerprint = data_fingerprint((*split.train, *split.validation), data.root)
    return TrainingData(data.root, data.classes, split, fingerprint)


def open_packs(data: TrainingData, recipe: Recipe) -> tuple[Pack, Pack]:
    """The packs for training and for validation, built where they are missing."""
    settings = PackSettings(
        preprocessing=recipe.preprocessing,
        label_map=recipe.label_map,
        num_classes=len(data.classes),
        own_masks=False,
    )
    train = ensure_pack(data.split.train, data.fingerprint, settings)
    validation = ensure_pack(data.split.validation, data.fingerprint, replace(settings, own_masks=True))
    return Pack(train), Pack(validation)
