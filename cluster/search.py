"""A search of a recipe's fields on Ray Tune: Optuna proposes, ASHA prunes, the trials' folders remember."""

import logging
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import FloatDistribution

from cluster.placement import compute_on, count_slots, place_trial
from cluster.session import Session, quiet_loggers
from cluster.train import check_packs, check_recipe
from cluster.trials import TrialJob, run_trial
from seg.alarms import find_alarms
from seg.errors import DataWarning, JobSummary, RequestError, StoppedBy
from seg.files import read_json, write_json
from seg.locks.claim import check_folder, holding
from seg.metrics import Scores, score_classes
from seg.model_file import load_model, save_model
from seg.models import MODELS
from seg.pack.training_data import TrainingData, apply_foreground, open_packs, open_requested
from seg.plain_data import Plain, require_fields, to_plain
from seg.predict.averaging import average
from seg.predict.predictor import Predictor
from seg.progress import watch_thread
from seg.recipe import Params, Recipe, apply_params
from seg.requests import SearchRequest
from seg.search.page import write_page
from seg.search.space import Space, blaming, check_size, check_space, choice, parse_search, plain_axis
from seg.search.trials import (
    TrialRecord,
    TrialsReader,
    begins_fused,
    count_trials,
    read_trials,
    write_leaderboard,
)
from seg.train.run_folder import augmenter_identity, run_identity, run_name
from seg.train.start import locate, open_weights
from seg.train.validation import count_confusion

log = logging.getLogger(__name__)

LOSSES_BEFORE = ("cross_entropy", "cross_entropy+dice", "focal")
"""What a search tried by itself before it had the asymmetric loss; one that was begun so goes on so."""
LOSSES = ("asymmetric", *LOSSES_BEFORE)
RATE_RANGE = 10.0
"""The learning rate is searched from a tenth of the recipe's to ten times it, by logarithm."""
SUMMARY_FIELDS = {
    "trials": int,
    "classes": list[str],
    "confusion": list[list[int]],
    **dict.fromkeys(("miou", "pixel_accuracy"), float | None),
    **dict.fromkeys(("iou", "dice"), dict[str, float | None]),
}
"""What is shown of a finished search."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # an epoch's line is in the trial's folder already
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """A search that was checked."""

    identity: Mapping[str, Plain]
    """What its run.json says."""
    job: TrialJob
    space: Space
    own: Params
    """The recipe's own point, which is tried first: a search begins with not searching."""
    trials: int
    slots: int
    """Trials that run at a time, where the cluster is empty."""

    @property
    def folder(self) -> Path:
        """The search's."""
        return self.job.folder


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSummary(JobSummary):
    """How a search ended."""

    folder: Path
    data: Path
    """Root of the data set."""
    leaderboard: list[TrialRecord]
    """The best trial first."""
    searched: tuple[str, ...]
    """The fields that trials differ in, which are columns of the leaderboard."""


def search(request: SearchRequest, session: Session) -> SearchSummary:
    """Run the trials that are left, write leaderboard, winner, page and summary.

    RequestError: data, recipe, space, resources or folder do not fit each other.
    """
    plan = plan_search(request, session)
    with holding(plan.folder, plan.identity, what="search") as lock:
        return _search(replace(plan, job=replace(plan.job, lock=lock.token)), session)


def _search(plan: SearchPlan, session: Session) -> SearchSummary:
    started = time.perf_counter()
    stopped_by = StoppedBy.FINISHED
    if _count_left(plan):
        session.start()
        stopped_by = _run_trials(plan)
    elif summary := _read_finished(plan):
        log.info(f"nothing left to search in {plan.folder}")
        return SearchSummary(
            folder=plan.folder,
            data=plan.job.data.root,
            values=summary,
            leaderboard=read_trials(plan.job.trials),
            searched=tuple(plan.space),
        )
    return _conclude(plan, session, stopped_by, time.perf_counter() - started)


def plan_search(request: SearchRequest, session: Session) -> SearchPlan:
    """Open the data and look at the search's folder, which is left as it is.

    RequestError: they, recipe or space do not fit.
    """
    if request.trials < 1:
        raise RequestError(f"`trials` is {request.trials}, below 1; try `trials=16`")
    request = apply_foreground(request)
    recipe, placement = open_weights(request.recipe), place_trial(request, session)
    given = parse_search(request.search)
    space = choose_space(recipe, given)
    own = own_params(recipe, space)
    check_size(space, own, request.trials)
    points = check_space(space, recipe, own)
    data = open_requested(request, _widest(recipe, points))
    if start := check_recipe(recipe, data.classes):
        log.info(f"{start}; tensor by tensor in each trial's weights.log")
    check_batch(recipe, placement.most)
    check_packs(data, recipe, session)
    _check_points(points, recipe, data, placement.most, session)
    tried = (point for _, point in points)
    shared = run_identity(recipe, data, request.seed) | augmenter_identity(*tried)

    def name_search(space: Space) -> tuple[dict[str, Plain], Path]:
        axes = {name: plain_axis(axis) for name, axis in space.items()}
        identity = {**shared, "kind": "search", "search": axes, "workers_per_trial": placement.most}
        return identity, (request.out or Path("search") / run_name(recipe, identity)).resolve()

    identity, folder = name_search(space)
    older = choose_space(recipe, given, LOSSES_BEFORE)
    if _is_begun(*name_search(older)):
        space, (identity, folder) = older, name_search(older)
        check_size(space, own, request.trials)
    check_folder(folder, identity)
    return SearchPlan(
        identity=identity,
        job=TrialJob(recipe=locate(recipe), data=data, seed=request.seed, folder=folder, placement=placement),
        space=space,
        own=own,
        trials=request.trials,
        slots=count_slots(placement, session),
    )


def _is_begun(identity: Mapping[str, Plain], folder: Path) -> bool:
    """Whether a folder is that very search's."""
    file = folder / "run.json"
    return file.is_file() and read_json(file) == to_plain(identity)


def choose_space(recipe: Recipe, given: Space, losses: tuple[str, ...] = LOSSES) -> Space:
    """What is always searched and what is given; who gives models chooses backbones that fit them all."""
    rate = recipe.optimizer.lr
    space: Space = {
        "optimizer.lr": FloatDistribution(rate / RATE_RANGE, rate * RATE_RANGE, log=True),
        "loss": choice(sorted({recipe.loss, *losses})),
    }
    if "model" not in given:
        space["backbone"] = choice(find_backbones(recipe))
    return space | given


def find_backbones(recipe: Recipe) -> tuple[str | None, ...]:
    """What a search chooses from: the architecture's; the recipe's alone where weights fit no other."""
    if recipe.model not in MODELS:  # one of another library, which names its encoder
        return (recipe.backbone,)
    known = MODELS[recipe.model].BACKBONES
    return known if recipe.weights in ("none", "imagenet") else (recipe.backbone or known[0],)


def own_params(recipe: Recipe, space: Space) -> Params:
    """The recipe's own point."""
    own = {name: attrgetter(name)(recipe) for name in space}
    return own | {"backbone": recipe.backbone or find_backbones(recipe)[0]} if "backbone" in own else own


def _widest(recipe: Recipe, points: list[tuple[str, Recipe]]) -> Recipe:
    """A recipe whose data is enough for all: backgrounds want whole sequences, and windows gaps as well."""
    wanting = (point for _, point in points if point.frames > 1 or point.preprocessing.background_every > 0)
    return max(wanting, key=attrgetter("frames"), default=recipe)


def _check_points(
    points: list[tuple[str, Recipe]], recipe: Recipe, data: TrainingData, workers: int, session: Session
) -> None:
    """RequestError: a network, loss, batch or crop of the space fits neither the data nor the workers.

    Where preprocessing is searched, its packs are built, and crops tried on them, when a trial needs them.
    """
    seen: set[tuple[Any, ...]] = set()
    for settings, point in points:
        network = (point.model, point.backbone, point.weights, point.model_options, point.frames)
        losses = (point.loss, point.class_weights, point.output_weights, point.preprocessing.channels)
        key = (network, losses, point.batch, point.crops.size_px)
        if key in seen:
            continue
        seen.add(key)
        with blaming(settings):
            check_recipe(point, data.classes)
            check_batch(point, workers)
            if point.preprocessing == recipe.preprocessing and point.crops.size_px != recipe.crops.size_px:
                check_packs(data, point, session)


def check_batch(recipe: Recipe, workers: int) -> None:
    """RequestError: a batch that is smaller than the workers who share it."""
    if recipe.batch < workers:
        raise RequestError(
            f"`workers_per_trial={workers}` share a batch of {recipe.batch}; try `batch={workers}`"
        )


def _count_left(plan: SearchPlan) -> int:
    """Trials that are still to begin or to end."""
    trials = read_trials(plan.job.trials)
    return max(0, plan.trials - len(trials)) + sum(not trial.ended for trial in trials)


def _read_finished(plan: SearchPlan) -> dict[str, Plain] | None:
    """The summary that a finished search left, of as many trials as there are now; None: it is to be made."""
    file, mend, classes = plan.folder / "summary.json", "it is made again", list(plan.job.data.classes)
    if not file.is_file():
        return None
    try:
        summary = require_fields({"stopped_by": str}, read_json(file, mend), str(file), mend)
        if summary["stopped_by"] != StoppedBy.FINISHED:
            return None
        require_fields(SUMMARY_FIELDS, summary, str(file), mend)
        for name in ("iou", "dice"):
            require_fields(dict.fromkeys(classes, float | None), summary[name], f"{file}, {name}", mend)
        if summary["classes"] != classes or len(summary["confusion"]) != len(classes):
            raise RequestError(f"{file} is damaged: it has other classes than the data; {mend}")
    except RequestError as error:
        warnings.warn(DataWarning(str(error)), stacklevel=2)
        return None
    return summary if summary["trials"] == len(read_trials(plan.job.trials)) else None


def _run_trials(plan: SearchPlan) -> StoppedBy:
    from ray import tune

    from cluster.tune_hooks import Endings, Proposals, Pruning

    quiet_loggers()
    os.environ.update(TUNE_ENVIRONMENT | {"TUNE_MAX_PENDING_TRIALS_PG": str(plan.slots)})
    begun = read_trials(plan.job.trials)
    job, state = replace(plan.job, fused=begins_fused(begun)), plan.folder / "ray"
    shutil.rmtree(state, ignore_errors=True)  # of an earlier command: the trials' folders hold all we need
    endings = Endings(job)
    proposals = Proposals(job, plan.space, plan.own, trials=plan.trials, slots=plan.slots)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=job), job.set_aside()),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # until there is nothing left to propose
            search_alg=proposals,
            scheduler=Pruning(begun, job.recipe.epochs),
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(state), verbose=0, callbacks=[endings]),
    )
    total = max(plan.trials, len(begun))
    try:
        stopped_by = watch_thread(TrialsReader(job.trials, job.recipe, total), tuner.fit)
    finally:
        endings.closed = True
    if stopped_by is StoppedBy.FINISHED:
        for left in (state, *job.trials.glob("*/ray")):
            shutil.rmtree(left, ignore_errors=True)  # a process that was pruned may still write there
    return stopped_by


def _conclude(plan: SearchPlan, session: Session, stopped_by: StoppedBy, seconds: float) -> SearchSummary:
    """Write leaderboard, page and summary; of a search that finished first the winner's model file."""
    job, trials = plan.job, read_trials(plan.job.trials)
    write_leaderboard(plan.folder / "leaderboard.csv", trials)
    figures = count_trials(
        trials, recipe=job.recipe.name, asked=plan.trials, seconds=seconds, stopped_by=stopped_by
    )
    values, alarms, won = to_plain(figures), list[str](), dict[str, Plain]()
    if figures.best is not None:
        confusion = trials[0].journal.best_confusion
        if stopped_by is StoppedBy.FINISHED:
            winner = plan.folder / "best.safetensors"
            evaluate = partial(evaluate_winner, job, trials[0], winner)
            scores = compute_on(job.placement, session, evaluate)
            confusion = scores.confusion
            won = {"model_file": str(winner), "classes": list(job.data.classes), **to_plain(scores)}
        trained = open_packs(job.data, job.recipe)[0].class_shares()
        alarms = find_alarms(job.data.classes, np.array(confusion, np.int64), trained=trained)
        values |= {"alarms": alarms, **won}
    elif stopped_by is StoppedBy.FINISHED:
        raise RuntimeError(f"no trial finished an epoch; the first: {trials[0].error}")
    write_page(plan.folder, plan.space, trials, figures, alarms)
    write_json(plan.folder / "summary.json", values)
    return SearchSummary(
        folder=plan.folder,
        data=job.data.root,
        values=values,
        leaderboard=trials,
        searched=tuple(plan.space),
    )


def evaluate_winner(job: TrialJob, best: TrialRecord, winner: Path, device: torch.device) -> Scores:
    """Count the best trial's model on all of validation, and write it as the search's model file."""
    recipe = apply_params(job.recipe, best.params)
    network, card = load_model(best.folder / "best.safetensors", device)
    seen = average([network], recipe.tta)
    predictor = Predictor(seen, card.tiling, batch=1, device=device, precision=recipe.precision)
    validation = open_packs(job.data, recipe)[1]
    clips = validation.clips(card.frames)
    confusion = count_confusion(predictor, clips, card.statistics, len(card.classes))
    scores = score_classes(confusion.cpu().numpy(), card.classes)
    save_model(winner, network, replace(card, validation=asdict(scores)))
    return scores
