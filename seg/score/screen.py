"""What people see of a scoring while it runs: the screen, status.json, metrics, the line before the night."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from seg.data.images import split_page
from seg.errors import StoppedBy
from seg.progress import live_view
from seg.score.folder import ScoreFolder
from seg.score.progress import Earlier, ScoringProgress
from seg.score.rehearsal import Power, Rest, choose_rehearsal, tell_ready
from seg.score.status import EVERY_S, ScoringStatus, StatusWriter

METRICS_EVERY_S = 1.0

Tell = Callable[[ScoringStatus], None]
"""Takes what there is to tell, about once a second."""


class Screen:
    """Shows a scoring as its rows arrive."""

    def __init__(
        self,
        folder: ScoreFolder,
        workers: int,
        image_limit_s: float | None,
        open_metrics: Callable[[str], Tell] | None = None,
    ) -> None:
        """A status.json that says "starting" is written at once.

        open_metrics: who else is told, from the first image on; gets the scoring's title.
        """
        plan, ledger = folder.plan, folder.ledger
        self.folder, self._open_metrics = folder, open_metrics
        self.progress = ScoringProgress(
            plan.asked,
            plan.card.classes,
            workers=max(1, workers),
            earlier=Earlier(
                done=plan.asked - folder.num_left,
                quarantined=folder.quarantined,
                confusion=ledger.totals(len(plan.card.classes)).confusion,
            ),
            bytes_left=folder.bytes_left,
            deadline=plan.deadline,
            title=f"scoring {plan.out.path.rstrip('/').rpartition('/')[2]}",
        )
        self.progress.image_limit_s = image_limit_s
        self._writer = StatusWriter(plan.out, folder.check_owner)
        self._writer.write(self.progress, at_once=True)
        self._show: Callable[[], None] = lambda: None
        self._tell: Tell | None = None
        self._told_s, self._finishing = 0.0, False

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

    def look(self, source: Any, rows: list[dict[str, Any]]) -> None:
        """Show what is new; to be called about once a second, also without a row."""
        self.progress.add(rows)
        self.progress.hold((held.image, held.stage, held.seconds) for held in source.held())
        self.progress.suspects = source.num_suspects
        self._look_for_end(source.is_stopped)
        self.folder.ledger.commit_due()
        self._show()
        self._writer.write(self.progress)
        if self._tell and time.monotonic() - self._told_s >= METRICS_EVERY_S:
            self._told_s = time.monotonic()
            self._tell(self.progress.status())

    def end(self, stopped_by: StoppedBy, cause: str) -> None:
        """It is over."""
        self.progress.end(stopped_by, cause)
        self._writer.write(self.progress, at_once=True)

    def _look_for_end(self, stopped: bool) -> None:
        """Once nothing is handed out any more: commit what arrives, as who stopped us may lose patience."""
        if not stopped:
            return
        if not self._finishing:
            self._finishing = True
            self.progress.finish()
        self.folder.ledger.commit()


class Rehearsal:
    """The images with which a night begins, end to end, and what is told when they are through."""

    def __init__(self, folder: ScoreFolder, power: Power) -> None:
        self.folder, self.power = folder, power
        self.images = choose_rehearsal(folder.pending)
        self._rows: dict[str, dict[str, Any]] = {}

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Outcome rows that have arrived."""
        if len(self._rows) == len(self.images):
            return
        self._rows |= {row["image"]: row for row in rows if row["image"] in self.images}
        if len(self._rows) == len(self.images):
            plan, rehearsed = self.folder.plan, [self._rows[image] for image in self.images]
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
