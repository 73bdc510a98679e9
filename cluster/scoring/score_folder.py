"""A scores folder as the command before left it: what is done, what is to do, what was in flight."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.ledger.changes import find_changed_masks, find_changes, find_other_content, merge_changes
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


def refuse_changed(plan: ScorePlan, request: ScoreRequest, ledger: Ledger) -> list[str]:
    """Images to score again: they changed, are read otherwise than when they were scored, or lost their mask.

    RequestError: an image, its label, mask or reader is another, and nobody asked for scoring it again.
    """
    settings = plan.settings
    old = find_old_readings(plan, ledger)
    if not request.rescore_changed:
        old.refuse(plan.out)
    masks = plan.out.below("masks") if settings.masks else None
    found = [find_changes(plan.listing, plan.labels, ledger)]
    if masks is not None:
        found.append(find_changed_masks(masks, ledger))
    if request.verify:
        found.append(find_other_content(settings.archive, settings.labels, ledger, masks))
    changes = merge_changes(found, plan.listing, plan.asked)
    if not request.rescore_changed:
        changes.refuse()
    for line in (*old.lines(changes.gone), *changes.lines(besides=old.rows)):
        say(line)
    return list(dict.fromkeys([*old.rows, *changes.changed, *changes.unmasked]))


def settle_folder(plan: ScorePlan, *, exports: bool) -> ScorePlan:
    """The plan, once all folders of its own are there, after which nobody makes them.

    A folder that is gone later is one whose storage is: what is written meanwhile waits for it, and nothing
    comes below the name that it had. Only masks/ and exports/ get folders of sequences, below them.
    To be called by who holds the folder's lock.
    """
    wanted = {"masks": plan.settings.masks, "backgrounds": plan.sequences is not None, "exports": exports}
    for name in ("ledger", "objects", "quarantine", "inflight", *(name for name in wanted if wanted[name])):
        plan.out.make_folders(name)
    return replace(plan, settings=replace(plan.settings, out=plan.out.settled()))


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
