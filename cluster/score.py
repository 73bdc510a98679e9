"""Scoring an archive: plan, lock the folder, leave out what is done, let workers score, commit here."""

import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch

from cluster.placement import place_scoring
from cluster.scorer_pool import Limits, ScorerPool
from cluster.scorer_workers import Crew, LocalCrew, RayCrew
from cluster.session import Session
from seg.data.listing import sequence_of
from seg.data.preprocess import count_outside
from seg.errors import DamagedFile, DataWarning, StoppedBy
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Outcome
from seg.locks.folder_lock import LostLock
from seg.requests import ScoreRequest
from seg.score.deadline import Pace, Stopping, heeding_ctrl_c
from seg.score.dry_run import DryRun, Findings, Truth, dry_run
from seg.score.folder import (
    ScoreFolder,
    look_into,
    open_folder,
    refuse_changed,
    settle_folder,
    survey_images,
)
from seg.score.plan import ScorePlan, plan_scoring
from seg.score.predict import ImageScorer
from seg.score.queue import ScoreQueue, Task, find_groups
from seg.score.read import ScorerSettings
from seg.score.rehearsal import Power, intensity_warning
from seg.score.screen import Rehearsal, Screen, Tell
from seg.score.status import Held
from seg.score.summary import Command, ScoreSummary, is_read_only, look_back, summarise
from seg.storage import Place
from seg.train.run_folder import check_folder, holding


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What a scoring runs on."""

    workers: int
    """0: this process."""
    gpus: float
    """Of each worker; of this process, 1 where it has any."""
    limits: Limits
    """When workers are ended; of this process, which cannot be, when an image is named."""
    session: Session
    power: Power
    """What an estimate goes by."""

    def open_crew(self, settings: ScorerSettings) -> Crew:
        """Its workers, none of which is started. Starts Ray where it is needed and does not run."""
        if not self.workers:
            return LocalCrew(settings)
        self.session.start()
        return RayCrew(settings, self.gpus)


def choose_workplace(request: ScoreRequest, session: Session) -> Workplace:
    """What a request asks for, or what there is. RequestError: there is no such room."""
    placed = place_scoring(request, session)
    stall_s = 60 * request.stall_minutes if placed.workers else None
    limits = Limits(image_limit_s(request), stall_s)
    workers, threads = max(1, placed.most), request.threads
    power = Power(workers=workers, threads=threads, cpus=session.cpus, on_gpu=placed.gpus > 0)
    return Workplace(workers=placed.most, gpus=placed.gpus, limits=limits, session=session, power=power)


def image_limit_s(request: ScoreRequest) -> float | None:
    """How long an image may be worked at; None: for ever.

    By default as long as nothing may move: were it longer, one image that hangs, alone at last, would end the
    job as stalled where it is to be set aside.
    """
    if request.image_timeout_s is None:
        return 60 * request.stall_minutes
    return request.image_timeout_s or None


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
        open_metrics = _open_metrics if workplace.workers else None
        screen = Screen(folder, workplace.workers, workplace.limits.image_s, open_metrics)
        command = Command(folder.skipped, screen, changed=len(again))
        with _summarised(folder, command):
            if folder.num_left:
                command.stopped_by = _score_left(folder, request, workplace, command)
    return ScoreSummary(place=plan.out, values=command.values, survey=folder.survey)


def _open_metrics(title: str) -> Tell:
    from cluster.prometheus import ScoreMetrics  # here: it loads ray, which a scoring in this process lacks

    return ScoreMetrics(title).update


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
    folder.plan.out.write_json("summary.json", command.values)


def _score_left(
    folder: ScoreFolder, request: ScoreRequest, workplace: Workplace, command: Command
) -> StoppedBy:
    """Score what is left; why that ended."""
    folder.plan.write_sequences([*folder.pending, *folder.suspects])
    rehearsal = Rehearsal(folder, workplace.power)
    stopping = Stopping(folder.plan.deadline)
    progress, began = command.screen.progress, time.monotonic()
    with heeding_ctrl_c(stopping), command.screen.shown():
        source = _open_source(folder, request, workplace, rehearsal.images, stopping)
        with closing(source.outcomes()) as arrivals:
            for arrived in arrivals:
                if source.is_up and not command.seconds_starting:
                    command.seconds_starting = time.monotonic() - began
                    command.screen.begin()
                outcomes = [folder.complete(outcome) for outcome in arrived]
                folder.ledger.add(outcomes)
                progress.suspects = source.num_suspects
                if source.is_stopped:
                    progress.finish()
                    folder.ledger.commit()  # at once: who stopped us may lose patience
                rehearsal.look(outcomes)
                command.look(outcomes)
                command.screen.look(outcomes, source.held())
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
        find_groups((image for image in folder.pending if image not in first), plan.belong),
        rehearsal=rehearsal,
        suspects=folder.suspects,
        workers=workers,
    )
    return ScorerPool(
        workplace.open_crew(plan.settings),
        queue,
        plan.order,
        workers=workers,
        inflight=folder.inflight,
        stopping=stopping,
        limits=workplace.limits,
    )


@dataclass(slots=True)
class CropSource:
    """Outcomes of `shard=crops`: each image in turn, over all workers; those of the rehearsal first."""

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

    def outcomes(self) -> Generator[list[Outcome], None, None]:
        """As they come, a list with each share of an image."""
        from cluster.crop_sharding import score_crops

        plan, began = self.folder.plan, time.monotonic()
        orders = list(map(plan.order, self._tasks()))
        workers, gpus = self.workplace.workers, self.workplace.gpus
        for arrived in score_crops(plan.settings, plan.card, orders, workers, gpus=gpus):
            self.is_up = True
            yield arrived
            if arrived:
                self.pace.add(time.monotonic() - began)
                began = time.monotonic()
                if self.stopping.check(self.pace) is not None:
                    return
        self.is_complete = True

    def held(self) -> list[Held]:
        """Nobody tells."""
        return []

    def _tasks(self) -> list[Task]:
        first = frozenset(self.rehearsal)
        images = self.rehearsal + [image for image in self.folder.pending if image not in first]
        suspects = self.folder.suspects.items()
        return [Task(image) for image in images] + [Task(image, note.attempt) for image, note in suspects]


def look_only(request: ScoreRequest, session: Session) -> Findings:
    """Print what a scoring would meet and cost, and return it. RequestError: as of `score`."""
    workplace, plan = choose_workplace(request, session), plan_scoring(request)
    check_folder(plan.out, plan.identity, older_reader=True)
    ledger = Ledger(plan.out, leave_out_damaged=True)
    ledger.check()
    again = refuse_changed(plan, request, ledger)
    folder = look_into(
        plan, survey_images(plan, ledger), {}, again=again, retry_quarantined=request.retry_quarantined
    )
    pattern = plan.card.sequence if plan.sequences else ""

    def score_sample(images: list[str], scratch: Place) -> Iterable[Outcome]:
        there = replace(plan, settings=replace(plan.settings, out=scratch))
        there.write_sequences(images)
        return ImageScorer(there.settings).score(there.order(Task(image)) for image in images)

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
        power=replace(workplace.power, on_gpu=torch.cuda.is_available()),
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
        trained=plan.card.class_shares,
    )
