"""One trial of a search in a Ray worker: the training loop, alone or on workers of its own."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.placement import Placement
from cluster.train_workers import fit_workers, worker_failure
from seg.errors import RequestError, TrainingDiverged
from seg.locks.folder_lock import check_owner
from seg.pack.training_data import TrainingData
from seg.recipe import Recipe, apply_params
from seg.search.trials import TrialFolder, describe_cause, report_of, trial_folder
from seg.train.state import EpochResult, Journal, read_run
from seg.train.training import Training, TrainingPlan

POLL_S = 0.5
"""Between two looks at what a trial's workers have finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialJob:
    """What all trials of a search share; plain, so that it travels to them."""

    recipe: Recipe
    data: TrainingData
    seed: int
    folder: Path
    """The search's."""
    placement: Placement
    """What each trial computes on."""
    lock: str = ""
    """Token of the folder's lock, while a job holds it."""
    fused: bool = True
    """Whether trials that are yet to begin have fused kernels, as those before them."""

    @property
    def trials(self) -> Path:
        """Folder of the trials' folders."""
        return self.folder / "trials"

    def trial(self, number: int) -> TrialFolder:
        """The folder of one of them."""
        return trial_folder(self.trials, number)

    def set_aside(self) -> dict[str, float]:
        """What Ray sets aside for a trial's own process.

        Beside workers, which ask for themselves, it only waits. Tune starts nothing that asks for nothing,
        and what it took of the CPUs its workers might lack: so it asks for a byte of memory.
        """
        if self.placement.most > 1:
            return {"cpu": 0, "memory": 1}
        return {"cpu": self.placement.threads, "gpu": self.placement.gpus}

    def check_owner(self) -> None:
        """LostLock: another job has taken the search over. FileNotFoundError: none has it, it has ended."""
        check_owner(self.folder, self.lock)


def run_trial(config: dict[str, int], job: TrialJob) -> None:
    """Train trial `config["number"]` to its end, an epoch's mIoU to Tune; a failure is noted in its folder.

    What would fail again, such as a loss that is not finite, fails the trial at once.
    """
    from ray import tune

    trial = job.trial(config["number"])
    try:
        plan = TrainingPlan(
            recipe=apply_params(job.recipe, trial.params()),
            data=job.data,
            seed=job.seed,
            folder=trial.path,
            parent=f"{job.folder.name}/{trial.path.name}",
            lock=(job.folder, job.lock),
            fused=job.fused,
        )
        for result in _train(plan, job):
            tune.report(report_of(result))
    except (RequestError, TrainingDiverged) as error:
        job.check_owner()
        trial.fail(describe_cause(worker_failure(error)))
    except Exception as error:
        job.check_owner()  # a search that ended, or is another job's now, is no failure of the trial
        trial.note_failure(describe_cause(worker_failure(error)))
        raise


def _train(plan: TrainingPlan, job: TrialJob) -> Iterator[EpochResult]:
    """The epochs as they end; first the last one of an earlier attempt, which Tune may not know."""
    journal = read_run(plan.folder) or Journal()
    yield from journal.history[-1:]
    if journal.is_finished(plan.recipe):
        return
    if job.placement.most == 1:
        yield from _train_alone(plan, job)
    else:
        yield from _train_together(plan, job.placement, len(journal.history))


def _train_alone(plan: TrainingPlan, job: TrialJob) -> Iterator[EpochResult]:
    torch.set_num_threads(job.placement.threads)
    device = torch.device("cuda" if job.placement.gpus else "cpu")
    yield from Training(plan, device).epochs()


def _train_together(plan: TrainingPlan, placement: Placement, known: int) -> Iterator[EpochResult]:
    """Train on workers of Ray's, from `known` epochs on; they end with this process, so when Tune prunes.

    They do not wait for Tune's answer: epochs of less than a second or two outrun it.
    """
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            fit_workers(plan, placement)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    alive = True
    while alive:
        thread.join(POLL_S)
        alive = thread.is_alive()
        results = (read_run(plan.folder) or Journal()).history[known:]
        known += len(results)
        yield from results
    if failures:
        raise failures[0]
