"""Scoring an archive: plan, lock the folder, leave out what is done, have the rest scored, commit here.

What loads torch is imported where this process predicts: beside workers it needs none.
"""

import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from seg.data.listing import sequence_of
from seg.data.preprocess import count_outside
from seg.errors import DamagedFile, DataWarning, StoppedBy
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Outcome
from seg.locks.claim import check_folder, holding
from seg.locks.folder_lock import LostLock
from seg.progress import Wait
from seg.requests import ScoreRequest
from seg.score.deadline import Stopping, heeding_ctrl_c
from seg.score.dry_run import DryRun, Findings, Truth, dry_run
from seg.score.folder import (
    ScoreFolder,
    look_into,
    open_folder,
    refuse_changed,
    settle_folder,
    survey_images,
)
from seg.score.limits import Limits
from seg.score.plan import ScorePlan
from seg.score.queue import ScoreQueue, Task, find_groups
from seg.score.rehearsal import Power, intensity_warning
from seg.score.screen import Rehearsal, Screen, Tell
from seg.score.status import Held
from seg.score.summary import Command, ScoreSummary, is_read_only, look_back, summarise
from seg.storage import Place


class Source(Protocol):
    """Who scores a queue's images: this process, or a cluster."""

    def outcomes(self) -> Generator[list[Outcome], None, None]:
        """Outcomes as they come, also none, at least once a second; each image's once."""
        ...

    def held(self) -> list[Held]:
        """What is in work; the longest first."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether a model is loaded."""
        ...


OpenSource = Callable[[ScorePlan, ScoreQueue, Stopping], Source]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What a scoring runs on."""

    workers: int
    """0: this process."""
    device: str
    """What is predicted on: cpu or cuda."""
    limits: Limits
    """When processes are ended; of this one, which cannot be, when an image is named."""
    power: Power
    """What an estimate goes by."""
    open_source: OpenSource | None = None
    """A cluster's; None: this process."""
    open_metrics: Callable[[str], Tell] | None = None

    def open(self, plan: ScorePlan, queue: ScoreQueue, stopping: Stopping) -> Source:
        """Who scores."""
        if self.open_source is not None:
            return self.open_source(plan, queue, stopping)
        from seg.score.local import LocalSource
        from seg.score.pipeline import ImageScorer

        return LocalSource(
            queue,
            plan.order,
            open_scorer=partial(ImageScorer, plan.settings, self.device),
            inflight=plan.out.below("inflight"),
            stopping=stopping,
            limits=self.limits,
        )


def score(plan: ScorePlan, request: ScoreRequest, workplace: Workplace) -> ScoreSummary:
    """Score what is left of an archive, commit as it comes, write summary.json.

    plan: of the request. RequestError: models or folder do not fit it; nothing is written then.
    """
    _check_networks(plan, workplace)
    if is_read_only(plan.out):
        return look_back(plan, request)
    check_folder(plan.out, plan.identity, older_reader=True)
    again = refuse_changed(plan, request, Ledger(plan.out, leave_out_damaged=True))
    with holding(plan.out, plan.identity, what="scoring", older_reader=True) as lock:
        plan = settle_folder(plan, exports=request.export is not None)
        folder = open_folder(plan, lock.check, again=again, retry_quarantined=request.retry_quarantined)
        screen = Screen(folder, workplace.power, workplace.limits.image_s, workplace.open_metrics)
        command = Command(folder.skipped, screen, changed=len(again))
        with _summarised(folder, command):
            if folder.num_left:
                command.stopped_by = _score_left(folder, workplace, command)
    return ScoreSummary(place=plan.out, values=command.values, survey=folder.survey)


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
    for text in (command.outside and intensity_warning(command.outside), command.turned.warning):
        if text:
            warnings.warn(DataWarning(text), stacklevel=2)


def _write_summary(folder: ScoreFolder, command: Command, cause: str = "") -> None:
    folder.check_owner()
    folder.ledger.commit()
    folder.survey.update()
    command.screen.end(command.stopped_by, cause)
    command.outside = count_outside(folder.survey.brightness(), folder.plan.card.intensities)
    command.values = summarise(folder.plan, folder.survey, command)
    folder.plan.out.write_json("summary.json", command.values, may_write=folder.check_owner)


def _score_left(folder: ScoreFolder, workplace: Workplace, command: Command) -> StoppedBy:
    """Score what is left; why that ended."""
    plan = folder.plan
    plan.write_sequences([*folder.pending, *folder.suspects])
    rehearsal = Rehearsal(folder, workplace.power)
    stopping = Stopping(plan.deadline)
    progress, began = command.screen.progress, time.monotonic()
    wait = Wait(workplace.workers, "loads the model") if workplace.workers else None
    with heeding_ctrl_c(stopping), command.screen.shown():
        queue = _open_queue(folder, workplace, rehearsal.images)
        source = workplace.open(plan, queue, stopping)
        with closing(source.outcomes()) as arrivals:
            for arrived in arrivals:
                if source.is_up and not command.seconds_starting:
                    command.seconds_starting = time.monotonic() - began
                    command.screen.begin()
                if wait and not source.is_up:
                    wait.look()
                outcomes = [folder.complete(outcome) for outcome in arrived]
                folder.ledger.add(outcomes)
                progress.suspects = len(queue.suspects)
                if queue.stopped:
                    progress.finish()
                    folder.ledger.commit()  # at once: who stopped us may lose patience
                rehearsal.look(outcomes)
                command.look(outcomes)
                command.screen.look(outcomes, source.held())
    return StoppedBy.FINISHED if queue.is_complete else stopping.asked or StoppedBy.FINISHED


def _open_queue(folder: ScoreFolder, workplace: Workplace, rehearsal: list[str]) -> ScoreQueue:
    first = frozenset(rehearsal)
    return ScoreQueue(
        find_groups((image for image in folder.pending if image not in first), folder.plan.belong),
        rehearsal=rehearsal,
        suspects=folder.suspects,
        workers=max(1, workplace.workers),
    )


def _check_networks(plan: ScorePlan, workplace: Workplace) -> None:
    """RequestError: a model's tensors are of no network of ours; where there are workers, the first says so.

    This process then needs no network.
    """
    if not workplace.workers:
        from seg.model_file import load_model

        for model in plan.settings.models:
            load_model(model)


def look_only(plan: ScorePlan, request: ScoreRequest, workplace: Workplace) -> Findings:
    """Print what a scoring would meet and cost, and return it. RequestError: as of `score`."""
    import torch

    from seg.score.pipeline import ImageScorer

    _check_networks(plan, workplace)
    check_folder(plan.out, plan.identity, older_reader=True)
    ledger = Ledger(plan.out, leave_out_damaged=True)
    ledger.check()
    again = refuse_changed(plan, request, ledger)
    folder = look_into(
        plan, survey_images(plan, ledger), {}, again=again, retry_quarantined=request.retry_quarantined
    )
    pattern = plan.card.sequence if plan.sequences else ""

    device = workplace.device if torch.cuda.is_available() else "cpu"  # of this machine, which looks

    def score_sample(images: list[str], scratch: Place) -> Iterator[Outcome]:
        there = replace(plan, settings=replace(plan.settings, out=scratch))
        there.write_sequences(images)
        with closing(ImageScorer(there.settings, device)) as scorer:
            yield from scorer.score(there.order(Task(image)) for image in images)

    looked = DryRun(
        archive=plan.settings.archive,
        listing=plan.listing.first(request.limit),
        labels=plan.labels.names if plan.settings.labels else None,
        sequences=len({sequence_of(image, pattern) for image in plan.listing.images}),
        finished=plan.asked - folder.num_left - folder.quarantined,
        quarantined=folder.quarantined,
        pending=folder.pending,
        truth=find_truth(plan),
        out=plan.out,
        power=replace(workplace.power, on_gpu=device == "cuda"),
    )
    return dry_run(looked, score_sample)


def find_truth(plan: ScorePlan) -> Truth | None:
    """Where a plan's labels are; None: it has none."""
    if plan.settings.labels is None:
        return None
    return Truth(
        place=plan.settings.labels,
        names=plan.labels.names,
        classes=plan.card.classes,
        label_map=plan.card.label_map,
        decoder=plan.settings.colours,
        trained=plan.card.class_shares,
    )
