from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from cluster.tune_hooks import NUMBER, Pruning, describe_death
from seg.search.trials import OWN, TrialRecord
from seg.train.state import Journal
from tests.cluster.journals import epoch_result


class Reports:
    """Trials that report given mIoUs to ASHA, one trial after another, until it stops them."""

    def __init__(self, mious: NDArray[np.float64]) -> None:
        self.mious = mious

    def run(self, pruning: Pruning, number: int, first: int = 0) -> tuple[list[float], str]:
        """What trial `number` has reported from its epoch `first` on, and how it ended."""
        trial, epoch = SimpleNamespace(config={NUMBER: number}), first
        pruning.on_trial_add(None, trial)
        for epoch, miou in enumerate(self.mious[number][first:].tolist(), start=first + 1):
            if pruning.on_trial_result(None, trial, {"epoch": epoch, "miou": miou}) == "STOP":
                break
        return self.mious[number][first:epoch].tolist(), "finished" if epoch == len(
            self.mious[0]
        ) else "pruned"

    def record(self, number: int, epochs: int, status: str) -> TrialRecord:
        mious = self.mious[number][:epochs].tolist()
        journal = Journal([epoch_result(epoch, miou) for epoch, miou in enumerate(mious, 1)])
        return TrialRecord(number, Path(f"{number:03}"), {}, journal, [], status, None)


def test_pruning_goes_on_in_a_later_command_as_if_there_had_been_one() -> None:
    reports = Reports(np.random.default_rng(3).uniform(size=(12, 9)))
    reports.mious[OWN] = 0.0  # the recipe is the worst of all
    whole = Pruning([], epochs=9)
    ends = [reports.run(whole, number) for number in range(12)]
    assert len({len(seen) for seen, _ in ends}) > 2  # some stop early, some late
    assert ends[OWN] == ([0.0] * 9, "finished")
    for cut in range(1, 12):
        records = [reports.record(n, len(seen), end) for n, (seen, end) in enumerate(ends[:cut])]
        seen, end = ends[cut]
        for epochs in range(len(seen) + 1):  # killed after so many epochs, the last of them not yet judged
            again = Pruning([*records, reports.record(cut, epochs, "running")], epochs=9)
            assert reports.run(again, cut, max(0, epochs - 1)) == (seen[max(0, epochs - 1) :], end)


def test_a_process_that_ends_without_a_word_is_described_in_one_line() -> None:
    heading = "Failure # 1 (occurred at 2026-01-01_00-00-00)\n"
    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n\tpid: 7"
    assert describe_death(heading + died) == "The actor died unexpectedly before finishing this task."
    trace = "ray::ImplicitFunc.__init__() (pid=7)\n  File x\nModuleNotFoundError: No module named 'seg'"
    assert describe_death(heading + trace) == "ModuleNotFoundError: No module named 'seg'"
    assert describe_death("") == "its process ended"
