"""Which image is next, and which is to blame when a process dies: decisions, without Ray or clocks."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from seg.ledger.outcome import Outcome, Quarantined
from seg.score.blame import READ, Note

LONGEST_GROUP = 16
"""Images that belong together and go to one worker, at most."""
UNSEEN_DEATHS = 5
"""So many jobs that died with an image alone in work, and nobody saw of what, set it aside."""
HOPELESS = 10
"""Deaths with several images in flight, and no image finished: then it is not the images' fault."""
HOPELESS_STARTS = 2
"""Deaths in a row of processes that had begun no image, for each worker there is."""


class WorkersKeepDying(Exception):
    """Workers die whatever image they get, or before any: no image is to blame, and no restart helps."""


@dataclass(frozen=True, slots=True)
class Task:
    """An image that a worker is to score."""

    image: str
    attempt: int = 1
    """1, and one more for each time that a process died with it (docs/explanation/architecture.md)."""
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


@dataclass(frozen=True, slots=True)
class Died:
    """What comes of an image that was in work when its process ended, or when Python raised."""

    image: str
    note: Note
    """Where it was, and why its process ended, as far as that is known."""
    lives: bool = False
    """Whether the process goes on: Python raised for this image alone."""


@dataclass(frozen=True, slots=True)
class Unbegun:
    """What comes of an image that was not begun, since the scoring is to stop."""

    image: str


Answer = Outcome | Died | Unbegun
"""What is said of an image in the end, by whoever was to score it."""


class ScoreQueue:
    """Hands out images: first a rehearsal, then all, in company; last the suspects, one by one.

    A suspect was in work when a process died; that with the fewest attempts is next, so that one that ends
    whatever it is in costs no other its turn. Nothing grows with the archive but names.
    """

    def __init__(
        self,
        groups: Iterable[list[str]],
        *,
        rehearsal: Collection[str] = (),
        suspects: Mapping[str, Note] | None = None,
        workers: int = 1,
    ) -> None:
        """groups: images that go to one reader together (`find_groups`); none of the others is among them.

        workers: how many there are; so many more deaths are bad luck.
        """
        self.suspects = dict(suspects or {})
        """By image: the stage in which a process died, and the next attempt."""
        self.stopped = False
        """Set it, and nothing is handed out any more."""
        self._rehearsal = deque(rehearsal)
        self._ahead: deque[list[str]] = deque()
        self._groups = iter(groups)
        self._group: deque[str] = deque()
        """What is left of the one whose images go out now."""
        self._held: dict[str, Task | None] = {}
        """Images that are out; None: in company, for the first time."""
        self._finished_any = False
        self._deaths_in_company, self._deaths_without_image = 0, 0
        self._allowed = workers

    @property
    def is_done(self) -> bool:
        """Whether nothing is out and nothing will be handed out."""
        return not self._held and (self.stopped or not self._anything_left())

    @property
    def is_complete(self) -> bool:
        """Whether every image has its row."""
        return not self._held and not self._anything_left()

    @property
    def has_company(self) -> bool:
        """Whether any image is to be tried that is no suspect."""
        return bool(self._rehearsal or self._group or self._ahead or self._more())

    def held(self) -> Collection[str]:
        """The images that are out."""
        return self._held.keys()

    def take(self) -> Task | None:
        """The next image; None: none now. One that is alone is the only one that is out."""
        if self.stopped or self._is_one_alone:
            return None
        if self._rehearsal:
            return None if self._held else self._hand(Task(self._rehearsal.popleft(), alone=True))
        if not self._group and (self._ahead or self._more()):
            self._group.extend(self._ahead.popleft())
        if self._group:
            return self._hand(Task(self._group.popleft()))
        return None if self._held else self.take_suspect()

    def take_suspect(self) -> Task | None:
        """The suspect that is next, which is to be alone; None: there is none."""
        if self.stopped or not self.suspects:
            return None
        image = min(self.suspects, key=lambda name: self.suspects[name].attempt)  # the first of equals
        return self._hand(Task(image, self.suspects.pop(image).attempt, alone=True))

    def take_company(self) -> Iterator[list[str]]:
        """All that are no suspects, group by group, the rehearsal's each as one; they are out, in company."""
        while not self.stopped and self.has_company:
            if self._rehearsal:
                group = [self._rehearsal.popleft()]
            elif self._group:
                group = [*self._group]
                self._group.clear()
            else:
                group = self._ahead.popleft()
            self._held.update(dict.fromkeys(group))
            yield group

    def finish(self, image: str) -> None:
        """An image has its outcome."""
        del self._held[image]
        self._finished_any, self._deaths_without_image = True, 0

    def die(self, touched: Mapping[str, Note], cause: str) -> list[Quarantined]:
        """A process is gone, and these images, which are out, were in work in it: what is set aside now.

        cause: where their notes say none. WorkersKeepDying: see HOPELESS.
        """
        aside, alone = [], False
        for image, note in touched.items():
            task = self._back(image)
            alone |= task.alone
            aside += self._blame(task, note, note.cause or cause)
        self._deaths_without_image = 0 if touched else self._deaths_without_image + 1
        self._deaths_in_company += bool(touched) and not alone
        self._check_hope(next((note.cause for note in touched.values() if note.cause), cause))
        return aside

    def fail(self, image: str, note: Note) -> list[Quarantined]:
        """Scoring an image raised, in a process that lives on; what is set aside now."""
        task = self._back(image)
        aside = self._blame(task, note, note.cause)
        self._deaths_in_company += not task.alone
        self._check_hope(note.cause)
        return aside

    def give_back(self, touched: Mapping[str, Note]) -> None:
        """What is out comes back, through no fault of an image: what was touched is tried last, as before."""
        back = []
        for image in list(self._held):
            task = self._back(image)
            if image in touched or task.attempt > 1:
                stage = touched[image].stage if image in touched else READ
                self.suspects[image] = Note(stage, task.attempt)
            else:
                back.append(image)
        if back:
            self._ahead.appendleft(back)

    def put_back(self, image: str) -> None:
        """An image that is out was not begun."""
        task = self._back(image)
        if task.attempt > 1:
            self.suspects[image] = Note(READ, task.attempt)
        else:
            self._ahead.append([image])

    @property
    def _is_one_alone(self) -> bool:
        return len(self._held) == 1 and any(task and task.alone for task in self._held.values())

    def _hand(self, task: Task) -> Task:
        self._held[task.image] = task
        return task

    def _back(self, image: str) -> Task:
        return self._held.pop(image) or Task(image)

    def _blame(self, task: Task, note: Note, cause: str) -> list[Quarantined]:
        if not (task.alone and task.attempt > 1):
            self.suspects[task.image] = Note(note.stage, task.attempt + 1)
            return []
        reason = "timeout" if note.timed_out else "killed_worker"
        return [set_aside(task.image, reason, note.stage, task.attempt, cause)]

    def _check_hope(self, cause: str) -> None:
        if self._deaths_without_image > HOPELESS_STARTS * self._allowed:
            how = f"{self._deaths_without_image} workers in a row died before they began an image"
            raise WorkersKeepDying(f"{how}: {cause}")
        if not self._finished_any and self._deaths_in_company >= HOPELESS + self._allowed:
            how = f"{self._deaths_in_company} workers died and no image was finished"
            raise WorkersKeepDying(f"{how}: {cause}")

    def _more(self) -> bool:
        """Whether there is a group that was never out; the next one is then ahead."""
        if not self._ahead:
            group = next(self._groups, None)
            if group is not None:
                self._ahead.append(group)
        return bool(self._ahead)

    def _anything_left(self) -> bool:
        return bool(self.suspects) or self.has_company


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
