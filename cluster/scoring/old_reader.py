"""A scores folder that an earlier reader of image files began: it goes on, or is scored again in part."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.ledger.changes import first_names
from cluster.ledger.ledger import Ledger
from cluster.scoring.score_plan import ScorePlan
from seg.data.images import READER
from seg.data.listing import natural_key, sequence_of
from seg.errors import RequestError
from seg.run_folder import is_read_anew
from seg.storage import Place


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
            some = f"{len(self.images)} of these images: {first_names(self.images)}"
            raise RequestError(
                f"--out {out} holds another run, with reader {self.reader} instead of {READER}, which reads "
                f"TIFFs otherwise ({some}); give --rescore-changed to score them again, or another --out"
            )

    def lines(self, gone: list[str]) -> list[str]:
        """What to say before they are scored again. gone: images that are no longer in the archive."""
        rows = frozenset(self.rows)
        lost = [image for image in gone if image in rows]
        said = []
        if self.rows:
            said.append(f"{len(self.rows)} images are scored again, as reader {READER} reads TIFFs otherwise")
        if lost:
            said.append(
                f"{len(lost)} of them are no longer in the archive ({first_names(lost)}); they count no more"
            )
        return said


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
