"""A search over learning rate, loss and backbone on Ray Tune: Optuna proposes, ASHA prunes."""

import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cluster.outcome import EXIT_CODES, StoppedBy
from cluster.quiet import quiet_loggers
from cluster.requests import SearchRequest
from cluster.session import Session
from cluster.training import check_packs, check_recipe
from cluster.watching import run_watched
from seg.checkpoint import load_model, save_model
from seg.data.default import default_data
from seg.data.training_data import TrainingData, open_packs, open_training_data
from seg.errors import RequestError
from seg.files import read_json, without_nan, write_json
from seg.models import MODELS
from seg.predict import Predictor
from seg.recipe import Recipe
from seg.run_folder import claim_folder, run_identity, run_name, score_figures
from seg.training import Training, TrainingPlan, count_confusion

LOSSES = ("cross_entropy", "cross_entropy+dice", "focal")
RATE_RANGE = 10.0
"""The learning rate is searched from a tenth of the recipe's to ten times it, by logarithm."""
ASHA_REDUCTION = 3
"""Of the trials that reach a rung, the best third goes on (Li et al. 2020, arXiv:1810.05934)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """A search that was checked; plain, so that trials get it whole."""

    recipe: Recipe
    data: TrainingData
    trials: int
    seed: int
    folder: Path
    backbones: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """How a search ended: its folder, what summary.json holds, and the leaderboard, best trial first."""

    folder: Path
    values: dict[str, Any]
    leaderboard: list[dict[str, Any]]

    @property
    def exit_code(self) -> int:
        """See docs/formats.md."""
        return EXIT_CODES[self.values["stopped_by"]]


def search(request: SearchRequest, session: Session) -> SearchSummary:
    """Run the trials that are left, write leaderboard, winner and summary.

    RequestError: data, recipe or folder do not fit each other.
    """
    plan = plan_search(request)
    if finished := _read_finished(plan):
        print(f"nothing left to search in {plan.folder}", file=sys.stderr)
        return finished
    started = time.perf_counter()
    session.start()
    stopped_by = _run_trials(plan, session)
    return _conclude(plan, stopped_by, time.perf_counter() - started)


def _read_finished(plan: SearchPlan) -> SearchSummary | None:
    """The summary that a finished search left; None where trials are left."""
    file = plan.folder / "summary.json"
    summary = read_json(file) if file.is_file() else {}
    if summary.get("stopped_by") != StoppedBy.FINISHED:
        return None
    return SearchSummary(plan.folder, summary, _leaderboard(plan))


def plan_search(request: SearchRequest) -> SearchPlan:
    """Open the data and claim the search's folder. RequestError: they or the recipe do not fit."""
    if request.trials < 1:
        raise RequestError(f"--trials is {request.trials}, below 1; try --trials 16")
    recipe = request.recipe
    data = open_training_data(request.data or default_data(), recipe, seed=request.seed, limit=request.limit)
    for loss in sorted({recipe.loss, *LOSSES}):
        check_recipe(replace(recipe, loss=loss), len(data.classes))
    identity = run_identity(recipe, data, request.seed) | {"trials": request.trials}
    folder = (request.out or Path("search") / run_name(identity)).resolve()
    check_packs(data, recipe)
    claim_folder(folder, identity)
    return SearchPlan(
        recipe=recipe,
        data=data,
        trials=request.trials,
        seed=request.seed,
        folder=folder,
        backbones=find_backbones(recipe),
    )


def find_backbones(recipe: Recipe) -> tuple[str | None, ...]:
    """What a search chooses from: the architecture's; the recipe's alone where weights fit no other."""
    if recipe.model not in MODELS:  # one of another library, which names its encoder
        return (recipe.backbone,)
    known = MODELS[recipe.model].BACKBONES
    return known if recipe.weights in ("none", "imagenet") else (recipe.backbone or known[0],)


def apply_trial(recipe: Recipe, params: dict[str, Any]) -> Recipe:
    """The recipe of one trial."""
    return replace(
        recipe,
        optimizer=replace(recipe.optimizer, lr=params["lr"]),
        loss=params["loss"],
        backbone=params["backbone"],
    )


def default_params(plan: SearchPlan) -> dict[str, Any]:
    """The recipe's own point, which is tried first: a search begins with not searching."""
    recipe = plan.recipe
    return {"lr": recipe.optimizer.lr, "loss": recipe.loss, "backbone": recipe.backbone or plan.backbones[0]}


def _run_trials(plan: SearchPlan, session: Session) -> StoppedBy:
    from ray import tune

    from cluster.trials import TrialCounter

    quiet_loggers()
    # Tune's own state decides what a killed search lost: the default of 10 s is longer than a short trial
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    resources: dict[str, float] = {"gpu": 1} if session.gpus_possible else {"cpu": 1}
    trainable = tune.with_resources(tune.with_parameters(_run_trial, plan=plan), resources)
    state = plan.folder / "ray" / "search"
    if tune.Tuner.can_restore(str(state)):
        tuner = tune.Tuner.restore(str(state), trainable, resume_unfinished=True)
    else:
        shutil.rmtree(plan.folder / "trials", ignore_errors=True)  # of a search killed before its first trial
        tuner = tune.Tuner(trainable, **_tuner_options(plan))
    counter = TrialCounter(plan.folder / "trials")
    return run_watched(f"searching {plan.recipe.name}", plan.trials, tuner.fit, counter.show)


def _tuner_options(plan: SearchPlan) -> dict[str, Any]:
    import optuna
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from cluster.trials import EndedTrials

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    default = default_params(plan)
    rate = default["lr"]
    epochs = plan.recipe.epochs
    return {
        "param_space": {
            "lr": tune.loguniform(rate / RATE_RANGE, rate * RATE_RANGE),
            "loss": tune.choice(sorted({default["loss"], *LOSSES})),
            "backbone": tune.choice(plan.backbones),
        },
        "tune_config": tune.TuneConfig(
            metric="miou",
            mode="max",
            num_samples=plan.trials,
            search_alg=OptunaSearch(
                points_to_evaluate=[default], sampler=TPESampler(seed=plan.seed, multivariate=True)
            ),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=epochs,
                grace_period=max(1, epochs // ASHA_REDUCTION**2),
                reduction_factor=ASHA_REDUCTION,
            ),
        ),
        "run_config": tune.RunConfig(
            name="search",
            storage_path=str(plan.folder / "ray"),
            verbose=0,
            callbacks=[EndedTrials(plan.folder / "trials")],
        ),
    }


def _run_trial(params: dict[str, Any], plan: SearchPlan) -> None:
    """One trial, in a Ray worker: the training loop in a folder of its own, an epoch's mIoU to Tune."""
    from ray import tune

    from cluster.trials import PARAMETERS

    trial = tune.get_context().get_trial_id()
    torch.set_num_threads(1)
    training_plan = TrainingPlan(
        recipe=apply_trial(plan.recipe, params),
        data=plan.data,
        seed=plan.seed,
        folder=plan.folder / "trials" / trial,
        parent=f"{plan.folder.name}/{trial}",
    )
    write_json(training_plan.folder / PARAMETERS, params)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(training_plan, device)
    for row in training.journal.history[-1:]:  # resumed: Tune may not have heard of the last epoch
        tune.report(row)
    for result in training.epochs():
        tune.report(without_nan(result.row()))


def _conclude(plan: SearchPlan, stopped_by: StoppedBy, seconds: float) -> SearchSummary:
    """Write leaderboard and summary; of a search that finished also the winner's model file."""
    from cluster.trials import read_trials, write_leaderboard

    trials = read_trials(plan.folder / "trials")
    rows = [trial.row(plan.recipe) for trial in trials]
    write_leaderboard(plan.folder / "leaderboard.csv", rows)
    statuses = [row["status"] for row in rows]
    best = next((row for row in rows if row["miou"] is not None), None)
    if best is None and stopped_by is StoppedBy.FINISHED:
        causes = [row["error"] for row in rows] or ["none began"]
        raise RuntimeError(f"no trial finished an epoch; the first: {causes[0]}")
    summary: dict[str, Any] = {
        "recipe": plan.recipe.name,
        "trials": plan.trials,
        "finished": statuses.count("finished"),
        "pruned": statuses.count("pruned"),
        "errored": statuses.count("errored"),
        "best": best and {"trial": best["trial"], "params": trials[0].params, "miou": best["miou"]},
        "seconds": seconds,
        "stopped_by": stopped_by,
    }
    if stopped_by is StoppedBy.FINISHED:
        winner = plan.folder / "best.safetensors"
        figures = _evaluate_winner(plan, trials[0].folder / "best.safetensors", winner)
        summary |= {"model_file": str(winner), "classes": plan.data.classes, **figures}
    write_json(plan.folder / "summary.json", summary)
    return SearchSummary(plan.folder, summary, rows)


def _leaderboard(plan: SearchPlan) -> list[dict[str, Any]]:
    from cluster.trials import read_trials

    return [trial.row(plan.recipe) for trial in read_trials(plan.folder / "trials")]


def _evaluate_winner(plan: SearchPlan, trial_model: Path, winner: Path) -> dict[str, Any]:
    """Count the best trial's model on all of validation, here, and write it as the search's model file."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, card = load_model(trial_model, device)
    validation = open_packs(plan.data, plan.recipe)[1]
    predictor = Predictor(model, card.tiling, batch=1, device=device, precision=plan.recipe.precision)
    windows = validation.windows(card.frames)
    confusion = count_confusion(predictor, windows, card.statistics, len(card.classes))
    figures = score_figures(confusion.cpu().numpy(), card.classes)
    save_model(winner, model, replace(card, validation=figures))
    return figures
