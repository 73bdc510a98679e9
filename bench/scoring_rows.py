"""What a row costs the job's process and Ray: stages that do next to nothing, up to the ledger."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from torch.utils.benchmark import timer

from bench.scoring_limits import descendants
from bench.setup import CPU_RECIPE, Bench, count_cores, once_ms
from bench.values import Value
from cluster import score_stages
from cluster.placement import Operator, Stages
from cluster.score import DatasetSource
from cluster.score_stages import answers_table, node_id, read_parcels, read_works, works_table
from cluster.session import compute_session
from seg.data.labels import Label
from seg.data.preprocess import Statistics
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import FoundObject, Outcome, Scored
from seg.predict.counts import PixelCounts
from seg.predict.tiling import CutCrops, FrameCrops
from seg.process import set_up_process
from seg.recipe import Tiling
from seg.recipes import RECIPES
from seg.score.blame import MODEL, READ, WRITE
from seg.score.deadline import Stopping
from seg.score.limits import Limits
from seg.score.parcels import Answered, Round, Stage
from seg.score.queue import Order, ScoreQueue, find_groups
from seg.score.read import ScorerSettings
from seg.score.work import Predicted, Work
from seg.storage import Place, as_place

FRAME, GPU_S = (3072, 3072), 0.025
DOZEN, READERS = 12, 4
"""GPUs that one job's process is to feed, and the readers before them: one keeps three of the twelve busy."""
ROW_MS, DRIVER_MS, LONE_MS = 0.4, 2.0, 30.0
"""What a row may take without pixels, a frame of the job's process, and one alone of all processes."""
TOGETHER = Stages((Operator(name="score", processes=count_cores(), cpus=1, calls=2, ahead=3),))


def apart(gpus: int, readers: int = 1) -> Stages:
    """Three stages, with so many processes that predict, and that read."""
    return Stages(
        (
            Operator(name="read", processes=readers, cpus=1 / readers, calls=2),
            Operator(name="predict", processes=gpus, cpus=0, calls=2, ahead=3),
            Operator(name="finish", processes=1, cpus=0, calls=2),
        )
    )


class OwnTime:
    """What a process of a stage takes of CPUs for itself, in a file of its own."""

    def __init__(self, out: Place) -> None:
        self.seconds, self._lock = 0.0, threading.Lock()
        self._file = os.open(out.local(f"own-{os.getpid()}"), os.O_WRONLY | os.O_CREAT)

    def add(self, seconds: float) -> None:
        """So much more."""
        with self._lock:
            self.seconds += seconds
            os.pwrite(self._file, f"{self.seconds:020.6f}".encode(), 0)


def own_times_s(out: Place) -> float:
    """Of all processes, until now."""
    names = (name for name in out.names() if name.startswith("own-"))
    return sum(float(out.read(name) or b"0") for name in names)


class LightStage:
    """A process that has no model."""

    kind = MODEL

    def __init__(self, round_: Round) -> None:
        self.stage = Stage(round_, self.kind, node_id())
        self.stage.is_ready()
        self.own_time = OwnTime(round_.settings.out)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Blocks, as they are done; what is this stage's own of the CPU's time is told apart from Ray's."""
        blocks, started = self.run(table), time.thread_time()
        for block in blocks:
            self.own_time.add(time.thread_time() - started)
            yield block
            started = time.thread_time()

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """The same, of each kind."""
        raise NotImplementedError


class NoStage(LightStage):
    """Stands in for all stages: answers at once."""

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """Frames with ten objects, scored."""
        for parcel in read_parcels(table):
            with self.stage.notes(parcel.name):
                answers = [Answered(make_outcome(order.image), {}) for order in parcel.orders]
            yield answers_table(answers)


def make_outcome(image: str) -> Outcome:
    """A frame with ten objects, scored."""
    box, middle = (5, 5, 90, 90), (50.0, 50.0)
    found = FoundObject(image, 1, *box, 6000, *middle, confidence=0.9, touches_border=False, iou=0.8)
    return Scored(
        image=image,
        bytes=6_500_000,
        mtime_ns=1,
        sha256="0" * 64,
        label_path=image,
        label_bytes=1,
        label_mtime_ns=1,
        label_sha256="0" * 64,
        height=3072,
        width=3072,
        channels=1,
        bit_depth=8,
        labelled=True,
        confusion=(1, 2, 3, 4),
        ignored=0,
        class_pixels=(1, 2),
        confidence=0.9,
        objects_found=(0, 9),
        objects_missed=(0, 1),
        objects_invented=(0, 1),
        intensity_mean=100.0,
        intensity_std=9.0,
        background_frames=0,
        seconds_read=0.1,
        seconds_decode=0.1,
        seconds_model=0.1,
        seconds_write=0.1,
        attempt=1,
        finished_at=datetime.now(UTC),
        objects=(found,) * 10,
    )


class FrameReader(LightStage):
    """Stands in for reading: a frame's crops and truth, the same for all."""

    kind = READ

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """Parcels of frames."""
        crops, label = self.look()
        for parcel in read_parcels(table):
            with self.stage.notes(parcel.name):
                works = [Work(order, crops=crops, label=label) for order in parcel.orders]
            yield works_table(parcel.name, works)

    def look(self) -> tuple[CutCrops | None, Label | None]:
        """What a frame holds."""
        return make_crops(), Label(np.zeros(FRAME, np.uint8), boxes=None)


class NoFrameReader(FrameReader):
    """The same without pixels: what a driver does for a frame does not hang on them."""

    def look(self) -> tuple[CutCrops | None, Label | None]:
        """Nothing."""
        return None, None


class FramePredictor(LightStage):
    """Stands in for a GPU: 25 ms a frame, one after another, in which no CPU is busy."""

    size = FRAME

    def __init__(self, round_: Round) -> None:
        super().__init__(round_)
        self.gpu = threading.Lock()

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """Parcels of frames, with ids and probabilities."""
        ids = np.zeros(self.size, np.uint8)
        probability = np.zeros([side // 3 for side in self.size], np.float32)
        counts = PixelCounts((ids.size, 0), (ids.size, 0, 0, 0), 0)
        for name, works in read_works(table):
            with self.gpu, self.stage.notes(name):
                time.sleep(GPU_S * len(works))
                for work in works:
                    work.crops, work.predicted = None, Predicted(ids, probability, 0.9, counts)
            yield works_table(name, works)


class NoFramePredictor(FramePredictor):
    """The same with next to no pixels."""

    size = 3, 3


class FrameFinisher(LightStage):
    """Stands in for objects and masks."""

    kind = WRITE

    def run(self, table: pa.Table) -> Iterator[pa.Table]:
        """Answers."""
        for name, works in read_works(table):
            with self.stage.notes(name):
                answers = [Answered(make_outcome(work.order.image), {}) for work in works]
            yield answers_table(answers)


FRAMES = {"score": NoStage, "read": FrameReader, "predict": FramePredictor, "finish": FrameFinisher}
FRAMELESS = FRAMES | {"read": NoFrameReader, "predict": NoFramePredictor}


def make_crops() -> CutCrops:
    """Of a frame at a third of its size, as CPU_RECIPE's."""
    working = np.zeros((1024, 1024), np.uint8)
    statistics = Statistics((0.0,), (1.0,), 8)
    return FrameCrops([(working, statistics)], FRAME, RECIPES[CPU_RECIPE].tiling).gather()


def measure_rows(bench: Bench) -> Iterator[Value]:
    """What an image costs whoever hands it out and commits its row: the ledger alone, then with Ray."""
    count = 1000 if bench.quick else 10_000
    images = [f"s/{number:06}.png" for number in range(count)]
    ledger = Ledger(bench.new_folder())
    took_ms = once_ms(lambda: add_all(ledger, ([make_outcome(image)] for image in images)))
    yield Value("a row: into the ledger", [took_ms / count], "ms")
    if bench.quick:
        return
    set_up_process()  # as jobs do; it also holds for what is measured after
    with compute_session() as session:
        session.start()
        for most in (1, 8, 64):
            what = f"a row: through Ray Data in parcels of {most}, into the ledger"
            found = run_dataset(bench, images[: 300 * most], most, TOGETHER)
            yield Value(what, [found.row_ms], "ms", ROW_MS if most == 64 else None)
            if most == 1:
                yield Value(f"{what}: CPU of all processes", [found.all_ms], "ms", LONE_MS)
        for most, driver_ms, lone_ms in ((10, DRIVER_MS, None), (1, None, LONE_MS)):
            found = run_dataset(bench, images[:1000], most, apart(1))
            what = f"a frame of 3072 px through three stages, parcels of {most}, 25 ms to predict"
            yield Value(what, [found.row_ms], "ms")
            yield Value(f"{what}: CPU of the job's process", [found.driver_ms], "ms", driver_ms)
            yield Value(f"{what}: CPU of all processes", [found.all_ms], "ms")
            beside = [found.all_ms - found.own_ms]
            yield Value(f"{what}: CPU of all processes, beside the stages' own code", beside, "ms", lone_ms)
        found = run_dataset(bench, images, 10, apart(DOZEN, READERS), FRAMELESS)
        what = f"a frame without pixels, parcels of 10, {READERS} that read, {DOZEN} that predict for 25 ms"
        yield Value(what, [found.row_ms], "ms")
        yield Value(f"{what}: CPU of the job's process", [found.driver_ms], "ms", DRIVER_MS)


def add_all(ledger: Ledger, arrivals: Iterator[list[Outcome]]) -> None:
    for outcomes in arrivals:
        ledger.add(outcomes)
    ledger.commit()


@dataclass(frozen=True, slots=True)
class RowCosts:
    """What a row took, without the first tenth, in ms: by the clock, and of CPUs."""

    row_ms: float
    driver_ms: float
    all_ms: float
    """Of this process and its descendants that live to the end, all of Ray's among them."""
    own_ms: float
    """What stages took of that, in their own code."""


def run_dataset(
    bench: Bench, images: list[str], most: int, stages: Stages, stand_ins: Mapping[str, Any] = FRAMES
) -> RowCosts:
    """Rows from a source to a ledger, through stages that do next to nothing."""
    folder = bench.new_folder()
    folder.mkdir(exist_ok=True)
    out = as_place(folder)
    out.make_folders("inflight")
    order = lambda task: Order(task.image, task.attempt)  # noqa: E731
    plan: Any = SimpleNamespace(out=out, settings=make_settings(out), card=None, order=order)
    source = DatasetSource(
        plan,
        ScoreQueue(find_groups(iter(images), lambda *_: False), workers=stages.predictors),
        Stopping(),
        limits=Limits(),
        stages=stages,
        device="cuda",  # which says how much may lie between stages, and no more here
    )
    source.parcel_size = lambda images: most  # type: ignore[method-assign]
    ledger, first = Ledger(out), len(images) // 10
    arrived = counted = 0
    began = ended = None
    with patched_stages(stand_ins):
        for outcomes in source.outcomes():
            ledger.add(outcomes)
            arrived += len(outcomes)
            if began is None and arrived >= first:
                began, counted = now(out), len(images) - arrived
            if ended is None and arrived == len(images):
                ended = now(out)  # while its processes live, whose time it is too
    assert began is not None, "all arrived"
    assert ended is not None, "all arrived"
    ledger.commit()
    all_s = sum(spent_s - began.cpus_s.get(pid, 0.0) for pid, spent_s in ended.cpus_s.items())
    took = ended.clock_s - began.clock_s, ended.driver_s - began.driver_s, all_s, ended.own_s - began.own_s
    return RowCosts(*(1e3 * seconds / counted for seconds in took))


class Moment(NamedTuple):
    """The time by the clock, and what was spent by then of CPUs."""

    clock_s: float
    driver_s: float
    cpus_s: dict[int, float]
    """Of this process and of each living descendant, by its id: who is gone later has no part in a sum."""
    own_s: float
    """Of that, what stages took for themselves."""


def now(out: Place) -> Moment:
    """Of this process."""
    tree = [os.getpid(), *descendants(os.getpid())]
    spent = {pid: cpu_s(pid) for pid in tree}
    return Moment(timer(), time.process_time(), spent, own_times_s(out))


@contextmanager
def patched_stages(stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """Ray gets stages of this file."""
    known = score_stages.STAGES.copy()
    score_stages.STAGES |= stand_ins
    try:
        yield
    finally:
        score_stages.STAGES |= known


def cpu_s(pid: int) -> float:
    """Of one process; 0: it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def make_settings(out: Place) -> ScorerSettings:
    """Settings that nobody reads."""
    return ScorerSettings(
        archive=out, labels=None, out=out, models=(), tiling=Tiling(), batch=1, precision="bf16", threads=1
    )
