"""What workers tell of a training while it runs, and the picture that is drawn of it."""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from platform import node
from statistics import fmean

from rich.console import Group, RenderableType

from seg.errors import RequestError
from seg.files import read_json, show_text
from seg.plain_data import require, to_plain
from seg.progress import Line, Wait, heading, sparkline
from seg.train.state import EpochResult, Journal, read_run
from seg.train.training import Position, StepReport, Training, TrainingPlan, peak_memory_bytes
from seg.words import ratio, time_left

log = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
CURVE_WIDTH = 28
"""Epochs of a curve on the screen."""
RECENT_EPOCHS = 3
"""Epochs whose duration foretells that of the others."""

OnEpochs = Callable[[list[EpochResult]], None]
"""Called with all finished epochs."""
SILENT_S = 10.0
"""A process that has not written for so long, while another has, is frozen, dead or cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(StepReport):
    """Where rank 0 is, as last/progress.json holds it: a step's report and what the board adds."""

    batch: int
    memory_bytes: int
    epochs_done: int
    validation_work: float = 0.0
    """As of `Training`."""


def progress_file(folder: Path) -> Path:
    """Where a run keeps its progress."""
    return folder / "last" / "progress.json"


def failures_file(folder: Path) -> Path:
    """Where a run keeps a line for each worker that died."""
    return folder / "failures.log"


class Board:
    """Leaves in the run's folder, about once a second, how far rank 0 is; other ranks' boards stay blank."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.file = progress_file(training.plan.folder)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.written, self.work = -WRITE_EVERY_S, training.validation_work
        self.report: StepReport | None = None

    def on_step(self, report: StepReport) -> None:
        """Publish, unless it was done a moment ago; the last step of an epoch always: validation follows."""
        self.report = report
        is_last = report.step == report.steps and not report.validated
        if is_last or time.monotonic() - self.written >= WRITE_EVERY_S:
            self.publish(report)

    def on_epoch(self, result: EpochResult) -> None:
        """Publish that an epoch is saved, with its mean loss."""
        assert self.report is not None, "an epoch has steps"
        self.publish(replace(self.report, loss=result.loss))

    def publish(self, report: StepReport) -> None:
        """Write the report and how many epochs are saved; readers find the old file or the new one."""
        if self.training.ranks.rank:
            return
        self.written = time.monotonic()
        progress = Progress(
            **asdict(report),
            batch=self.training.sampler.batch,
            memory_bytes=peak_memory_bytes(self.training.device),
            epochs_done=self.training.journal.epochs_done,
            validation_work=self.work,
        )
        with suppress(OSError):  # storage that refuses: the display waits, the training does not
            show_text(self.file, json.dumps(to_plain(progress)))


class BoardReader:
    """A training as its folder tells it: the journal for finished epochs, the board for the one in hand."""

    def __init__(
        self, plan: TrainingPlan, on_epochs: OnEpochs = lambda history: None, *, workers: int = 0
    ) -> None:
        """Forget what an earlier job left on the board. on_epochs: called whenever more are finished.

        workers: those that are waited for at first; 0: this process.
        """
        self.wait = Wait(workers, "imports torch") if workers else None
        self.plan, self.on_epochs = plan, on_epochs
        self.title, self.total = f"training {plan.recipe.name}", plan.recipe.epochs
        self.file = progress_file(plan.folder)
        self.file.unlink(missing_ok=True)
        self.progress: Progress | None = None
        self.failures_told = 0
        with suppress(OSError):  # those of an earlier job were told then
            self.failures_told = len(failures_file(plan.folder).read_text(encoding="utf-8").splitlines())
        self.journal = read_run(plan.folder) or Journal()

    @property
    def done(self) -> int:
        """Epochs that are saved."""
        return self.journal.epochs_done

    @property
    def note(self) -> str:
        """Epoch, step and loss in hand, and the last mIoU."""
        if self.progress is None:
            return str(self.wait or "")
        now = self.progress
        last = f"  mIoU {ratio(self.journal.history[-1].miou, 3)}" if self.done else ""
        return f"epoch {now.epoch} {self._step_in_hand}  loss {now.loss:.4f}{last}"

    def look(self) -> None:
        """Read the board, and the journal where epochs were finished."""
        self._tell_failures()
        done = self.done
        try:
            self.progress = now = require(Progress, read_json(self.file), str(self.file))
            if now.epochs_done > done:
                self.journal = read_run(self.plan.folder) or self.journal
        except OSError:  # not there yet, or storage that is away: what was seen last stands
            if self.wait and self.progress is None:
                self.wait.look()
            return
        if self.done > done:
            self.on_epochs(self.journal.history)

    def _tell_failures(self) -> None:
        """Say on the screen what workers died of since the last look."""
        with suppress(OSError):  # no worker died, or storage is away
            lines = failures_file(self.plan.folder).read_text(encoding="utf-8").splitlines()
            for line in lines[self.failures_told :]:
                log.info(f"train: {line}; going on from the last finished epoch")
            self.failures_told = len(lines)

    @property
    def seconds_left(self) -> float | None:
        """Time until the last epoch is saved, at the pace of the recent ones; None: nothing is known yet."""
        return None if self.progress is None else max(0.0, self.total - self._epochs) * sum(self._pace)

    def picture(self, height: int) -> RenderableType:
        """Four lines: the run, its quality, the step in hand, the machine."""
        over = self.journal.is_finished(self.plan.recipe)
        share = 1.0 if over else self._epochs / self.total
        left = "" if over else time_left(self.seconds_left)
        if left and self.plan.recipe.patience:
            left = f"at most {left}"
        count = f"epoch {max(self.done, self.progress.epoch if self.progress else 0)}/{self.total}"
        lines = (self._quality(), *self._step()) if self.progress else (Line(f"  {self.wait or 'starting'}"),)
        return Group(heading(self.title, share, count, left), *lines)

    @property
    def _pace(self) -> tuple[float, float]:
        """Seconds that an epoch's training and its validation take: of the recent ones, else by its steps."""
        if recent := self.journal.history[-RECENT_EPOCHS:]:
            validation = fmean(result.validation_seconds for result in recent)
            return fmean(result.seconds for result in recent) - validation, validation
        now = self.progress
        assert now is not None, "whoever asks has looked"
        training = now.steps * now.batch / now.crops_per_second
        return training, training * now.validation_work

    @property
    def _epochs(self) -> float:
        """Epochs that are over, with the share of the one in hand, its validation counted by time as well."""
        now = self.progress
        if now is None or now.epoch <= self.done:
            return float(self.done)
        training, validation = self._pace
        over = training * now.step / now.steps + validation * now.validated / (now.to_validate or 1)
        return self.done + over / ((training + validation) or 1)

    @property
    def _step_in_hand(self) -> str:
        now = self.progress
        assert now is not None, "whoever asks has looked"
        if now.step < now.steps or now.epoch <= self.done:
            return f"step {now.step}/{now.steps}"
        return f"validating {now.validated / (now.to_validate or 1):.0%}"

    def _quality(self) -> Line:
        mious = [result.miou for result in self.journal.history]
        if not mious:
            return Line("  mIoU  -")
        best = f"best {ratio(self.journal.best_miou)} in epoch {self.journal.best_epoch}"
        return Line(f"  mIoU  {ratio(mious[-1]):<10}{best:<31}{sparkline(mious, CURVE_WIDTH)}", "bold")

    def _step(self) -> tuple[Line, Line]:
        now = self.progress
        assert now is not None
        history = self.journal.history
        skipped = now.skipped + sum(one.skipped_steps for one in history if one.epoch != now.epoch)
        speed = f"{now.crops_per_second:.1f} crops/s"
        curve = sparkline([result.loss for result in history], CURVE_WIDTH)
        return (
            Line(
                f"  loss  {f'{now.loss:.4f}':<10}{f'rate {now.rate:.2e}':<16}{self._step_in_hand:<15}{curve}"
            ),
            Line(
                f"  {speed:<16}{f'{now.wait_share:.0%} waiting':<16}"
                f"{f'{now.memory_bytes / 1e9:.2f} GB a worker':<20}{skipped} steps skipped"
            ),
        )


@dataclass(frozen=True, slots=True)
class Beat:
    """Where a worker was when it last wrote."""

    rank: int
    world_size: int
    """Workers of its group."""
    host: str
    written: float
    """Seconds since 1970 by the worker's clock."""
    position: Position


@contextmanager
def beating(training: Training) -> Iterator[None]:
    """Write this worker's beat once a second while the block runs, in a thread of its own, and at its end."""
    folder, ranks, over = _folder(training.plan.folder), training.ranks, threading.Event()
    folder.mkdir(parents=True, exist_ok=True)

    def beat() -> None:
        now = Beat(ranks.rank, ranks.world_size, node(), time.time(), training.position)
        with suppress(OSError):  # storage that refuses: what must be written waits by itself
            show_text(folder / f"{ranks.rank}.json", json.dumps(asdict(now)))

    def go_on() -> None:
        beat()
        while not over.wait(WRITE_EVERY_S):
            beat()

    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        beat()  # where an error met it: others may be read against that


def read_beats(run: Path) -> list[Beat]:
    """The last beat of each worker; one that a power loss has torn, or older code wrote, is nobody's."""
    beats: list[Beat] = []
    for file in sorted(_folder(run).glob("[!.]*.json")):
        with suppress(RequestError):
            beats.append(require(Beat, read_json(file), str(file)))
    return beats


def describe_late(beats: list[Beat], gone: Collection[int] = ()) -> str:
    """One sentence that names the worker for which the others wait, as far as their beats tell.

    gone: ranks whose process has ended: they are silent for that alone, as one that waited in vain and was
    ended for it.
    """
    if not beats:
        return "no worker has written a beat yet"
    newest = max(beats, key=lambda beat: beat.written)
    beats = [beat for beat in beats if beat.rank < newest.world_size]  # not of a larger group before
    spans = {beat: newest.written - beat.written for beat in beats if beat.rank not in gone}
    if silent := [f"{_name(beat)} for {span:.0f} s" for beat, span in spans.items() if span > SILENT_S]:
        return f"silent, so frozen, killed or cut off: {'; '.join(silent)}"
    first, last = (choose(beat.position.order for beat in beats) for choose in (min, max))
    if first == last:
        return f"all {len(beats)} workers are equally far: {_name(beats[0])}; look at devices and network"
    return f"behind the others: {'; '.join(_name(beat) for beat in beats if beat.position.order == first)}"


def _name(beat: Beat) -> str:
    where = beat.position
    return f"worker {beat.rank} on {beat.host}, {where.stage} in step {where.step} of epoch {where.epoch}"


def _folder(run: Path) -> Path:
    return run / "last" / "workers"
