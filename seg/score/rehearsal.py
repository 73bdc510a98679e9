"""Before a night: three images end to end, then one line that says how long it takes and what it fills."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from seg.data.preprocess import Brightness, IntensityRange, OutOfRange, count_outside
from seg.errors import DataWarning
from seg.ledger.outcome import STAGES, Outcome, Quarantined, Scored
from seg.recipe import TTA_VIEWS, Tta
from seg.score.finish import WRITERS
from seg.score.read import AHEAD
from seg.screen import say
from seg.storage import Place
from seg.words import clock, file_size, plural, time_span

ROW_BYTES, OBJECT_BYTES = 1000, 60
"""On disk, of a ledger row with its matrix and of an object's row, compressed; both rounded up."""


def lanes_of(workers: int) -> dict[str, int]:
    """Threads of each stage in so many processes that have all stages; reading and decoding share theirs."""
    each = {"read": AHEAD, "decode": AHEAD, "model": 1, "write": WRITERS}
    return {stage: threads * max(1, workers) for stage, threads in each.items()}


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left to score: images, and their bytes, each counted as large as its file."""

    images: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """What a scoring runs on."""

    workers: int
    threads: int
    """CPU threads that a worker computes with."""
    cpus: int
    """Of all machines together."""
    on_gpu: bool
    stages: Mapping[str, int] | None = None
    """Threads of each stage, of all machines together; None: each worker has all stages."""

    @property
    def lanes(self) -> Mapping[str, int]:
        """Threads of each stage, of all machines together."""
        return self.stages or lanes_of(self.workers)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a night takes, foretold from a few images. None: none of them was scored."""

    images: int
    seconds: float | None
    bytes: int | None
    """Masks, ledger and objects on disk."""


def choose_rehearsal(pending: Sequence[str]) -> list[str]:
    """The first, the middle and the last image: all there are where they are fewer than three."""
    places = sorted({0, len(pending) // 2, len(pending) - 1}) if pending else []
    return [pending[place] for place in places]


def estimate_night(outcomes: Sequence[Outcome], rest: Rest, power: Power) -> Estimate:
    """Foretell time and disk from the outcomes of a few images.

    All that an image costs is taken to grow with the bytes of its file. Of each stage counts the quickest of
    them for its bytes, since a first one also warms up. The slower of two bounds is the time: the busiest
    stage's threads (reading and decoding share theirs), and the CPUs that decoding, writing and, without a
    GPU, the model keep busy.
    """
    scored = [one for one in outcomes if isinstance(one, Scored)]
    if not scored:
        return Estimate(rest.images, None, None)
    seconds = {
        stage: rest.bytes * min(one.seconds[stage] / max(1, one.bytes) for one in scored) for stage in STAGES
    }
    ahead, lanes = seconds["read"] + seconds["decode"], power.lanes
    busiest = max(seconds["model"] / lanes["model"], ahead / lanes["read"], seconds["write"] / lanes["write"])
    computing = 0.0 if power.on_gpu else seconds["model"] * power.threads
    cores = seconds["decode"] + seconds["write"] + computing
    share = rest.bytes / max(1, sum(one.bytes for one in scored))
    written = sum((one.mask_bytes or 0) + len(one.objects) * OBJECT_BYTES for one in scored)
    return Estimate(
        rest.images,
        max(busiest, cores / max(1, power.cpus)),
        round(share * written) + rest.images * ROW_BYTES,
    )


def ready_line(estimate: Estimate, now: datetime, deadline: datetime | None = None) -> str:
    """'ready, N images, about X h, Y GB, ends at T', and what the deadline makes of it."""
    if estimate.seconds is None or estimate.bytes is None:
        return f"ready, {estimate.images} images, how long they take is not known"
    ends = now + timedelta(seconds=estimate.seconds)
    about = f"about {time_span(estimate.seconds)}, {file_size(estimate.bytes)}, ends at {clock(ends)}"
    line = f"ready, {estimate.images} images, {about}"
    if deadline is None or ends <= deadline:
        return line
    left = round(estimate.images * (ends - deadline).total_seconds() / estimate.seconds)
    return f"{line}; the deadline {clock(deadline)} leaves about {min(left, estimate.images)} of them"


def averaging_line(outcomes: Sequence[Outcome], models: int, tta: Tta, power: Power) -> str | None:
    """What is said of the cost of an ensemble and of views, by the rehearsal; None: there are neither."""
    views = TTA_VIEWS[tta]
    if models * views == 1:
        return None
    what = f"{plural(models, 'model')}, {plural(views, 'view')} of each crop"
    line = f"{what}: {models * views} times the work of one model"
    scored = [one for one in outcomes if isinstance(one, Scored) and one.seconds["model"] > 0]
    if not scored:
        return line
    pixels_a_second = max(one.height * one.width / one.seconds["model"] for one in scored)
    return f"{line}, about {power.lanes['model'] * pixels_a_second / 1e6:.2g} MPix/s"


def tell_ready(
    outcomes: Sequence[Outcome],
    rest: Rest,
    out: Place,
    power: Power,
    *,
    deadline: datetime | None = None,
    ranges: tuple[IntensityRange, ...] = (),
) -> Estimate:
    """Say that the night can begin: the line of `ready_line` on standard error, DataWarnings before it.

    outcomes: of the rehearsal. rest: what is left after it. ranges: of the model file. Warned of: no
    image could be scored, one is unlike the training's, the disk is too small.
    """
    scored = [one for one in outcomes if isinstance(one, Scored)]
    estimate = estimate_night(outcomes, rest, power)
    looks = [Brightness(one.image, one.bit_depth, one.intensity_mean) for one in scored]
    outside = count_outside([looks], ranges)
    unlike = outside and intensity_warning(outside)
    for text in (aside_warning(outcomes), unlike, disk_warning(estimate, out)):
        if text:
            warnings.warn(DataWarning(text), stacklevel=2)
    now = datetime.now().astimezone()
    say(ready_line(estimate, now, deadline and deadline.astimezone()))
    return estimate


def aside_warning(outcomes: Sequence[Outcome]) -> str | None:
    """What is said where not one image of the rehearsal could be scored."""
    aside = [one for one in outcomes if isinstance(one, Quarantined)]
    if len(aside) < max(1, len(outcomes)):
        return None
    each = "; ".join(f"{one.image}: {one.reason}, {one.detail}" for one in aside)
    return (
        f"NONE of the {len(aside)} images of the rehearsal could be scored, and the rest may be alike: {each}"
    )


def intensity_warning(outside: OutOfRange) -> str | None:
    """What is said of images that are unlike those the model was trained on; None: none is."""
    if not outside.images:
        return None
    return (
        f"{outside.images} of {outside.of} images ({outside.images / outside.of:.1%}) have another bit depth "
        f"or brightness than the model was trained on, the first is {outside.first}; look at their masks"
    )


def disk_warning(estimate: Estimate, out: Place) -> str | None:
    """What is said where masks and ledger will not fit; None: they will, or that cannot be known."""
    free = free_bytes(out)
    if free is None or estimate.bytes is None or estimate.bytes <= free:
        return None
    return (
        f"`out={out}` has {file_size(free)} free, about {file_size(estimate.bytes)} are needed; "
        "what fits is scored; make room, or take another folder or `masks=none`"
    )


def free_bytes(place: Place) -> int | None:
    """Free bytes of a local folder's disk, which need not be there yet; None: it is no local one."""
    if not place.is_local:
        return None
    folder = place.local()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
