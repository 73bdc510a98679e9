"""Which image goes to which worker, and which is to blame when one dies: decisions, without Ray or clocks."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seg.ledger.outcome import Quarantined
from seg.score.blame import Note

LONGEST_GROUP = 16
"""Images that belong together and go to one worker, at most."""
UNSEEN_DEATHS = 5
"""So many jobs that died with an image alone in work, and nobody saw of what, set it aside."""
HOPELESS = 10
"""Deaths with several images in flight, and no image finished: then it is not the images' fault."""
HOPELESS_STARTS = 2
"""Deaths in a row of workers that had begun no image, for each worker there is."""


class WorkersKeepDying(Exception):
    """Workers die whatever image they get, or before any: no image is to blame, and no restart helps."""


@dataclass(frozen=True, slots=True)
class Task:
    """An image that a worker is to score."""

    image: str
    attempt: int = 1
    """1, and one more for each time that a process died with it (docs/architecture.md)."""
    alone: bool = False
    """Whether nothing else is in work meanwhile, in any process."""


@dataclass(frozen=True, slots=True)
class Order(Task):
    """A task with all that a worker needs to know; names are relative to archive and labels."""

    label: str | None = None
    sequence: str = ""
    """Empty also where neither background nor clip asks for it."""
    earlier: tuple[str, ...] = ()
    """Earlier frames that a sequence model sees, oldest first."""


class ScoreQueue:
    """Hands out images: first a rehearsal, one by one; then all; last the suspects, one by one.

    A suspect was in flight when a process died; that with the fewest attempts is next, so that one that ends
    whatever it is in costs no other its turn. Workers are names here. Nothing grows with the archive but the
    list of names that was given.
    """

    def __init__(
        self,
        groups: Iterable[list[str]],
        *,
        rehearsal: Collection[str] = (),
        suspects: Mapping[str, Note] | None = None,
        workers: int = 1,
    ) -> None:
        """groups: images that go to one worker together (`find_groups`); none of the others is among them.

        workers: how many there are; so many more deaths are bad luck.
        """
        self.suspects = dict(suspects or {})
        """By image: the stage in which a process died, and the next attempt."""
        self.stopped = False
        """Set it, and nothing is handed out any more."""
        self._rehearsal, self._rehearser = deque(rehearsal), ""
        self._ahead: deque[list[str]] = deque()
        self._groups = iter(groups)
        self._own_group: dict[str, deque[str]] = {}
        self._held: dict[str, dict[str, Task]] = {}
        self._alone = ""
        """Worker that holds an image alone; empty: none does."""
        self._finished_any = False
        self._deaths_in_company, self._deaths_without_image = 0, 0
        self._allowed = workers

    @property
    def is_done(self) -> bool:
        """Whether nothing is out and nothing will be handed out."""
        return not self.num_held and (self.stopped or not self._anything_left())

    @property
    def is_complete(self) -> bool:
        """Whether every image has its row."""
        return not self.num_held and not self._anything_left()

    @property
    def num_held(self) -> int:
        """Images that workers hold."""
        return sum(map(len, self._held.values()))

    def held(self, worker: str) -> dict[str, Task]:
        """What a worker holds, in the order in which it was handed out."""
        return self._held.get(worker, {})

    def take(self, worker: str, depth: int) -> Task | None:
        """The next image for a worker that is to hold at most `depth`; None: none for it now."""
        held = self._held.setdefault(worker, {})
        if self.stopped or self._alone or len(held) >= depth:
            return None
        image = None if self._rehearsal else self._next_image(worker)
        task = self._take_alone(worker) if image is None else Task(image)
        if task is not None:
            held[task.image] = task
            self._alone = worker if task.alone else ""
        return task

    def finish(self, worker: str, image: str) -> None:
        """A worker has returned an image's row."""
        self._pop(worker, image)
        self._finished_any, self._deaths_without_image = True, 0

    def fail(self, worker: str, image: str, note: Note, cause: str) -> list[Quarantined]:
        """Scoring an image raised, in a process that lives on; what is set aside now."""
        task = self._pop(worker, image)
        aside = self._blame(task, note, cause, "killed_worker")
        self._deaths_in_company += not task.alone
        self._check_hope(cause)
        return aside

    def die(
        self, worker: str, touched: Mapping[str, Note], cause: str, *, timed_out: Collection[str] = ()
    ) -> list[Quarantined]:
        """A worker is gone. What is set aside now; the others of its images are tried again.

        touched: what it had noted. timed_out: images for which it was ended. WorkersKeepDying: see HOPELESS.
        """
        held = self._pop_all(worker)
        blamed = [task for task in held.values() if task.image in touched]
        back = [task.image for task in held.values() if task.image not in touched]
        alone = any(task.alone for task in held.values())
        rest = list(self._own_group.pop(worker, ()))
        if alone:
            self._put_back_alone([task for task in held.values() if task.image in back])
        elif back or rest:
            self._ahead.appendleft(back + rest)
        aside = []
        for task in blamed:
            reason = "timeout" if task.image in timed_out else "killed_worker"
            aside += self._blame(task, touched[task.image], cause, reason)
        self._deaths_without_image = 0 if blamed else self._deaths_without_image + 1
        self._deaths_in_company += bool(blamed) and not alone
        self._check_hope(cause)
        return aside

    def give_back(self, worker: str, touched: Mapping[str, Note]) -> None:
        """A worker is ended by us, through no fault of an image: what it touched is tried last, as before."""
        for task in self._pop_all(worker).values():
            if task.image in touched or task.attempt > 1:
                stage = touched[task.image].stage if task.image in touched else "read"
                self.suspects[task.image] = Note(stage, task.attempt)
            else:
                self._ahead.appendleft([task.image])
        if rest := self._own_group.pop(worker, None):
            self._ahead.append(list(rest))

    def _next_image(self, worker: str) -> str | None:
        group = self._own_group.setdefault(worker, deque())
        if not group:
            group.extend(self._ahead.popleft() if self._ahead else next(self._groups, ()))
        return group.popleft() if group else None

    def _take_alone(self, worker: str) -> Task | None:
        if self.num_held or any(self._own_group.values()):
            return None
        if self._rehearsal:
            if self._rehearser not in self._held:
                self._rehearser = worker
            return Task(self._rehearsal.popleft(), alone=True) if worker == self._rehearser else None
        if not self.suspects:
            return None
        image = min(self.suspects, key=lambda name: self.suspects[name].attempt)  # the first of equals
        return Task(image, self.suspects.pop(image).attempt, alone=True)

    def _put_back_alone(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.attempt == 1:
                self._rehearsal.appendleft(task.image)
            else:
                self.suspects = {task.image: Note("read", task.attempt)} | self.suspects

    def _blame(self, task: Task, note: Note, cause: str, reason: str) -> list[Quarantined]:
        if not (task.alone and task.attempt > 1):
            self.suspects[task.image] = Note(note.stage, task.attempt + 1)
            return []
        return [set_aside(task.image, reason, note.stage, task.attempt, cause)]

    def _check_hope(self, cause: str) -> None:
        if self._deaths_without_image > HOPELESS_STARTS * self._allowed:
            how = f"{self._deaths_without_image} workers in a row died before they began an image"
            raise WorkersKeepDying(f"{how}: {cause}")
        if not self._finished_any and self._deaths_in_company >= HOPELESS + self._allowed:
            how = f"{self._deaths_in_company} workers died and no image was finished"
            raise WorkersKeepDying(f"{how}: {cause}")

    def _pop(self, worker: str, image: str) -> Task:
        self._alone = "" if self._alone == worker else self._alone
        return self._held[worker].pop(image)

    def _pop_all(self, worker: str) -> dict[str, Task]:
        self._alone = "" if self._alone == worker else self._alone
        return self._held.pop(worker, {})

    def _anything_left(self) -> bool:
        if not (self._rehearsal or self._ahead or self.suspects or any(self._own_group.values())):
            group = next(self._groups, None)
            if group is None:
                return False
            self._ahead.append(group)
        return True


def set_aside(image: str, reason: str, stage: str, attempts: int, cause: str) -> Quarantined:
    """An image whose process died with it alone; size and time come later."""
    what = "took longer than an image may" if reason == "timeout" else "ended its process"
    how = f"in each of {attempts} attempts, the last time alone in it"
    detail = f"the image {what} {how}, in stage {stage}: {cause}"
    return Quarantined(image=image, reason=reason, detail=detail, attempts=attempts)


def given_up(suspects: Mapping[str, Note]) -> list[Quarantined]:
    """Images that were alone in work when UNSEEN_DEATHS jobs died."""
    return [
        set_aside(image, "killed_worker", note.stage, note.attempt - 1, "the job's process died each time")
        for image, note in suspects.items()
        if note.attempt > UNSEEN_DEATHS
    ]


def find_groups(images: Iterable[str], belong: Callable[[str, str], bool]) -> Iterator[list[str]]:
    """Neighbours in a list that belong together, at most LONGEST_GROUP of them, lazily."""
    group: list[str] = []
    for image in images:
        if group and (len(group) >= LONGEST_GROUP or not belong(group[-1], image)):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def find_overdue(
    held: Collection[str], noted: Mapping[str, Note], since_noted_s: float, limit_s: float
) -> list[str]:
    """Images that a worker has had for longer than `limit_s`.

    noted: what it said when it was last heard; since then all its images have grown older, and one it had not
    begun by then has had at most that time.
    """
    ages = {image: noted[image].seconds if image in noted else 0.0 for image in held}
    return [image for image, age_s in ages.items() if age_s + since_noted_s > limit_s]


class Watchdog:
    """Notices that nothing moves: no image was finished, and no stage has changed, for so long."""

    def __init__(self, limit_s: float, now_s: float) -> None:
        self.limit_s = limit_s
        self._seen: Any = None
        self._since_s = now_s

    def look(self, sight: Any, now_s: float) -> bool:
        """Whether what there is to see has been the same for too long; then the clock starts again."""
        if sight != self._seen:
            self._seen, self._since_s = sight, now_s
        if now_s - self._since_s < self.limit_s:
            return False
        self._since_s = now_s
        return True
