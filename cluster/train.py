"""A training on Ray Train or in this process: the same loop and folder, resumed by the same request."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path

import torch

from cluster.packing import choose_preparation
from cluster.placement import Placement, compute_on, place_training
from cluster.session import Session
from cluster.train_workers import fit_workers, train_epochs
from seg.errors import JobSummary, RequestError, StoppedBy
from seg.figures.plots import load_plotting
from seg.files import read_json, write_json
from seg.locks import claim
from seg.models.build import output_weights, takes_frames
from seg.pack import training_data
from seg.pack.crops import CropSampler
from seg.pack.training_data import TrainingData, open_packs
from seg.plain_data import Plain
from seg.progress import watch_here, watch_thread
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.requests import TrainRequest
from seg.storage import as_place, refusing
from seg.train import run_folder
from seg.train.board import BoardReader
from seg.train.losses import build_loss
from seg.train.mlflow_run import connect_mlflow
from seg.train.origin import Origin, begin_from, check_origin, find_origin_name
from seg.train.start import Start, build_start, locate, open_weights
from seg.train.state import Journal, list_epochs, read_run, settle_best
from seg.train.store import CheckpointStore
from seg.train.tracking import Tracking
from seg.train.training import TrainingPlan, find_class_weights, fit_statistics

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSummary(JobSummary):
    """How a training ended."""

    folder: Path
    data: Path
    """Root of the data set."""


def train(request: TrainRequest, session: Session) -> TrainSummary:
    """Train what is left of a run and write its summary; a finished run is only summarised.

    RequestError: data, recipe, folder or workers do not fit each other.
    """
    placement = place_training(request, session)
    request = replace(request, recipe=scale_batch(request, placement))
    server = connect_mlflow(request.mlflow) if request.mlflow else None
    plan, identity = plan_training(request, session)
    with (
        claim.holding(plan.folder, identity, what="training") as lock,
        Tracking(plan, server) as tracking,
    ):
        plan = replace(plan, lock=(plan.folder, lock.token))
        _fetch_checkpoints(plan)
        if plan.origin and not list_epochs(plan.folder / "last"):
            begin_from(plan.origin, plan.folder, plan.recipe, plan.keep_best)
        stopped_by, journal = StoppedBy.FINISHED, read_run(plan.folder)
        if journal is not None and journal.is_finished(plan.recipe):
            log.info(f"nothing left to train in {plan.folder}")
        else:
            stopped_by = _train_pending(plan, request, placement, session, tracking)
        summary = _summarise(plan, placement, session, stopped_by)
        tracking.conclude(stopped_by)
    return summary


def scale_batch(request: TrainRequest, placement: Placement) -> Recipe:
    """The recipe with the batch and the learning rate that so many workers give it, said on screen.

    lr_scaling linear: Goyal et al. 2017, arXiv:1706.02677, section 2.1, without their warm-up; sqrt: Hoffer
    et al. 2017, arXiv:1705.08741, section 4. RequestError: no number of crops, or no one number of workers.
    """
    recipe, each, workers = request.recipe, request.batch_per_worker, placement.workers
    own = RECIPES.get(recipe.name, recipe).batch
    batch = recipe.batch
    if each is not None:
        if each < 1:
            raise RequestError(f"`batch_per_worker` is {each}, below 1; try `batch_per_worker=1`")
        if isinstance(workers, tuple):
            raise RequestError(
                "`batch_per_worker` wants one number of `workers`, as the batch follows from it"
            )
        if batch != own:
            raise RequestError(
                f"`batch={batch}` and `batch_per_worker={each}` both say how large a batch is; leave one out"
            )
        batch = each * max(1, workers)
        log.info(f"a batch of {batch} crops, {each} a worker")
    factor = {"none": 1.0, "linear": batch / own, "sqrt": sqrt(batch / own)}[request.lr_scaling]
    rate = recipe.optimizer.lr * factor
    if request.lr_scaling != "none":
        log.info(
            f"learning rate {rate:.4g}: {factor:.4g} times {recipe.optimizer.lr:.4g}, for a batch of {batch} "
            f"in place of {own} (`lr_scaling={request.lr_scaling}`)"
        )
    return replace(recipe, batch=batch, optimizer=replace(recipe.optimizer, lr=rate))


def plan_training(request: TrainRequest, session: Session) -> tuple[TrainingPlan, dict[str, Plain]]:
    """Open the data and look at the run's folder, which is left as it is; the run's identity beside the plan.

    RequestError: they or the recipe do not fit.
    """
    _check_keeping(request)
    request = training_data.apply_foreground(request)
    request = replace(request, recipe=open_weights(request.recipe))
    data = training_data.open_requested(request, request.recipe)
    identity = run_folder.run_identity(request.recipe, data, request.seed)
    origin = _find_origin(request, identity)
    identity |= origin.claim if origin else {}
    folder = (request.out or Path("runs") / run_folder.run_name(request.recipe, identity)).resolve()
    store = request.checkpoints and CheckpointStore(
        request.checkpoints.below(folder.name), request.keep_states
    )
    claims = list(filter(None, _read_claims(folder, store)))
    if origin and not claims:
        claims = _begin_claims(origin, identity, request.recipe)
    identity = claim.grow(claims, identity, request.horizon)
    begun = claim.check_folder(folder, identity) and bool(list_epochs(folder / "last"))
    if start := check_recipe(request.recipe, data.classes, begun=begun or origin is not None):
        log.info(f"{start}; tensor by tensor in weights.log")
    counts = f"{len(data.split.train)} images to train on, {len(data.split.validation)} to validate on"
    log.info(f"data {data.root}: {counts}; {data.split.how}")
    check_packs(data, request.recipe, session)
    plan = TrainingPlan(
        recipe=locate(request.recipe),
        data=data,
        seed=request.seed,
        folder=folder,
        parent=folder.name,
        horizon=horizon if isinstance(horizon := identity.get("horizon"), int) else 0,
        keep_best=request.keep_best,
        keep_states=request.keep_states,
        store=store,
        origin=origin,
    )
    if plan.horizon:
        _tell_horizon(plan)
    return plan, identity


def _check_keeping(request: TrainRequest) -> None:
    if request.keep_best < 1:
        raise RequestError(f"`keep_best` is {request.keep_best}, below 1; try `keep_best=1`")
    if request.keep_states < 2:
        raise RequestError(
            f"`keep_states` is {request.keep_states}, below 2, and a damaged state wants the one before it; "
            "try `keep_states=2`"
        )


def _find_origin(request: TrainRequest, identity: Mapping[str, Plain]) -> Origin | None:
    """The run that another one begins with: as named, else as when it began, else that of the same command.

    identity: this command's, as though it began with none. RequestError: an epoch is missing.
    """
    if request.from_epoch is not None:
        name = find_origin_name(request.out) or run_folder.run_name(request.recipe, identity)
        return Origin((request.from_run or Path("runs") / name).resolve(), request.from_epoch)
    if request.from_run is not None:
        raise RequestError(f"`from_run={request.from_run}` wants the epoch to begin with; add `from_epoch`")
    return None


def _begin_claims(origin: Origin, identity: Mapping[str, Plain], recipe: Recipe) -> list[Plain]:
    """The origin's run.json as though it were this run's, whose epochs grew; none where they did not."""
    found = check_origin(origin, identity, recipe) | origin.claim
    return [found] if claim.epochs_of(found) <= recipe.epochs else []


def _read_claims(folder: Path, store: CheckpointStore | None) -> Iterator[Plain]:
    """run.json of a run's folder and of its checkpoints, None where there is none."""
    if not folder.is_file():
        yield as_place(folder).read_json("run.json")
    if store is not None:
        with suppress(RequestError), refusing(store.place.uri):  # the claim will say what is wrong there
            yield store.place.read_json("run.json")


def _tell_horizon(plan: TrainingPlan) -> None:
    span, epochs = plan.horizon, plan.recipe.epochs
    if span == epochs:
        log.info(f"the learning rate goes on along the schedule of {epochs} epochs: `horizon=stretch`")
    else:
        log.info(
            f"the learning rate keeps the schedule of {span} epochs, and after them its last value: "
            "`horizon=keep`"
        )


def _fetch_checkpoints(plan: TrainingPlan) -> None:
    """Go on from what storage elsewhere has, where that is further. RequestError: it holds another run."""
    if plan.store is None:
        return
    plan.store.claim(read_json(plan.folder / "run.json"))
    if plan.store.fetch(plan.folder):
        log.info(f"going on from {plan.store.place.uri}")


def _settle_checkpoints(plan: TrainingPlan, journal: Journal) -> None:
    """Bring storage elsewhere up to date: a job killed after its last epoch was saved could not."""
    if plan.keeps_epochs:
        settle_best(plan.folder, journal.best_epochs(plan.keep_best, plan.recipe.monitor))
    if plan.store is not None:
        plan.store.publish(plan.folder, journal.epochs_done)


def check_recipe(recipe: Recipe, classes: tuple[str, ...], *, begun: bool = False) -> Start | None:
    """Refuse at once what the workers would only find out after a minute of starting.

    Returns how the network starts, as of `build_start`. begun: it goes on from a state, its weights are not
    looked at again.
    """
    with torch.device("meta"):
        model, start = build_start(recipe, classes, "none" if begun else recipe.weights)
    if recipe.frames > 1 and not takes_frames(recipe.model):
        raise RequestError(
            f"recipe: frames is {recipe.frames} but {recipe.model} sees one image; try `frames=1`"
        )
    build_loss(recipe.loss)
    outputs = len(output_weights(model))
    for name, values, wanted, of in (
        ("class_weights", recipe.class_weights, len(classes), "classes in the data"),
        ("output_weights", recipe.output_weights, outputs, f"outputs of {recipe.model}"),
    ):
        if not isinstance(values, str) and values and len(values) != wanted:
            raise RequestError(
                f"recipe: {name} has {len(values)} values for {wanted} {of}; give one for each, or none"
            )
    return start


def check_packs(data: TrainingData, recipe: Recipe, session: Session) -> None:
    """Build the packs, then try what the workers will. RequestError: a bad image or label, or no truth."""
    train, validation = open_packs(data, recipe, choose_preparation(session))
    fitted = fit_statistics(train, validation) if recipe.preprocessing.normalisation == "fitted" else None
    CropSampler(train, recipe, seed=0, fitted=fitted)
    for pack, part, lacking in (
        (train, "training", "nothing could be learned"),
        (validation, "validation", "no epoch could be judged"),
    ):
        if not pack.class_pixels().any():
            raise RequestError(
                f"data {data.root}: every pixel of the {len(pack.labelled)} {part} images is ignored, "
                f"so that {lacking}; label some, or use another `seed`"
            )
    training_data.warn_of_absent_classes(data.classes, train)
    training_data.warn_of_orientation(train, validation)
    find_class_weights(recipe, train)


def _summarise(
    plan: TrainingPlan, placement: Placement, session: Session, stopped_by: StoppedBy
) -> TrainSummary:
    journal = read_run(plan.folder)
    if journal is None and stopped_by is StoppedBy.FINISHED:
        raise RequestError(
            f"`out={plan.folder}` is empty after training; put it on storage that all nodes share"
        )
    ending = {"workers": placement.workers, "stopped_by": stopped_by}
    if journal is None:
        values = {"recipe": plan.recipe.name, "epochs_run": 0} | ending
        return TrainSummary(folder=plan.folder, data=plan.data.root, values=values)
    if stopped_by is StoppedBy.FINISHED:
        _settle_checkpoints(plan, journal)
    if journal.idle:
        log.info(f"no gradient reaches {', '.join(journal.idle)}: frozen, as workers cannot exchange any")
    _draw(plan, journal, placement, session)
    run_folder.write_history(
        plan.folder, journal
    )  # killed after its last epoch was saved, a run may lack its line
    trained = open_packs(plan.data, plan.recipe)[0].class_shares()
    figures = run_folder.training_summary(plan.folder, plan.recipe, plan.data.classes, journal, trained)
    figures |= {"horizon": _horizon(plan), "schedule_epochs": plan.horizon or plan.recipe.epochs}
    write_json(plan.folder / "summary.json", figures | ending)
    return TrainSummary(folder=plan.folder, data=plan.data.root, values=figures | ending)


def _horizon(plan: TrainingPlan) -> str | None:
    """What became of the schedule when the epochs grew; None: they never did."""
    return ("stretch" if plan.horizon == plan.recipe.epochs else "keep") if plan.horizon else None


def _draw(plan: TrainingPlan, journal: Journal, placement: Placement, session: Session) -> None:
    """The pictures of a finished run, once: a stopped one has its curves alone."""
    if (
        journal.best_epoch
        and journal.is_finished(plan.recipe)
        and not (plan.folder / "examples.png").is_file()
    ):
        run_folder.write_confusion(plan.folder, plan.data.classes, journal)
        draw = partial(run_folder.write_examples, plan.folder, plan.data, plan.recipe)
        compute_on(placement, session, draw)


def _train_pending(
    plan: TrainingPlan, request: TrainRequest, placement: Placement, session: Session, tracking: Tracking
) -> StoppedBy:
    load_plotting()
    for name in ("confusion.png", "examples.png"):  # of fewer epochs: drawn again at the end
        (plan.folder / name).unlink(missing_ok=True)
    reader = BoardReader(plan, tracking.send, workers=placement.most)
    if placement.workers:
        session.start()
        limits = {"restarts": request.restarts, "stall_minutes": request.stall_minutes}
        return watch_thread(reader, partial(fit_workers, plan, placement, **limits))
    device = torch.device("cuda" if placement.gpus else "cpu")
    return watch_here(reader, partial(train_epochs, plan, device))
