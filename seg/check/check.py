"""A data set checked for training: what it holds, how it splits, which fields of a training fit it."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.check.copies import Copy, find_copies
from seg.check.find import Found, find_data, open_data
from seg.check.meaning import Meaning, read_meaning
from seg.check.plan import RECIPE, Fingerprint, Plan, plan_training
from seg.check.survey import ImageFacts, LabelFacts, Look, survey
from seg.data.labels import IGNORE, LabelMap, holds_mask
from seg.data.plain import LabelRule
from seg.data.preprocess import working_size
from seg.data.splits import Split, pool_parts, split_samples
from seg.errors import RequestError
from seg.recipe import Recipe
from seg.recipes import RECIPES, find_recipe
from seg.requests import CheckRequest, TrainRequest


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in a data set."""

    found: Found
    looks: list[Look]
    """Images that were read."""
    meaning: Meaning
    split: Split | str
    """The split, or why there can be none; empty where the labels are refused already."""
    plan: Plan | None
    """What fits; None: a recipe was given, or there is nothing to fit to."""
    recipe: Recipe | None
    """The recipe given, else the fitted one; None: there is nothing to fit to."""

    @property
    def total(self) -> int:
        """Images in all."""
        data = self.found.data
        return len(data.samples) + len(data.test) + len(data.unlabelled)

    @cached_property
    def images(self) -> list[tuple[Look, ImageFacts]]:
        """The images that could be read."""
        return [(look, look.image) for look in self.looks if isinstance(look.image, ImageFacts)]

    @cached_property
    def labels(self) -> list[tuple[Look, LabelFacts]]:
        """The labels that could be read."""
        return [(look, look.label) for look in self.looks if isinstance(look.label, LabelFacts)]

    @cached_property
    def stored_pixels(self) -> NDArray[np.int64]:
        """Pixels of each stored id in these labels [256]."""
        return sum((facts.pixels for _, facts in self.labels), start=np.zeros(IGNORE + 1, np.int64))

    @property
    def class_pixels(self) -> NDArray[np.int64]:
        """Pixels of each class in these labels [C]."""
        return self.meaning.count(self.stored_pixels)

    @cached_property
    def copies(self) -> list[Copy]:
        """Pairs of `images` that show one scene, by their places there."""
        thumbnails = np.array([facts.thumbnail for _, facts in self.images], np.float32)
        return find_copies(thumbnails, [look.sample.sequence for look, _ in self.images])

    def objects(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Width and area in pixels of each object in these labels that is of a class [N]."""
        table = self.meaning.table()
        kept = [(table[facts.ids] > 0) & (table[facts.ids] < IGNORE) for _, facts in self.labels]
        pairs = list(zip(self.labels, kept, strict=True))
        return (
            np.concatenate([facts.widths[some] for (_, facts), some in pairs]),
            np.concatenate([facts.areas[some] for (_, facts), some in pairs]),
        )

    def working_sizes(self) -> list[tuple[Look, tuple[int, int]]]:
        """Height and width at the recipe's working size of each image with a label that was read."""
        if self.recipe is None:
            return []
        settings = self.recipe.preprocessing
        return [
            (look, working_size(*facts.size, settings)) for look, facts in self.images if look.sample.label
        ]


def check_folder(request: CheckRequest) -> Checked:
    """Check a folder, however its images and labels lie. RequestError: as of `find_data`, `check_data`."""
    found = find_data(request.data, find_rule(request))
    return check_data(found, foreground=request.foreground, seed=request.seed)


def find_rule(request: CheckRequest | TrainRequest) -> LabelRule:
    """Where the labels of a request are and how they are written. RequestError: it says that twice."""
    if request.foreground is not None and request.label_colours is not None:
        raise RequestError("`foreground` and `label_colours` both say what a mask means; leave one out")
    return LabelRule.of(request)


def check_training(request: TrainRequest) -> Checked:
    """Check the data of a training as it would find them, but that none are simulated.

    RequestError: as of `apply_foreground`, `open_data`, `check_data`.
    """
    from seg.pack.training_data import FOLDER, apply_foreground  # here, as it loads torch

    request = apply_foreground(request)
    recipe = request.recipe
    root = request.data or Path(os.environ.get("FRINGE_DATA", FOLDER))
    found = open_data(root, find_rule(request), dataset=recipe.dataset, sequence=recipe.sequence)
    return check_data(found, recipe, seed=request.seed, limit=request.limit)


def check_data(
    found: Found,
    recipe: Recipe | None = None,
    *,
    foreground: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Checked:
    """Read a data set and say what fits it, or, given a recipe, what would become of its training.

    foreground, seed, limit: as a training is told. RequestError: the seed is below 0, the limit below 1.
    """
    if seed < 0:
        raise RequestError(f"`seed` is {seed}; give 0 or more")
    if limit is not None and limit < 1:
        raise RequestError(f"`limit` is {limit}; give 1 or more, or leave it out")
    settings = recipe or find_recipe(RECIPE)
    label_map: LabelMap | None = settings.label_map if recipe else None
    looks = survey(found, label_map or ())
    split = split_found(found, settings, seed)
    checked = Checked(
        found=found,
        looks=looks,
        meaning=find_meaning(found, looks, label_map, foreground),
        split=split if isinstance(split, str) else split.limited(limit),
        plan=None,
        recipe=recipe,
    )
    if recipe is not None or not checked.labels:
        return checked
    plan = fit_plan(checked)
    return replace(checked, plan=plan, recipe=plan.fitted)


def split_found(found: Found, recipe: Recipe, seed: int) -> Split | str:
    """The split that a training with this recipe would make, or why it would refuse."""
    if found.refusal:
        return ""
    data = pool_parts(found.data) if recipe.test_share else found.data
    try:
        return split_samples(data, recipe.validation_share, seed, recipe.frames, recipe.test_share)
    except RequestError as error:
        return str(error)


def find_meaning(
    found: Found, looks: list[Look], label_map: LabelMap | None, foreground: int | None
) -> Meaning:
    """What the ids mean that these labels store; those of a decoder are class ids already."""
    labels = [(look.sample, look.label) for look in looks if isinstance(look.label, LabelFacts)]
    stored = sorted({number for _, facts in labels for number in np.flatnonzero(facts.pixels).tolist()})
    if any(sample.decoder for sample, _ in labels):
        return read_meaning(found.data.classes, stored, ())
    if found.dataset != "plain":
        own = found.data.label_map if label_map is None else label_map
        return read_meaning(found.data.classes, stored, own)
    masks = any(holds_mask(sample.label.name) for sample, _ in labels if sample.label)
    classes = found.data.classes if found.has_names else ()
    return read_meaning(classes, stored, label_map, foreground, masks=masks)


def fit_plan(checked: Checked) -> Plan:
    """The training that fits; of a data set with an adapter the recipe that was made for it."""
    found, split = checked.found, checked.split
    if found.dataset != "plain":
        return Plan(next(recipe for recipe in RECIPES.values() if recipe.dataset == found.dataset), ())
    widths, areas = checked.objects()
    fingerprint = Fingerprint(
        sizes=[facts.size for look, facts in checked.images if look.sample.label],
        is_colour=not all(facts.is_gray for _, facts in checked.images),
        class_pixels=checked.class_pixels,
        widths=widths,
        areas=areas,
        train_images=len(split.train) if isinstance(split, Split) else len(found.data.samples),
    )
    return plan_training(fingerprint, checked.meaning.label_map)
