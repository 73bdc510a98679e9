"""A training on Ray Train or in this process: the same loop and folder, resumed by the same request."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster.outcome import EXIT_CODES, StoppedBy
from cluster.quiet import quiet_loggers
from cluster.requests import TrainRequest
from cluster.session import Session
from cluster.training_progress import Board, BoardReader
from cluster.watching import run_here, run_watched
from seg.data.crops import CropSampler
from seg.data.default import default_data
from seg.data.training_data import TrainingData, open_packs, open_training_data
from seg.errors import RequestError
from seg.files import without_nan, write_json
from seg.losses import build_loss
from seg.models.build import build, takes_frames
from seg.recipe import Recipe
from seg.run_folder import claim_folder, read_run, run_identity, run_name, training_summary, write_history
from seg.run_pictures import draw_confusion, draw_examples
from seg.training import Training, TrainingPlan, find_class_weights, fit_statistics
from seg.training_state import Journal

RESTARTS = 3
"""Times a worker group is built again after a worker died."""


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """How a training ended: its folder, and what summary.json holds."""

    folder: Path
    values: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """See docs/formats.md."""
        return EXIT_CODES[self.values["stopped_by"]]


def train(request: TrainRequest, session: Session) -> TrainSummary:
    """Train what is left of a run and write its summary; a finished run is only summarised.

    RequestError: data, recipe, folder or workers do not fit each other.
    """
    workers = (
        0 if request.workers == 0 else session.choose_workers(request.workers, at_most=request.recipe.batch)
    )
    if request.recipe.batch < workers:
        raise RequestError(
            f"--workers {workers} share a batch of {request.recipe.batch}; try --batch {workers}"
        )
    plan = plan_training(request)
    stopped_by = StoppedBy.FINISHED
    if not _is_finished(plan):
        stopped_by = _train_pending(plan, workers, session)
    else:
        print(f"nothing left to train in {plan.folder}", file=sys.stderr)
    return TrainSummary(plan.folder, _summarise(plan, workers, stopped_by))


def plan_training(request: TrainRequest) -> TrainingPlan:
    """Open the data and claim the run's folder. RequestError: they or the recipe do not fit."""
    data = open_training_data(
        request.data or default_data(), request.recipe, seed=request.seed, limit=request.limit
    )
    check_recipe(request.recipe, len(data.classes))
    counts = f"{len(data.split.train)} images to train on, {len(data.split.validation)} to validate on"
    print(f"data {data.root}: {counts}; {data.split.how}", file=sys.stderr, flush=True)
    identity = run_identity(request.recipe, data, request.seed)
    folder = (request.out or Path("runs") / run_name(identity)).resolve()
    check_packs(data, request.recipe)  # before the claim: bad data is refused with nothing written
    claim_folder(folder, identity)
    return TrainingPlan(
        recipe=request.recipe, data=data, seed=request.seed, folder=folder, parent=folder.name
    )


def check_recipe(recipe: Recipe, num_classes: int) -> None:
    """Refuse at once what the workers would only find out after a minute of starting."""
    with torch.device("meta"):
        model = build(
            recipe.model,
            backbone=recipe.backbone,
            num_classes=num_classes,
            channels=recipe.preprocessing.channels,
            weights=recipe.weights,
            options=dict(recipe.model_options),
        )
    if recipe.frames > 1 and not takes_frames(recipe.model):
        raise RequestError(
            f"recipe: frames is {recipe.frames} but {recipe.model} sees one image; try --frames 1"
        )
    build_loss(recipe.loss)
    outputs = len(getattr(model, "OUTPUT_WEIGHTS", (1.0,)))
    for name, values, wanted, of in (
        ("class_weights", recipe.class_weights, num_classes, "classes in the data"),
        ("output_weights", recipe.output_weights, outputs, f"outputs of {recipe.model}"),
    ):
        if not isinstance(values, str) and values and len(values) != wanted:
            raise RequestError(
                f"recipe: {name} has {len(values)} values for {wanted} {of}; give one for each, or none"
            )


def check_packs(data: TrainingData, recipe: Recipe) -> None:
    """Build the packs, then try what the workers will. RequestError: a bad image or label, or no truth."""
    train, validation = open_packs(data, recipe)
    fitted = fit_statistics(train, validation) if recipe.preprocessing.normalisation == "fitted" else None
    CropSampler(train, recipe, seed=0, fitted=fitted)
    find_class_weights(recipe, train)
    if not validation.class_pixels().any():
        raise RequestError(
            f"data {data.root}: every pixel of the {len(validation.labelled)} validation images is ignored, "
            "so that no epoch could be judged; label some, or use another --seed"
        )


def _is_finished(plan: TrainingPlan) -> bool:
    journal = read_run(plan.folder)
    return journal is not None and journal.is_finished(plan.recipe)


def _summarise(plan: TrainingPlan, workers: int, stopped_by: StoppedBy) -> dict[str, Any]:
    journal = read_run(plan.folder)
    if journal is None and stopped_by is StoppedBy.FINISHED:
        raise RequestError(
            f"--out {plan.folder} is empty after training; put it on storage that all nodes share"
        )
    ending = {"workers": workers, "stopped_by": stopped_by}
    if journal is None:
        return {"recipe": plan.recipe.name, "epochs_run": 0} | ending
    _draw(plan, journal)
    write_history(plan.folder, journal)  # killed after its last epoch was saved, a run may lack its line
    summary = training_summary(plan.folder, plan.recipe, plan.data.classes, journal) | ending
    write_json(plan.folder / "summary.json", summary)
    return summary


def _draw(plan: TrainingPlan, journal: Journal) -> None:
    """The pictures of a finished run, once: a stopped one has its curves alone."""
    if (
        journal.best_epoch
        and journal.is_finished(plan.recipe)
        and not (plan.folder / "examples.png").is_file()
    ):
        draw_confusion(plan.folder, plan.data.classes, journal)
        draw_examples(plan.folder, plan.data, plan.recipe)


def _train_pending(plan: TrainingPlan, workers: int, session: Session) -> StoppedBy:
    what, reader = f"training {plan.recipe.name}", BoardReader(plan)
    if workers:
        session.start()
        return run_watched(what, reader.epochs_left, partial(_fit, plan, workers, session), reader.show)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return run_here(what, reader.epochs_left, partial(_train_epochs, plan, device), reader.show)


def _fit(plan: TrainingPlan, workers: int, session: Session) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    quiet_loggers()
    use_gpu = session.gpus_possible > 0
    threads = 1 if use_gpu else max(1, session.cpus // workers)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan, "threads": threads},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": threads} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name=f"train-{os.getpid()}-{int(time.time())}",  # our own state resumes: Ray's is never picked up
            storage_path=str(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    trainer.fit()
    shutil.rmtree(plan.folder / "ray")


def _train_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    torch.set_num_threads(config["threads"])
    _train_epochs(config["plan"], ray.train.torch.get_device(), lambda: None, ray.train.report)


def _train_epochs(
    plan: TrainingPlan,
    device: torch.device,
    on_news: Callable[[], None],
    report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train what is left and keep the folder's history up to date.

    on_news: called after each step and epoch. report: tells Ray that we are alive.
    """
    training = Training(plan, device)
    board = Board(training)

    def on_step(epoch: int, step: int, loss: float) -> None:
        board.on_step(epoch, step, loss)
        on_news()

    for result in training.epochs(on_step):
        if training.rank == 0:
            write_history(plan.folder, training.journal)
        board.publish(result.epoch, training.sampler.steps_per_epoch, result.loss)
        on_news()
        if report is not None:
            report(without_nan(result.row()))
