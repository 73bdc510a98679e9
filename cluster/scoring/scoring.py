"""Scoring an archive: plan, lock the folder, leave out what is done, let workers score, commit here."""

import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from cluster.folder_lock import LostLock, holding
from cluster.ledger.ledger import Ledger
from cluster.outcome import StoppedBy
from cluster.requests import ScoreRequest
from cluster.scoring.finished import is_read_only, look_back
from cluster.scoring.rehearsal import intensity_warning
from cluster.scoring.score_folder import ScoreFolder, open_folder, refuse_changed, settle_folder
from cluster.scoring.score_plan import plan_scoring
from cluster.scoring.score_queue import ScoreQueue, Task, find_runs
from cluster.scoring.score_screen import Rehearsal, Screen
from cluster.scoring.score_summary import Command, ScoreSummary, count_strangers, summarise
from cluster.scoring.scorer_pool import ScorerPool
from cluster.scoring.stopping import Pace, Stopping, heeding_ctrl_c
from cluster.scoring.workplace import Workplace, choose_workplace
from cluster.session import Session
from seg.errors import DamagedFile, DataWarning
from seg.run_folder import check_folder

Rows = list[dict[str, Any]]


def score(request: ScoreRequest, session: Session) -> ScoreSummary:
    """Score what is left of an archive, commit as it comes, write summary.json.

    RequestError: archive, model, labels or folder do not fit each other; nothing is written then.
    """
    workplace = choose_workplace(request, session)
    plan = plan_scoring(request)
    if is_read_only(plan.out):
        return look_back(plan, request)
    check_folder(plan.out, plan.identity, older_reader=True)
    again = refuse_changed(plan, request, Ledger(plan.out, leave_out_damaged=True))
    with holding(plan.out, plan.identity, what="scoring", older_reader=True) as lock:
        plan = settle_folder(plan, exports=request.export is not None)
        folder = open_folder(plan, lock.check, again=again, retry_quarantined=request.retry_quarantined)
        command = Command(folder.skipped, Screen(folder, workplace.workers, workplace.limits.image_s), changed=len(again))
        with _summarised(folder, command):
            if folder.num_left:
                command.stopped_by = _score_left(folder, request, workplace, command)
    return ScoreSummary(plan.out, command.values)


@contextmanager
def _summarised(folder: ScoreFolder, command: Command) -> Iterator[None]:
    """Commit, and write summary.json and status.json, however the block ends."""
    try:
        yield
        _write_summary(folder, command)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        command.stopped_by = StoppedBy.INTERRUPT if interrupted else StoppedBy.ERROR
        with suppress(OSError, LostLock, DamagedFile):  # maybe the error itself, which is what is told
            _write_summary(folder, command, cause=f"{type(error).__name__}: {error}")
        raise
    outside = count_strangers(folder.plan, folder.ledger)
    for text in (outside and intensity_warning(outside), command.turned.warning):
        if text:
            warnings.warn(DataWarning(text), stacklevel=2)


def _write_summary(folder: ScoreFolder, command: Command, cause: str = "") -> None:
    folder.check_owner()
    folder.ledger.commit()
    command.screen.end(command.stopped_by, cause)
    command.values = summarise(folder.plan, folder.ledger, command)
    folder.plan.out.write_json("summary.json", command.values)


def _score_left(
    folder: ScoreFolder, request: ScoreRequest, workplace: Workplace, command: Command
) -> StoppedBy:
    """Score what is left; why that ended."""
    folder.plan.write_sequences([*folder.pending, *folder.suspects])
    rehearsal = Rehearsal(folder, workplace.power)
    stopping = Stopping(folder.plan.deadline)
    began = time.monotonic()
    with heeding_ctrl_c(stopping), command.screen.shown():
        source = _open_source(folder, request, workplace, rehearsal.images, stopping)
        with closing(source.outcomes()) as outcomes:
            for arrived in outcomes:
                if source.is_up and not command.seconds_starting:
                    command.seconds_starting = time.monotonic() - began
                    command.screen.begin()
                rows = [folder.complete(row) for row in arrived]
                folder.ledger.add(rows)
                rehearsal.look(rows)
                command.look(rows)
                command.screen.look(source, rows)
    return StoppedBy.FINISHED if source.is_complete else stopping.asked or StoppedBy.FINISHED


def _open_source(
    folder: ScoreFolder,
    request: ScoreRequest,
    workplace: Workplace,
    rehearsal: list[str],
    stopping: Stopping,
) -> "ScorerPool | CropSource":
    plan = folder.plan
    if request.shard == "crops":
        workplace.session.start()
        return CropSource(folder, workplace, rehearsal, stopping)
    workers = min(max(1, workplace.workers), folder.num_left)
    first = frozenset(rehearsal)
    queue = ScoreQueue(
        find_runs((image for image in folder.pending if image not in first), plan.belong),
        rehearsal=rehearsal,
        suspects=folder.suspects,
        workers=workers,
    )
    return ScorerPool(
        workplace.open_crew(plan.settings),
        queue,
        plan.row,
        workers=workers,
        inflight=folder.inflight,
        stopping=stopping,
        limits=workplace.limits,
    )


@dataclass(slots=True)
class CropSource:
    """Outcome rows of `--shard crops`: each image in turn, over all workers; those of the rehearsal first."""

    folder: ScoreFolder
    workplace: Workplace
    rehearsal: list[str]
    stopping: Stopping
    is_up: bool = False
    """Whether a share of an image has come."""
    is_complete: bool = False
    is_stopped: bool = False
    """Nothing is handed out any more: told of a pool alone."""
    num_suspects: int = 0
    pace: Pace = field(default_factory=Pace)

    def outcomes(self) -> Generator[Rows, None, None]:
        """Rows as they come, a list with each share of an image."""
        from cluster.scoring.crop_sharding import score_crops

        plan, began = self.folder.plan, time.monotonic()
        requests = [plan.row(task) for task in self._tasks()]
        workers, gpus = self.workplace.workers, self.workplace.gpus
        for rows in score_crops(plan.settings, plan.card, requests, workers, gpus=gpus):
            self.is_up = True
            yield rows
            if rows:
                self.pace.add(time.monotonic() - began)
                began = time.monotonic()
                if self.stopping.check(self.pace) is not None:
                    return
        self.is_complete = True

    def held(self) -> list[Any]:
        """Nobody tells."""
        return []

    def _tasks(self) -> list[Task]:
        first = frozenset(self.rehearsal)
        images = self.rehearsal + [image for image in self.folder.pending if image not in first]
        suspects = self.folder.suspects.items()
        return [Task(image) for image in images] + [Task(image, note.attempt) for image, note in suspects]
