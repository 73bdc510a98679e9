"""What Ray Tune asks us while a search runs: what to try next, whether to prune, what to note of an end.

Nothing is read back from Tune's own state: all three know what came before from the trials' folders.
"""

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.trials import TrialJob
from seg.recipe import Params, apply_params
from seg.search.space import Space
from seg.search.study import propose
from seg.search.trials import CAUSE_LETTERS, OWN, TrialRecord, read_trials, report_of

NUMBER = "number"
"""The one key of a trial's Tune config; the rest is in its folder."""
REDUCTION = 3
"""Of the trials that reach a rung, the best third goes on (Li et al. 2020, arXiv:1810.05934)."""


class Proposals(Searcher):
    """Gives Tune the trials to run: those begun and not ended, then new ones; a failed one once more.

    At most `slots` at a time, so that each is proposed knowing all that ended before it could start.
    """

    def __init__(self, job: TrialJob, space: Space, own: Params, *, trials: int, slots: int) -> None:
        super().__init__()
        self.job, self.space, self.own, self.slots = job, space, own, slots
        begun = read_trials(job.trials)
        self.waiting = deque(sorted(trial.number for trial in begun if not trial.ended))
        self.new = deque(range(len(begun), trials))
        self.failed: list[int] = []
        self.running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, int] | Any:
        """The next trial's number; None: not now; FINISHED: none is left."""
        if len(self.running) >= self.slots:
            return None
        number = self._next_number()
        if number is None:
            return None if self.running else self.FINISHED
        self.running[trial_id] = number
        return {NUMBER: number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, float] | None = None, error: bool = False
    ) -> None:
        """A trial left its slot; whether a failed one runs again shows when its failure is noted."""
        number = self.running.pop(trial_id)
        if error:
            self.failed.append(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the folders hold it all."""

    def _next_number(self) -> int | None:
        self.waiting.extend(number for number in self.failed if not self.job.trial(number).has_ended)
        self.failed.clear()
        if self.waiting:
            return self.waiting.popleft()
        if not self.new:
            return None
        number = self.new.popleft()
        params = self.own
        if number != OWN:
            params = propose(self.space, read_trials(self.job.trials), number, self.job.seed)
        self.job.check_owner()
        self.job.trial(number).begin(params)
        return number


class Pruning(ASHAScheduler):
    """ASHA over a trial's number, which outlives this command; it begins with what earlier ones reported."""

    def __init__(self, trials: Iterable[TrialRecord], epochs: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric="miou",
            mode="max",
            max_t=epochs,
            grace_period=max(1, epochs // REDUCTION**2),
            reduction_factor=REDUCTION,
        )
        for trial in trials:
            self._replay(trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins or goes on."""
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, float]) -> str:
        """Whether a trial goes on; the recipe's own always does, so that the winner is no worse than it."""
        decision = super().on_trial_result(tune_controller, _numbered(trial), result)
        return TrialScheduler.CONTINUE if trial.config[NUMBER] == OWN else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, float]) -> None:
        """A trial ended."""
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial is taken back."""
        super().on_trial_remove(tune_controller, _numbered(trial))

    def _replay(self, trial: TrialRecord) -> None:
        """Fill the rungs; the last epoch of a trial that goes on is not yet judged: it is reported again."""
        known: Any = SimpleNamespace(trial_id=str(trial.number))
        history = trial.journal.history
        super().on_trial_add(None, known)  # type: ignore[arg-type]
        for result in history if trial.ended else history[:-1]:
            super().on_trial_result(None, known, report_of(result))  # type: ignore[arg-type]


def _numbered(trial: Any) -> Any:
    return SimpleNamespace(trial_id=str(trial.config[NUMBER]))


class Endings(Callback):
    """Notes in each trial's folder how an attempt ended; Tune calls it in the job's process."""

    def __init__(self, job: TrialJob) -> None:
        self.job = job
        self.known: dict[int, int] = {}
        """Failures of each trial before this attempt."""
        self.closed = False
        """True when the job is being stopped: what fails from then on, fails of that."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An attempt begins."""
        number = trial.config[NUMBER]
        self.known[number] = len(self.job.trial(number).failures())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished or was pruned."""
        if self.closed:
            return
        self.job.check_owner()
        ended = self.job.trial(trial.config[NUMBER])
        ended.end(apply_params(self.job.recipe, ended.params()))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An attempt failed; where its process could not say of what, Ray does."""
        if self.closed:
            return
        self.job.check_owner()
        number = trial.config[NUMBER]
        failed = self.job.trial(number)
        failures = len(failed.failures())
        if failures == self.known.get(number, failures):
            failed.note_failure(describe_death(Path(trial.error_file).read_text(encoding="utf-8")))
        self.known[number] = len(failed.failures())


def describe_death(text: str) -> str:
    """One line of what Ray says of an attempt, below its heading; of a traceback the last."""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()] or ["its process ended"]
    return lines[-1 if lines[0].startswith("ray::") else 0][:CAUSE_LETTERS]
