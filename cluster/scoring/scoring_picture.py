"""A scoring on the screen: six lines on a terminal, one in a log."""

from datetime import datetime

from rich.console import Group, RenderableType

from cluster.live_view import BLOCKS, Line, duration, heading, ratio, sparkline, time_span
from cluster.outcome import StoppedBy
from cluster.scoring.scoring_status import BOUND_BY, SCORING, STARTING, ScoringStatus

CURVE_MINUTES = 30
COLUMN = 18
"""Characters of a column; four of them and the lines' names fit 80."""

ENDINGS = {
    StoppedBy.FINISHED: "finished",
    StoppedBy.DEADLINE: "stopped at the deadline",
    StoppedBy.INTERRUPT: "stopped by Ctrl-C",
    StoppedBy.ERROR: "failed",
}


def draw_status(status: ScoringStatus, silence_s: float = 0.0) -> RenderableType:
    """What is done, its quality, its speed, what limits it, and which image is held longest.

    silence_s: seconds without a sign of life, which become a line; 0: all is well.
    """
    share = status.images_done / status.images_total if status.images_total else 1.0
    count = f"{status.images_done}/{status.images_total} images"
    left = duration(status.seconds_left) if status.runs else ENDINGS[StoppedBy(status.state)]
    left = "silent" if silence_s else left
    lines = [heading(status.title, share, count, left), _quality(status), _speed(status)]
    if status.busy:
        lines.append(_limit(status))
    if status.runs and not silence_s:
        lines.append(_end(status))
    if status.runs:
        lines.append(_held(status))
    if silence_s:
        lines.append(Line(_columns("alarm", silence(status, silence_s)), "bold red"))
    if status.cause:
        lines.append(Line(_columns("cause", status.cause), "bold red"))
    return Group(*lines)


def log_note(status: ScoringStatus) -> str:
    """The rest of a log's line: speed, quality, what was set aside, what limits, the time left."""
    parts = [f"{_number(status.megapixels_per_second_recent)} MPix/s"]
    if status.miou is not None:
        parts.append(f"mIoU {ratio(status.miou)}")
    if status.images_quarantined:
        parts.append(f"{status.images_quarantined} quarantined")
    if status.suspects:
        parts.append(_plural(status.suspects, "suspect"))
    if status.limiting_stage:
        parts.append(f"{status.limiting_stage} limits")
    parts += [f"OVERDUE {late['image']} ({late['stage']} {late['seconds']:.0f} s)" for late in status.overdue]
    if status.runs and status.seconds_left is not None:
        parts.append(duration(status.seconds_left))
    return "  ".join(parts)


def silence(status: ScoringStatus, seconds: float) -> str:
    """What is said where nobody has written for so long, and where to look."""
    return f"no sign of life for {time_span(seconds)}; it ran as process {status.pid} on {status.host}"


def _quality(status: ScoringStatus) -> Line:
    aside = f"{status.images_quarantined} quarantined"
    suspects = _plural(status.suspects, "suspect") if status.suspects else ""
    skipped = f"{status.images_skipped} done before" if status.images_skipped else ""
    style = "bold yellow" if status.images_quarantined or status.suspects else "bold"
    return Line(_columns("mIoU", ratio(status.miou), aside, skipped, suspects), style)


def _speed(status: ScoringStatus) -> Line:
    recent = f"{_number(status.megapixels_per_second_recent)} MPix/s"
    mean = f"mean {_number(status.megapixels_per_second)}"
    return Line(_columns("speed", recent, mean, sparkline(status.speeds, CURVE_MINUTES)))


def _limit(status: ScoringStatus) -> Line:
    """Each stage with a block as high as its threads are busy, the one that limits named first."""
    stages = sorted(BOUND_BY, key=lambda stage: BOUND_BY[stage] != status.limiting_stage)
    shares = {stage: min(1.0, status.busy.get(stage, 0.0)) for stage in stages}
    blocks = {stage: BLOCKS[round(share * (len(BLOCKS) - 1))] for stage, share in shares.items()}
    return Line(
        _columns("limit", *(f"{blocks[stage]} {BOUND_BY[stage]} {shares[stage]:.0%}" for stage in stages))
    )


def _end(status: ScoringStatus) -> Line:
    """When it ends, and the deadline where there is one."""
    if status.state == STARTING:
        return Line(_columns("end", "starting"))
    ends = f"about {_clock(status.ends_at)}" if status.ends_at else "not known yet"
    if status.state != SCORING:
        ends = "finishing"
    if status.deadline is None:
        return Line(_columns("end", ends, _plural(status.workers, "worker")))
    deadline = f"deadline {_clock(status.deadline)}"
    comes = "comes first" if status.misses_deadline else ""
    style = "yellow" if status.misses_deadline else ""
    return Line(_columns("end", ends, _plural(status.workers, "worker"), f"{deadline} {comes}"), style)


def _held(status: ScoringStatus) -> Line:
    """The image that a worker has held longest: the one to look at where nothing moves."""
    if not status.in_flight:
        return Line(_columns("now", "no image in flight"), "dim")
    first, count = status.in_flight[0], len(status.in_flight)
    of = f", longest of {count}" if count > 1 else ""
    late, style = (", OVERDUE", "bold red") if status.overdue else ("", "dim")
    return Line(
        _columns("now", f"{first['stage']} {first['seconds']:.0f} s{late}{of}: {first['image']}"), style
    )


def _columns(name: str, *cells: str) -> str:
    """A line of the picture: its name and cells below those of the other lines."""
    row = "".join(f"{cell:<{COLUMN}}" if len(cell) < COLUMN else f"{cell}  " for cell in cells)
    return f"  {name:<7}{row}".rstrip()


def _clock(moment: str) -> str:
    """An ISO time as people read it, in this machine's time: 'Tue 04:12'."""
    return f"{datetime.fromisoformat(moment).astimezone():%a %H:%M}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
