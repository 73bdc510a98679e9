"""A scores folder as the command before left it: what is done, what is to do, what was in flight."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np

from seg.data.images import READER, is_read_anew, split_page
from seg.data.listing import natural_key, sequence_of
from seg.errors import RequestError
from seg.files import permit
from seg.ledger import changes
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Outcome, Quarantined
from seg.report.survey import Survey
from seg.requests import ScoreRequest
from seg.score.blame import Note, take_over, write_suspects
from seg.score.plan import ScorePlan
from seg.score.queue import given_up
from seg.storage import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OldReadings:
    """The images of a folder that its reader saw, or would have seen, otherwise than READER does."""

    reader: int = READER
    images: list[str] = field(default_factory=list)
    """Of ledger, quarantine and those asked for, in natural order."""
    rows: list[str] = field(default_factory=list)
    """Those in ledger or quarantine."""

    def refuse(self, out: Place) -> None:
        """RequestError: there are some, and READER's figures would be mixed with theirs."""
        if self.images:
            some = f"{len(self.images)} of these images: {changes.first_names(self.images)}"
            raise RequestError(
                f"`out={out}` holds another run, with reader {self.reader} instead of {READER}, which reads "
                f"TIFFs otherwise ({some}); give `rescore_changed` to score them again, or another `out`"
            )

    def lines(self, gone: list[str]) -> Iterator[str]:
        """What to say before they are scored again. gone: images that are no longer in the archive."""
        rows = frozenset(self.rows)
        if self.rows:
            yield f"{len(self.rows)} images are scored again, as reader {READER} reads TIFFs otherwise"
        if lost := [image for image in gone if image in rows]:
            some = changes.first_names(lost)
            yield f"{len(lost)} of them are no longer in the archive ({some}); they count no more"


def find_old_readings(plan: ScorePlan, ledger: Ledger) -> OldReadings:
    """What an earlier reader has read of a folder, by the names in it and in the archive."""
    reader = _reader_of(plan)
    if reader == READER:
        return OldReadings()
    done = ledger.finished_images() | ledger.quarantined_images()
    asked = plan.listing.images if plan.sequences else plan.listing.images[: plan.asked]
    images = sorted(_choose_read_anew(plan, done.union(asked)), key=natural_key)
    return OldReadings(reader, images, [image for image in images if image in done])


def leave_old_reader(plan: ScorePlan) -> None:
    """Make a folder READER's, once it holds no row of `OldReadings`. The lock is held.

    Backgrounds of such images go first, and run.json says so last: killed anywhere, the same command goes on.
    """
    if _reader_of(plan) == READER:
        return
    kept = plan.settings.backgrounds
    names = kept.names()
    for name in names:
        if name.endswith(".json") and any(map(is_read_anew, kept.read_json(name)["frames"])):
            for mean in names:
                if mean.startswith(f"{name.removesuffix('.json')}-"):
                    kept.remove(mean)
    plan.out.write_json("run.json", plan.identity)


def _reader_of(plan: ScorePlan) -> int:
    """The reader that began a folder: 1 where it does not say, READER where nobody did."""
    found = plan.out.read_json("run.json")
    return found.get("reader", 1) if isinstance(found, dict) else READER


def _choose_read_anew(plan: ScorePlan, images: Iterable[str]) -> set[str]:
    """Of some images those that READER sees otherwise: themselves, their background, or their neighbours."""
    measured, images = plan.settings.background, set(images)
    if measured is not None and is_read_anew(measured.name):
        return images
    anew = set(filter(is_read_anew, images))
    if not plan.sequences or not anew:
        return anew
    pattern = plan.card.sequence
    sequences = {sequence_of(image, pattern) for image in anew}
    return {image for image in images if sequence_of(image, pattern) in sequences}


@dataclass(slots=True)
class ScoreFolder:
    """What a plan finds in its folder."""

    plan: ScorePlan
    survey: Survey
    """Of what is committed, as of its last update."""
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
    check_owner: Callable[[], object] = permit
    """Raises LostLock where another job has taken the folder over."""

    @property
    def ledger(self) -> Ledger:
        """Where outcomes go."""
        return self.survey.ledger

    @property
    def inflight(self) -> Place:
        """Where processes note what they work at."""
        return self.plan.out.below("inflight")

    @property
    def num_left(self) -> int:
        """Images to score."""
        return len(self.pending) + len(self.suspects)

    def complete(self, outcome: Outcome) -> Outcome:
        """The same with size and time of a file that nobody has read to its end."""
        if isinstance(outcome, Quarantined) and outcome.bytes is None:
            found = self.plan.settings.archive.stat(split_page(outcome.image)[0])
            return replace(outcome, **found._asdict()) if found else outcome
        return outcome


def refuse_changed(plan: ScorePlan, request: ScoreRequest, ledger: Ledger) -> list[str]:
    """Images to score again: they changed, are read otherwise than when they were scored, or lost their mask.

    RequestError: an image, its label, mask or reader is another, and nobody asked for scoring it again.
    """
    settings = plan.settings
    old = find_old_readings(plan, ledger)
    if not request.rescore_changed:
        old.refuse(plan.out)
    masks = plan.out.below("masks") if settings.masks else None
    found = [changes.find_changes(plan.listing, plan.labels, ledger)]
    if masks is not None:
        found.append(changes.find_changed_masks(masks, ledger))
    if request.verify:
        found.append(changes.find_other_content(settings.archive, settings.labels, ledger, masks))
    merged = changes.merge_changes(found, plan.listing, plan.asked)
    if not request.rescore_changed:
        merged.refuse()
    for line in (*old.lines(merged.gone), *merged.lines(besides=old.rows)):
        log.info(line)
    return list(dict.fromkeys([*old.rows, *merged.changed, *merged.unmasked]))


def settle_folder(plan: ScorePlan, *, exports: bool) -> ScorePlan:
    """The plan, once all folders of its own are there, after which nobody makes them.

    A folder that is gone later is one whose storage is: what is written meanwhile waits for it, and nothing
    comes below the name that it had. Only masks/, overlays/ and exports/ get folders of sequences, below
    them.
    To be called by who holds the folder's lock.
    """
    wanted = {"masks": plan.settings.masks, "overlays": plan.settings.overlays}
    wanted |= {"backgrounds": plan.sequences is not None, "exports": exports}
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
    survey = survey_images(plan, ledger)
    folder = look_into(plan, survey, noted)
    if lost := given_up(folder.suspects):
        ledger.add(map(folder.complete, lost))
        ledger.commit()
        survey.update()
        folder = look_into(plan, survey, folder.suspects)
        write_suspects(folder.inflight, folder.suspects)
    return replace(folder, check_owner=check_owner)


def survey_images(plan: ScorePlan, ledger: Ledger) -> Survey:
    """What is in a plan's folder."""
    return Survey(ledger, len(plan.card.classes), plan.card.sequence)


def look_into(
    plan: ScorePlan,
    survey: Survey,
    noted: dict[str, Note],
    *,
    again: Collection[str] = (),
    retry_quarantined: bool = False,
) -> ScoreFolder:
    """What is done and what is not; nothing is written. noted: images in flight.

    again, retry_quarantined: what `open_folder` would forget counts as forgotten.
    """
    images = plan.listing.images
    wanted = frozenset(again)
    forgotten = np.fromiter((image in wanted for image in images), bool, len(images))
    finished = survey.find_finished(images) & ~forgotten
    aside = survey.find_quarantined(images) & ~forgotten & (not retry_quarantined)
    left = ~(finished | aside)
    left[plan.asked :] = False
    waiting = list(compress(images, left))
    return ScoreFolder(
        plan,
        survey,
        pending=[image for image in waiting if image not in noted] if noted else waiting,
        suspects={image: noted[image] for image in waiting if image in noted} if noted else {},
        skipped=int(finished.sum()),
        quarantined=int(aside[: plan.asked].sum()),
        bytes_left=int(plan.listing.bytes[left].sum()),
    )
