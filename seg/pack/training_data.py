"""What a training reads: samples split in two, their fingerprint, their packs."""

import logging
import os
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from seg.data import DATASETS
from seg.data.background import FrameFile
from seg.data.images import ImageFiles, Turned
from seg.data.labels import holds_mask, map_foreground, open_label, refuse_all_ignored
from seg.data.layout import DataSet, Sample
from seg.data.listing import clip_places
from seg.data.plain import PLAIN, LabelRule, choose_adapter
from seg.data.splits import Split, data_fingerprint, pool_parts, split_samples
from seg.errors import DataWarning, RequestError
from seg.files import require_data_folder
from seg.pack.build import PrepareRows, ensure_pack
from seg.pack.pack import Pack, PackPlan, PackSettings, pack_folder, rows_by_threads
from seg.progress import progress
from seg.recipe import Recipe
from seg.requests import DataRequest, TrainRequest

log = logging.getLogger(__name__)

FOLDER, SIMULATED = Path("data/simulated"), 32
"""Where data are simulated for those who have none, and how many frames."""
Request = TypeVar("Request", bound=DataRequest)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A data set as a training sees it; plain, so that it travels to workers."""

    root: Path
    classes: tuple[str, ...]
    split: Split
    fingerprint: str
    sequences: dict[str, tuple[FrameFile, ...]]
    """All frames of each sequence, labelled or not and whatever the limit, where backgrounds or clips are
    made of them; else empty."""
    packs: Path = field(default_factory=pack_folder)
    """Folder of the packs, as the job's environment names it: that of its workers may name another."""


def apply_foreground(request: Request) -> Request:
    """The same with `foreground` as the label_map of its recipe, which is what is recorded.

    RequestError: it is no id, or the recipe has another label_map.
    """
    if request.foreground is None:
        return request
    label_map, own = map_foreground(request.foreground), request.recipe.label_map
    for other, given in (("label_map", own not in ((), label_map)), ("label_colours", request.label_colours)):
        if given:
            raise RequestError(
                f"`foreground={request.foreground}` and `{other}` both say what a mask means; leave one out"
            )
    return replace(request, recipe=replace(request.recipe, label_map=label_map), foreground=None)


def open_requested(request: DataRequest, recipe: Recipe) -> TrainingData:
    """The data that a request asks for, as a recipe reads them; errors as of `open_training_data`."""
    demo = isinstance(request, TrainRequest) and request.demo
    return open_training_data(
        request.data or default_data(demo=demo),
        recipe,
        seed=request.seed,
        limit=request.limit,
        labels=LabelRule.of(request),
    )


def find_samples(
    root: Path, recipe: Recipe, *, seed: int, labels: LabelRule = PLAIN
) -> tuple[DataSet, Split]:
    """The data set a recipe trains on, and its split.

    labels: where they are, for a recipe whose dataset is plain. RequestError: no such folder, not the
    recipe's layout, no labels, too few images, a seed below 0, masks that mark nothing but 255.
    """
    if seed < 0:
        raise RequestError(f"`seed` is {seed}; give 0 or more")
    require_data_folder(root)
    data = choose_adapter(recipe.dataset, DATASETS, labels)(root.resolve(), recipe.sequence)
    data = pool_parts(data) if recipe.test_share else data
    _refuse_all_ignored(data, recipe)
    return data, split_samples(data, recipe.validation_share, seed, recipe.frames, recipe.test_share)


def check_limit(limit: int | None) -> None:
    """RequestError: no number of images."""
    if limit is not None and limit < 1:
        raise RequestError(f"`limit` is {limit}; give 1 or more, or leave it out")


def open_training_data(
    root: Path, recipe: Recipe, *, seed: int, limit: int | None = None, labels: LabelRule = PLAIN
) -> TrainingData:
    """What `find_samples` finds, with its fingerprint; `limit`: the first images of each part.

    RequestError: as of `find_samples` and `check_limit`.
    """
    check_limit(limit)
    data, whole = find_samples(root, recipe, seed=seed, labels=labels)
    split = whole.limited(limit)
    if limit is not None:
        log.info(
            f"`limit={limit}` for each part: {len(split.train)} of {len(whole.train)} images of training, "
            f"{len(split.validation)} of {len(whole.validation)} of validation"
        )
    chosen = (*split.train, *split.validation)
    together = recipe.frames > 1 or recipe.preprocessing.background_every > 0
    sequences = _sequences(data, chosen) if together else {}
    frames = [file for sequence in sequences.values() for _, file in sequence]
    return TrainingData(
        data.root, data.classes, split, data_fingerprint(chosen, data.root, frames, data.labels), sequences
    )


def _refuse_all_ignored(data: DataSet, recipe: Recipe) -> None:
    """RequestError: masks of stored ids that hold 0 and 255 alone; an adapter's decoder finds ids itself."""
    labels = (str(sample.label) for sample in data.samples if sample.label and sample.decoder is None)
    masks = [label for label in labels if holds_mask(label)]
    refuse_all_ignored(f"data {data.root}", masks, partial(open_label, ImageFiles()), recipe.label_map)


def _sequences(data: DataSet, chosen: tuple[Sample, ...]) -> dict[str, tuple[FrameFile, ...]]:
    """All frames, labelled or not, of the sequences that the chosen samples belong to."""
    frames: dict[str, list[FrameFile]] = {sample.sequence: [] for sample in chosen}
    for name, image, sequence in data.frames():
        if sequence in frames:
            frames[sequence].append((name, image))
    return {sequence: tuple(found) for sequence, found in frames.items()}


def _with_neighbours(
    samples: tuple[Sample, ...], sequences: dict[str, tuple[FrameFile, ...]], frames: int
) -> tuple[Sample, ...]:
    """The samples and, without their labels, the frames that clips of `frames` see beside them."""
    if frames == 1:
        return samples
    by_name = {sample.name: sample for sample in samples}
    seen: list[Sample] = []
    for sequence in dict.fromkeys(sample.sequence for sample in samples):
        listed = sequences[sequence]
        ends = [place for place, (name, _) in enumerate(listed) if name in by_name]
        places = {place for end in ends for place in clip_places(end, frames)}
        for name, image in (listed[place] for place in sorted(places)):
            seen.append(by_name.get(name) or Sample(name, image, None, sequence))
    return tuple(seen)


def plan_packs(data: TrainingData, recipe: Recipe) -> tuple[PackPlan, PackPlan]:
    """The packs for training and for validation, as they are or will be built."""
    train, validation = (
        PackPlan(
            samples=_with_neighbours(samples, data.sequences, recipe.frames),
            fingerprint=data.fingerprint,
            settings=PackSettings(
                preprocessing=recipe.preprocessing,
                label_map=recipe.label_map,
                classes=data.classes,
                own_masks=own_masks,
            ),
            sequences=data.sequences,
            folder=data.packs,
        )
        for samples, own_masks in ((data.split.train, False), (data.split.validation, True))
    )
    return train, validation


def open_packs(
    data: TrainingData, recipe: Recipe, prepare: PrepareRows = rows_by_threads
) -> tuple[Pack, Pack]:
    """The packs for training and for validation, built where they are missing; see `ensure_pack`."""
    train, validation = (Pack(ensure_pack(plan, prepare)) for plan in plan_packs(data, recipe))
    return train, validation


def warn_of_absent_classes(classes: tuple[str, ...], train: Pack) -> None:
    """Say which classes no training image shows, so that no model can learn them."""
    seen = train.class_pixels().sum(0)
    absent = [name for name, pixels in zip(classes, seen, strict=True) if not pixels]
    if absent:
        warnings.warn(
            f"data: no training image shows class {', '.join(absent)}; no model can learn to predict it",
            DataWarning,
            stacklevel=2,
        )


def warn_of_orientation(*packs: Pack) -> None:
    """Say which labelled images carry an orientation, once for all packs: their pixels are as stored."""
    turned = Turned()
    for image in (image for pack in packs for image in pack.images()):
        turned.add(image.name, image.orientation)
    if turned.warning:
        warnings.warn(f"data: {turned.warning}", DataWarning, stacklevel=2)


def describe_default_data(*, demo: bool = False) -> str:
    """What `default_data` gives, in a line for the screen."""
    if (given := os.environ.get("FRINGE_DATA")) and not demo:
        return f"data: {given} ($FRINGE_DATA)"
    return f"data: {FOLDER}, {SIMULATED} simulated frames ({'`demo`' if demo else 'no `data` given'})"


def default_data(*, demo: bool = False) -> Path:
    """$FRINGE_DATA, else an archive simulated under data/simulated, once; demo: that one in any case."""
    if (given := os.environ.get("FRINGE_DATA")) and not demo:
        return Path(given)
    from seg.simulate.archive import Simulation, simulate_archive

    simulation = Simulation()
    assert simulation.num_sequences * simulation.num_frames == SIMULATED
    with progress("simulating", SIMULATED) as advance:
        simulate_archive(FOLDER, simulation, workers=len(os.sched_getaffinity(0)), advance=advance)
    return FOLDER
