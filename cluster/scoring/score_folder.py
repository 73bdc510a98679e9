"""A scores folder as the command before left it: what is done, what is to do, what was in flight."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.ledger.changes import find_changes, find_other_content
from cluster.ledger.ledger import Ledger
from cluster.requests import ScoreRequest
from cluster.scoring.inflight import Note, take_over, write_suspects
from cluster.scoring.old_reader import find_old_readings, leave_old_reader
from cluster.scoring.score_plan import ScorePlan
from cluster.scoring.score_queue import given_up
from seg.data.images import split_page
from seg.screen import say
from seg.storage import Place


@dataclass(slots=True)
class ScoreFolder:
    """What a plan finds in its folder."""

    plan: ScorePlan
    ledger: Ledger
    pending: list[str]
    """Images asked for in neither ledger nor quarantine, in the archive's order, without the suspects."""
    suspects: dict[str, Note]
    """Images asked for that were in flight when a process died, each with its next attempt."""
    skipped: int
    """Images of the archive that are in the ledger."""
    quarantined: int
    """Images asked for that are in quarantine."""
    bytes_left: int
    """Of pending and suspects."""
    check_owner: Callable[[], object] = lambda: None
    """Raises LostLock where another job has taken the folder over."""

    @property
    def inflight(self) -> Place:
        """Where processes note what they work at."""
        return self.plan.out.below("inflight")

    @property
    def num_left(self) -> int:
        """Images to score."""
        return len(self.pending) + len(self.suspects)

    def complete(self, row: dict[str, Any]) -> dict[str, Any]:
        """An outcome row with size and time of a file that nobody has read to the end."""
        if row["reason"] is not None and "bytes" not in row:
            found = self.plan.settings.archive.stat(split_page(row["image"])[0])
            row |= {"bytes": found and found.bytes, "mtime_ns": found and found.mtime_ns}
        return row


def refuse_changed(plan: ScorePlan, request: ScoreRequest) -> list[str]:
    """Images to score again since they changed, or are read otherwise than when they were scored.

    RequestError: there are some, and nobody asked for that.
    """
    ledger = Ledger(plan.out)
    old = find_old_readings(plan, ledger)
    if not request.rescore_changed:
        old.refuse(plan.out)
    changes = find_changes(plan.listing, plan.labels, ledger)
    found = [changes]
    if request.verify:
        found.append(find_other_content(plan.settings.archive, plan.settings.labels, ledger))
    for line in (*old.lines(changes.gone), changes.gone_line(besides=old.rows)):
        if line:
            say(line)
    if not request.rescore_changed:
        for one in found:
            one.refuse()
    return list(dict.fromkeys([*old.rows, *(image for one in found for image in one.changed)]))


def open_folder(
    plan: ScorePlan,
    check_owner: Callable[[], object],
    *,
    again: list[str],
    retry_quarantined: bool = False,
) -> ScoreFolder:
    """Take over a folder whose lock is held: clear up, forget what is to be scored again, see what is left.

    check_owner: raises where the lock is lost. again: what `refuse_changed` gave.
    """
    ledger = Ledger(plan.out, may_write=check_owner)
    ledger.recover()
    if again:
        ledger.forget(again)
        ledger.forget_quarantined(again)
    leave_old_reader(plan)
    if retry_quarantined:
        ledger.forget_quarantined()
    noted = take_over(plan.out.below("inflight"))
    folder = look_into(plan, ledger, noted)
    if lost := given_up(folder.suspects):
        ledger.add([folder.complete(row) for row in lost])
        ledger.commit()
        write_suspects(folder.inflight, {})
        folder = look_into(plan, ledger, folder.suspects)
        write_suspects(folder.inflight, folder.suspects)
    return replace(folder, check_owner=check_owner)


def look_into(
    plan: ScorePlan,
    ledger: Ledger,
    noted: dict[str, Note],
    *,
    again: Collection[str] = (),
    retry_quarantined: bool = False,
) -> ScoreFolder:
    """What is done and what is not; nothing is written. noted: images in flight.

    again, retry_quarantined: what `open_folder` would forget counts as forgotten.
    """
    images = plan.listing.images
    forgotten = _which(images, again)
    finished = ledger.find_finished(images) & ~forgotten
    aside = ledger.find_quarantined(images) & ~forgotten & (not retry_quarantined)
    left = ~(finished | aside)
    left[plan.asked :] = False
    waiting = list(compress(images, left))
    return ScoreFolder(
        plan,
        ledger,
        pending=[image for image in waiting if image not in noted] if noted else waiting,
        suspects={image: noted[image] for image in waiting if image in noted} if noted else {},
        skipped=int(finished.sum()),
        quarantined=int(aside[: plan.asked].sum()),
        bytes_left=int(plan.listing.bytes[left].sum()),
    )


def _which(images: list[str], some: Collection[str]) -> NDArray[np.bool_]:
    """Which of the images are among some, bool [N]."""
    if not some:
        return np.zeros(len(images), bool)
    wanted = frozenset(some)
    return np.fromiter((image in wanted for image in images), bool, len(images))
