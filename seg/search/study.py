"""A search's trials as an Optuna study: what to try next, and which parameter mattered."""

from collections.abc import Iterable
from dataclasses import replace
from math import isnan

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from seg.recipe import Params
from seg.search.space import Space, is_inside
from seg.search.trials import ERRORED, FINISHED, PRUNED, RUNNING, TrialRecord

REDRAWS, RANDOM_REDRAWS = 20, 1000
"""Times a point that was tried already is drawn again, with and then without what is known."""
TARGET_SHARE = 1 / 3
"""Importance is for being among the best third of the trials."""
FEWEST_JUDGED = 6
"""Trials with an mIoU below which importance says nothing."""


def propose(space: Space, trials: Iterable[TrialRecord], number: int, seed: int) -> Params:
    """What trial `number` is to try, by the multivariate TPE (Falkner et al. 2018, arXiv:1807.01774).

    It depends on the other trials' folders, the seed and the number alone: a search that was killed, or is
    given more trials later, goes on as if it had not been. Trials that run count as bad ones, so that those
    at the same time differ. A point that another trial has is drawn again, as its mIoU is known.
    """
    trials = [trial for trial in trials if trial.number != number]
    tried = [trial.params for trial in trials]
    params: Params = {}
    for draw in range(REDRAWS + RANDOM_REDRAWS):
        drawn = int(np.random.SeedSequence([seed, number, draw]).generate_state(1)[0])
        knowing = draw < REDRAWS
        sampler = TPESampler(seed=drawn, constant_liar=True) if knowing else RandomSampler(seed=drawn)
        study = build_study(space, trials if knowing else [], sampler)
        params = study.ask({**space}).params
        if params not in tried:
            break
    return params


def importance(space: Space, trials: Iterable[TrialRecord]) -> dict[str, float]:
    """Share of each parameter in being among the best third, in [0, 1], adding up to 1, the largest first.

    By PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) over every trial that has an mIoU, its best epoch's.
    Empty where there are too few of them, or none differ.
    """
    judged = [trial for trial in trials if trial.miou is not None and _is_counted(space, trial)]
    if len(judged) < FEWEST_JUDGED or len({trial.miou for trial in judged}) == 1:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TARGET_SHARE)
    complete = [replace(trial, status=FINISHED) for trial in judged]
    found = get_param_importances(build_study(space, complete, None), evaluator=evaluator)
    return found if sum(found.values()) > 0 else {}


def build_study(space: Space, trials: Iterable[TrialRecord], sampler: BaseSampler | None) -> optuna.Study:
    """The trials as a study that maximises mIoU, without those that failed or lie outside the space.

    A trial's value is its best epoch's mIoU; of a pruned one Optuna sees the epochs it had.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if _is_counted(space, trial):
            study.add_trial(_freeze(space, trial))
    return study


def _is_counted(space: Space, trial: TrialRecord) -> bool:
    return trial.status != ERRORED and is_inside(space, trial.params)


def _freeze(space: Space, trial: TrialRecord) -> FrozenTrial:
    states = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, RUNNING: TrialState.RUNNING}
    return create_trial(
        state=states[trial.status],
        value=trial.miou if trial.status == FINISHED else None,
        params={name: trial.params[name] for name in space},
        distributions={**space},
        intermediate_values={
            result.epoch: 0.0 if isnan(result.miou) else result.miou for result in trial.journal.history
        },
    )
