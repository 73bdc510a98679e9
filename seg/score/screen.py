"""What people see of a scoring while it runs: the screen, status.json, metrics, the line before the night."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from seg.data.images import split_page
from seg.errors import StoppedBy
from seg.ledger.outcome import Outcome
from seg.progress import live_view
from seg.score.folder import ScoreFolder
from seg.score.progress import Earlier, ScoringProgress
from seg.score.rehearsal import Power, Rest, averaging_line, choose_rehearsal, tell_ready
from seg.score.status import EVERY_S, Held, ScoringStatus, StatusWriter
from seg.screen import say

METRICS_EVERY_S = 1.0

Tell = Callable[[ScoringStatus], None]
"""Takes what there is to tell, about once a second."""


class Screen:
    """Shows a scoring as its rows arrive."""

    def __init__(
        self,
        folder: ScoreFolder,
        power: Power,
        image_limit_s: float | None,
        open_metrics: Callable[[str], Tell] | None = None,
    ) -> None:
        """A status.json that says "starting" is written at once.

        open_metrics: who else is told, from the first image on; gets the scoring's title.
        """
        plan = folder.plan
        self.folder, self._open_metrics = folder, open_metrics
        self.progress = ScoringProgress(
            plan.asked,
            plan.card.classes,
            workers=power.workers,
            earlier=Earlier(
                done=plan.asked - folder.num_left,
                quarantined=folder.quarantined,
                confusion=folder.survey.totals.confusion,
            ),
            bytes_left=folder.bytes_left,
            deadline=plan.deadline,
            title=f"scoring {plan.out.path.rstrip('/').rpartition('/')[2]}",
        )
        self.progress.image_limit_s, self.progress.lanes = image_limit_s, power.lanes
        self._writer = StatusWriter(plan.out, folder.check_owner)
        self._writer.write(self.progress, at_once=True)
        self._show: Callable[[], None] = lambda: None
        self._tell: Tell | None = None
        self._told_s = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw on the screen while the block runs."""
        with live_view(self.progress, line_every_s=EVERY_S) as self._show:
            yield

    def begin(self) -> None:
        """A worker has loaded its model: images are handed out from now on."""
        self.progress.begin()
        self._writer.write(self.progress, at_once=True)
        if self._open_metrics:
            self._tell = self._open_metrics(self.progress.title)

    def look(self, outcomes: Iterable[Outcome], held: Iterable[Held]) -> None:
        """Show what is new; to be called about once a second, also without an outcome."""
        self.progress.add(outcomes)
        self.progress.hold(held)
        self._show()
        self._writer.write(self.progress)
        if self._tell and time.monotonic() - self._told_s >= METRICS_EVERY_S:
            self._told_s = time.monotonic()
            self._tell(self.progress.status())

    def end(self, stopped_by: StoppedBy, cause: str) -> None:
        """It is over."""
        self.progress.end(stopped_by, cause)
        self._writer.write(self.progress, at_once=True)


class Rehearsal:
    """The images with which a night begins, end to end, and what is told when they are through."""

    def __init__(self, folder: ScoreFolder, power: Power) -> None:
        self.folder, self.power = folder, power
        self.images = choose_rehearsal(folder.pending)
        self._outcomes: dict[str, Outcome] = {}

    def look(self, outcomes: Iterable[Outcome]) -> None:
        """Take what has arrived."""
        if len(self._outcomes) == len(self.images):
            return
        self._outcomes |= {one.image: one for one in outcomes if one.image in self.images}
        if len(self._outcomes) == len(self.images):
            plan, rehearsed = self.folder.plan, [self._outcomes[image] for image in self.images]
            if line := averaging_line(rehearsed, len(plan.settings.models), plan.settings.tta, self.power):
                say(line)
            tell_ready(
                rehearsed,
                self._rest(),
                plan.out,
                self.power,
                deadline=plan.deadline,
                ranges=plan.card.intensities,
            )

    def _rest(self) -> Rest:
        archive = self.folder.plan.settings.archive
        found = (archive.stat(split_page(image)[0]) for image in self.images)
        rehearsed = sum(one.bytes for one in found if one)
        return Rest(self.folder.num_left - len(self.images), self.folder.bytes_left - rehearsed)
