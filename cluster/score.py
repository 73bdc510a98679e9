"""Scoring by Ray Data: parcels of images through its stages, on whatever nodes there are; no commits here."""

import logging
import os
import queue
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.placement import Placement, Stages, place_scoring, place_stages
from cluster.session import Session, quiet_loggers
from seg.data.images import split_page
from seg.ledger.outcome import Outcome, Quarantined, Scored
from seg.requests import ScoreRequest
from seg.score import job
from seg.score.blame import Note, write_suspects
from seg.score.deadline import Pace, StopFlag, Stopping
from seg.score.dry_run import Findings
from seg.score.limits import Limits
from seg.score.parcels import PIXELS_A_BYTE, Answered, Mark, Parcel, Round, fill_parcels, images_in_parcel
from seg.score.plan import ScorePlan, plan_scoring
from seg.score.queue import Died, ScoreQueue, Task, Unbegun, WorkersKeepDying
from seg.score.rehearsal import Power
from seg.score.screen import Tell
from seg.score.status import Held
from seg.score.summary import ScoreSummary
from seg.score.watch import Watch

if TYPE_CHECKING:  # Ray is loaded once a session has set what it reads then
    import ray.data

log = logging.getLogger(__name__)

SETTLE_S = 0.5
"""Once a scoring is to stop: how long no row comes before what is left is not waited for."""
BLOCKS = 1000
"""Blocks that parcels are handed over in, at most: Ray Data holds some 50 KB for each."""
BYTES_AHEAD = {"cpu": 2**30, "cuda": 2**32}
"""What may lie between the stages for each process that predicts: readers further ahead of it wait."""
PARCELS_EACH = 4
"""Parcels that each worker gets at least, where there are so many images, so that all end together."""
NAMED = 5
"""Images that a message names."""


class ScoringStalled(Exception):
    """Nothing moved for so long, also after workers were started again."""


def score(request: ScoreRequest, session: Session) -> ScoreSummary:
    """Score what is left of an archive: see seg/score/job.py."""
    plan = plan_scoring(request)
    return job.score(plan, request, choose_workplace(request, session, plan.asked))


def look_only(request: ScoreRequest, session: Session) -> Findings:
    """Print what a scoring would meet and cost, and return it."""
    plan = plan_scoring(request)
    return job.look_only(plan, request, choose_workplace(request, session, plan.asked))


def choose_workplace(request: ScoreRequest, session: Session, images: int) -> job.Workplace:
    """What a request for so many images asks for, or what there is. RequestError: there is no such room."""
    placed = place_scoring(request, session, images)
    workers, device = placed.most, device_of(placed)
    limits = Limits(image_limit_s(request), 60 * request.stall_minutes if workers else None)
    stages = place_stages(request, placed, session)
    power = Power(
        workers=max(1, workers),
        threads=request.threads,
        cpus=session.cpus,
        on_gpu=placed.gpus > 0,
        stages=stages.lanes,
    )
    if not workers:
        return job.Workplace(workers=0, device=device, limits=limits, power=power)

    def open_source(plan: ScorePlan, queue: ScoreQueue, stopping: Stopping) -> "DatasetSource":
        session.start()
        return DatasetSource(plan, queue, stopping, limits=limits, stages=stages, device=device)

    return job.Workplace(
        workers=workers,
        device=device,
        limits=limits,
        power=power,
        open_source=open_source,
        open_metrics=_open_metrics,
    )


def device_of(placed: Placement) -> str:
    """What a scoring's processes are told to predict on: not what torch finds, which Ray no longer hides."""
    return "cuda" if placed.gpus else "cpu"


def image_limit_s(request: ScoreRequest) -> float | None:
    """How long an image may be worked at; None: for ever.

    By default as long as nothing may move: were it longer, one image that hangs, alone at last, would end the
    job as stalled where it is to be set aside.
    """
    if request.image_timeout_s is None:
        return 60 * request.stall_minutes
    return request.image_timeout_s or None


def _open_metrics(title: str) -> Tell:
    from cluster.prometheus import ScoreMetrics  # here: it loads ray, which a scoring in this process lacks

    return ScoreMetrics(title).update


class DatasetSource:
    """Outcomes of a queue's images, each once, whatever dies: rounds of a Ray dataset, until none is left.

    First all that are no suspects, in company; then the suspects, one by one in the whole cluster. What
    arrived is never made again. An image with which a process died twice, the second time alone, is set
    aside.
    """

    def __init__(
        self,
        plan: ScorePlan,
        queue: ScoreQueue,
        stopping: Stopping,
        *,
        limits: Limits,
        stages: Stages,
        device: str,
    ) -> None:
        """Ray runs. `stages`: what is where; device: what is predicted on."""
        self.plan, self.queue, self.stopping, self.limits = plan, queue, stopping, limits
        self.stages, self.device = stages, device
        self.is_up = False
        self.pace = Pace()
        self.inflight = plan.out.below("inflight")
        self._name, self._rounds, self._parcels = f"round-{secrets.token_hex(4)}", 0, 0
        self._stalls_at: list[int] = []
        self._finished = 0
        self._nodes: Counter[tuple[str, str]] = Counter()
        self._watch: Watch | None = None
        self._overdue: set[str] = set()
        """Images of processes that were ended from here."""

    def held(self) -> list[Held]:
        """What is in work, as far as its notes tell; the longest first."""
        return self._watch.held() if self._watch else []

    def outcomes(self) -> Generator[list[Outcome], None, None]:
        """Outcomes as they come, also none, at least once a second; those set aside may lack size and time.

        RequestError: of a worker that could not start. OSError: of storage that stays away. ScoringStalled,
        WorkersKeepDying: no restart helps. However it ends, what was in flight is noted as suspect.
        """
        while not self.queue.is_done:
            before = self._finished, len(self.queue.suspects), len(self._stalls_at)
            yield from self._run_round()
            after = self._finished, len(self.queue.suspects), len(self._stalls_at)
            if not self.queue.stopped and before == after:
                raise WorkersKeepDying("no image came back, though none is known to have ended its process")
        self._tell_nodes()

    def _run_round(self) -> Generator[list[Outcome], None, None]:
        self._rounds += 1
        name = f"{self._name}-{self._rounds}"
        company = self.queue.has_company
        parcels = list(self._company() if company else self._suspects())
        stages = self.stages if company else self.stages.alone()
        round_ = Round(
            name=name,
            settings=self.plan.settings,
            card=self.plan.card,
            device=self.device,
            image_limit_s=self.limits.image_s,
            shares=stages.shares,
        )
        watch = self._watch = Watch(round_, self.limits, stages.processes)
        flow, flag, settled_s = Flow(round_, stages, parcels), StopFlag(self.inflight, name), 0.0
        try:
            for answers in flow.answers():
                arrived = self._take(answers)
                if self.stopping.check(self.pace) is not None and not self.queue.stopped:
                    self.queue.stopped = True
                    flag.raise_()
                if watch.is_due or self.queue.stopped:
                    self._look(watch, flow)
                settled_s = 0.0 if arrived else settled_s + flow.waited_s
                yield arrived
                if self.queue.stopped and settled_s >= SETTLE_S and watch.is_idle:
                    break
        finally:
            flow.close()
            with suppress(OSError):  # then the notes stay, and the next command finds them
                watch.look()
                if not flow.is_over:  # one may hang; only now, as Ray no longer brings it back
                    end_processes(watch.marks.values())
                self.queue.give_back(watch.touched())
                write_suspects(self.inflight, self.queue.suspects)
                watch.forget()

    def _company(self) -> Iterator[Parcel]:
        images = list(self.queue.take_company())
        count = sum(map(len, images))
        most = (
            1
            if self.stages.shares > 1
            else min(
                self.parcel_size([group[0] for group in images]),
                max(1, -(-count // (PARCELS_EACH * self.stages.predictors))),
            )
        )
        log.info(f"{count} images in parcels of up to {most}, {self.stages}")
        for names in fill_parcels(images, most):
            yield self._parcel([Task(name) for name in names])

    def _suspects(self) -> Iterator[Parcel]:
        while task := self.queue.take_suspect():
            yield self._parcel([task])

    def _parcel(self, tasks: Iterable[Task]) -> Parcel:
        self._parcels += 1
        return Parcel(str(self._parcels), tuple(map(self.plan.order, tasks)))

    def parcel_size(self, images: Sequence[str]) -> int:
        """Images in a parcel, by the mean size of the archive's files: none of them is opened for that."""
        ending = Path(split_page(images[len(images) // 2])[0]).suffix.lower()
        pixels = self.plan.listing.bytes.mean() * PIXELS_A_BYTE.get(ending, 1.0)
        return images_in_parcel(round(pixels), self.device)

    def _take(self, answers: Sequence[Answered]) -> list[Outcome]:
        """What is new of them: a parcel that was begun again gives what it gave before."""
        arrived: list[Outcome] = []
        died: dict[str, Note] = {}
        self.is_up |= bool(answers)
        for found in answers:
            answer = found.answer
            if answer.image not in self.queue.held():
                continue
            self._nodes.update(found.nodes.items())
            match answer:
                case Scored() | Quarantined():
                    self.queue.finish(answer.image)
                    self._finished += 1
                    if isinstance(answer, Scored):
                        self.pace.add(sum(answer.seconds.values()))
                    arrived.append(answer)
                case Died(lives=True):
                    arrived += self.queue.fail(answer.image, answer.note)
                case Died():
                    late = answer.note.timed_out or answer.image in self._overdue
                    died[answer.image] = answer.note._replace(timed_out=late)
                case Unbegun():
                    self.queue.put_back(answer.image)
        if died:
            cause = next((note.cause for note in died.values() if note.cause), WORDLESS)
            log.info(
                f"a worker is gone ({cause}), with {_name_images(died)} in work; another one takes its place"
            )
            arrived += self.queue.die(died, cause)
            write_suspects(self.inflight, self.queue.suspects)
        return arrived

    def _look(self, watch: Watch, flow: "Flow") -> None:
        watch.look()
        self.is_up |= watch.is_up
        for _ in range(watch.new_deaths()):
            self.queue.die({}, WORDLESS)
        self._overdue.update(watch.frozen_images())
        end_processes(watch.take_frozen())
        still_s = watch.stalled_s(self._finished)
        if still_s is None:
            return
        what = f"nothing has moved for {still_s / 60:g} min; in work: {_describe(watch.held())}"
        if self._finished in self._stalls_at:
            raise ScoringStalled(f"{what}; starting workers again did not help")
        log.info(f"{what}; starting all workers again")
        self._stalls_at.append(self._finished)
        flow.abort()

    def _tell_nodes(self) -> None:
        nodes = {node for _, node in self._nodes}
        if len(nodes) > 1:
            each = (f"{stage} {count} on {node[:8]}" for (stage, node), count in sorted(self._nodes.items()))
            log.info(f"images by stage and node: {', '.join(each)}")


WORDLESS = "the process ended without a word, as by a crash, a signal or for want of memory"


def _name_images(images: Iterable[str]) -> str:
    names = list(images)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest if names else "no image"


def _describe(held: list[Held]) -> str:
    found = [f"{one.image} ({one.stage}, {one.seconds:.0f} s)" for one in held]
    return _name_images(found)


class Flow:
    """Parcels on their way through a Ray dataset; its iterator has a thread, so that we can look around."""

    def __init__(self, round_: Round, stages: Stages, parcels: list[Parcel]) -> None:
        """`parcels`: emptied once Ray has them, as a million names are some hundred MiB."""
        self.round, self.stages, self.parcels = round_, stages, parcels
        self.waited_s = 0.0
        """How long the last answers were waited for."""
        self.is_over = False
        """Whether all answers came; else processes may still be at work."""
        self._arrived: queue.SimpleQueue[list[Answered] | BaseException | None] = queue.SimpleQueue()
        self._aborted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dataset", daemon=True)

    def answers(self) -> Iterator[list[Answered]]:
        """Answers as they come; also none, at least once a second. What a stage raised is raised here."""
        self._thread.start()
        while True:
            started = time.monotonic()
            try:
                found = self._arrived.get(timeout=0.25)
            except queue.Empty:
                found = []
            self.waited_s = time.monotonic() - started
            if found is None:
                self.is_over = True
                return
            if isinstance(found, BaseException):
                if self._aborted.is_set():
                    return
                raise found
            yield found

    def abort(self) -> None:
        """Have the dataset end as soon as it can."""
        self._aborted.set()

    def close(self) -> None:
        """End it, and its processes; what is in work is left."""
        self.abort()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        from cluster.score_stages import read_answers

        try:
            dataset = self._open()
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                self._arrived.put(read_answers(table))
            logging.getLogger("ray.data").info(dataset.stats())  # into Ray Data's file, not on the screen
            self._arrived.put(None)
        except BaseException as error:  # for the thread that waits for it
            self._arrived.put(error)

    def _open(self) -> "ray.data.Dataset":
        import ray.data

        from cluster.score_stages import STAGES, Aborter, parcels_table

        quiet_loggers()
        Aborter.latest = self._aborted
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # our watchdog's
        context.max_errored_blocks = 0
        context.target_max_block_size = 1  # each parcel leaves its stage as soon as it is done
        ahead = self.stages.predictors * BYTES_AHEAD[self.round.device]
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=ahead)
        context.custom_execution_callback_classes = [Aborter]  # pyright: ignore  # it has all its methods
        each = -(-len(self.parcels) // BLOCKS)
        firsts = range(0, len(self.parcels), each)
        with ray.data.DataContext.current(context):
            dataset = ray.data.from_arrow([parcels_table(self.parcels[at : at + each]) for at in firsts])
            self.parcels.clear()
            for stage in self.stages.operators:
                dataset = dataset.map_batches(
                    STAGES[stage.name],  # pyright: ignore[reportArgumentType]  # its constructor is called
                    fn_constructor_args=(self.round,),
                    compute=ray.data.ActorPoolStrategy(
                        size=min(stage.processes, len(firsts)),
                        max_concurrent_calls_per_actor=stage.calls,
                        max_tasks_in_flight_per_actor=stage.ahead,
                        enable_true_multi_threading=True,
                    ),
                    batch_size=1 if stage.gpus else None,  # Ray Data wants a number where there are GPUs
                    batch_format="pyarrow",
                    zero_copy_batch=True,
                    num_cpus=stage.cpus,
                    num_gpus=stage.gpus,
                )
        return dataset


def end_processes(marks: Iterable[Mark]) -> None:
    """Kill stage processes, each from its own node, as nothing else reaches one that is stopped or hangs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for mark in marks:
        on_node = NodeAffinitySchedulingStrategy(mark.node, soft=False)
        options: Any = {"num_cpus": 0, "scheduling_strategy": on_node, "max_retries": 0}
        ray.remote(_end_process).options(**options).remote(mark.pid)


def _end_process(pid: int) -> None:
    with suppress(OSError):  # it is gone
        if b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
