"""What a scoring tells of itself: status.json, the picture drawn of it, and jobs/status.py."""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from seg.errors import DONE, FAILED, DataWarning, RequestError, StoppedBy, exit_code
from seg.files import permit, without_nan
from seg.ledger.ledger import read_ledger
from seg.plain_data import from_plain, parse_json
from seg.progress import BLOCKS, Line, heading, live_view, sparkline
from seg.screen import open_console, say
from seg.storage import Place, refusing
from seg.words import BOUND_BY, ENDINGS, clock, plural, ratio, time_left, time_span

if TYPE_CHECKING:
    from seg.score.progress import ScoringProgress

STARTING, SCORING, FINISHING = "starting", "scoring", "finishing"
RUNNING = frozenset({STARTING, SCORING, FINISHING})
"""States in which somebody works; the others are a StoppedBy's words."""
STALE_S = 180.0
"""Who works writes once a minute; two misses may be a slow storage, three are no sign of life."""

CURVE_MINUTES = 30
COLUMN = 18
"""Characters of a column; four of them and the lines' names fit 80."""

FILE = "status.json"
EVERY_S = 60.0
"""Seconds between two writes, and between two lines in a log."""
READ_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """An image that a worker has, and where it was with it when it was last heard."""

    image: str
    stage: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringStatus:
    """One look at a scoring. None: not known yet, or nothing was counted."""

    title: str
    state: str
    images_total: int
    """Images of the archive that were asked for."""
    images_done: int
    """Of them, those in ledger or quarantine."""
    images_skipped: int
    """Of them, those that were there when the command began."""
    images_scored: int
    """Of them, those that this command scored."""
    images_quarantined: int
    """Rows of the folder's quarantine."""
    pixels: int
    """Scored by this command, as everything below."""
    seconds: float
    """Since the first image was handed out."""
    megapixels_per_second: float | None
    megapixels_per_second_recent: float | None
    """Over this minute and the four before."""
    speeds: list[float] = field(default_factory=list)
    """MPix/s of the last half hour's full minutes, the oldest first."""
    miou: float | None
    """Over the folder's labelled images."""
    seconds_left: float | None
    ends_at: str | None
    deadline: str | None
    """ISO times with their offset from UTC."""
    limiting_stage: str | None
    """storage, decode, model or write."""
    busy: dict[str, float] = field(default_factory=dict)
    """Of each stage, the share of its threads that was at work, recently."""
    workers: int
    suspects: int
    """Images that were held by a worker that died; they are tried alone, at the end."""
    in_flight: list[Held] = field(default_factory=list)
    """The longest held first."""
    image_limit_s: float | None = None
    """Seconds after which an image in work is overdue; None: never."""
    cause: str
    """Of an error, one line; else empty."""
    updated: str
    host: str
    pid: int

    @staticmethod
    def from_json(content: bytes) -> "ScoringStatus":
        """What a status.json says. ValueError: it is none, or another version's."""
        status: ScoringStatus = from_plain(ScoringStatus, parse_json(content, "its content"))
        if not status.runs:
            StoppedBy(status.state)
        for moment in (status.updated, status.deadline, status.ends_at):
            _check_moment(moment or status.updated)
        return status

    @property
    def runs(self) -> bool:
        """Whether the command had not ended when this was written."""
        return self.state in RUNNING

    @property
    def overdue(self) -> list[Held]:
        """Of `in_flight` what takes too long."""
        limit_s = self.image_limit_s
        return [] if limit_s is None else [held for held in self.in_flight if held.seconds > limit_s]

    def silence_s(self, now: datetime) -> float:
        """Seconds without a sign of life, beyond what is usual; 0: all is well, or it has ended."""
        silent = (now - datetime.fromisoformat(self.updated)).total_seconds()
        return silent if self.runs and silent > STALE_S else 0.0

    def exit_code(self, now: datetime) -> int:
        """What the command ended with; 0 while it works; 1 where it gives no sign of life."""
        if self.runs:
            return FAILED if self.silence_s(now) else DONE
        return exit_code(self.state, self.images_quarantined)

    @property
    def misses_deadline(self) -> bool:
        """Whether the deadline comes before the end, as far as that can be foretold."""
        if self.deadline is None or self.ends_at is None:
            return False
        return datetime.fromisoformat(self.ends_at) > datetime.fromisoformat(self.deadline)


def _check_moment(text: str) -> None:
    """ValueError: a time that cannot be shown, or that does not say where on Earth."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not 1970 <= moment.year <= 9000:
        raise ValueError(f"{text!r} is no time of ours")


def limiting_stage(seconds: Mapping[str, float], lanes: Mapping[str, int]) -> str | None:
    """What limits a scoring: the stage whose threads are busiest. None: nothing was timed.

    seconds: spent in each stage, over all workers. lanes: threads that each stage has; reading and decoding
    share theirs, so they count together, and the longer of the two is named.
    """
    if not any(seconds.values()):
        return None
    ahead = (seconds.get("read", 0.0) + seconds.get("decode", 0.0)) / lanes["read"]
    later = {stage: seconds.get(stage, 0.0) / lanes[stage] for stage in ("model", "write")}
    busiest = max(later, key=lambda stage: later[stage])
    if ahead > later[busiest]:
        busiest = max(("read", "decode"), key=lambda stage: seconds.get(stage, 0.0))
    return BOUND_BY[busiest]


def draw_status(status: ScoringStatus, silence_s: float = 0.0) -> RenderableType:
    """What is done, its quality, its speed, what limits it, and which image is held longest.

    silence_s: seconds without a sign of life, which become a line; 0: all is well.
    """
    share = status.images_done / status.images_total if status.images_total else 1.0
    count = f"{status.images_done}/{status.images_total} images"
    left = time_left(status.seconds_left) if status.runs else ENDINGS[status.state].partition(";")[0]
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
    parts = [f"{ratio(status.megapixels_per_second_recent, 1)} MPix/s"]
    if status.miou is not None:
        parts.append(f"mIoU {ratio(status.miou)}")
    if status.images_quarantined:
        parts.append(f"{status.images_quarantined} quarantined")
    if status.suspects:
        parts.append(plural(status.suspects, "suspect"))
    if status.limiting_stage:
        parts.append(f"{status.limiting_stage} limits")
    parts += [f"OVERDUE {late.image} ({late.stage} {late.seconds:.0f} s)" for late in status.overdue]
    if status.runs and status.seconds_left is not None:
        parts.append(time_left(status.seconds_left))
    return "  ".join(parts)


def silence(status: ScoringStatus, seconds: float) -> str:
    """What is said where nobody has written for so long, and where to look."""
    return f"no sign of life for {time_span(seconds)}; it ran as process {status.pid} on {status.host}"


def _quality(status: ScoringStatus) -> Line:
    aside = f"{status.images_quarantined} quarantined"
    suspects = plural(status.suspects, "suspect") if status.suspects else ""
    skipped = f"{status.images_skipped} done before" if status.images_skipped else ""
    style = "bold yellow" if status.images_quarantined or status.suspects else "bold"
    return Line(_columns("mIoU", ratio(status.miou), aside, skipped, suspects), style)


def _speed(status: ScoringStatus) -> Line:
    recent = f"{ratio(status.megapixels_per_second_recent, 1)} MPix/s"
    mean = f"mean {ratio(status.megapixels_per_second, 1)}"
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
        return Line(_columns("end", ends, plural(status.workers, "worker")))
    deadline = f"deadline {_clock(status.deadline)}"
    comes = "comes first" if status.misses_deadline else ""
    style = "yellow" if status.misses_deadline else ""
    return Line(_columns("end", ends, plural(status.workers, "worker"), f"{deadline} {comes}"), style)


def _held(status: ScoringStatus) -> Line:
    """The image that a worker has held longest: the one to look at where nothing moves."""
    if not status.in_flight:
        return Line(_columns("now", "no image in flight"), "dim")
    first, count = status.in_flight[0], len(status.in_flight)
    of = f", longest of {count}" if count > 1 else ""
    late, style = (", OVERDUE", "bold red") if status.overdue else ("", "dim")
    return Line(_columns("now", f"{first.stage} {first.seconds:.0f} s{late}{of}: {first.image}"), style)


def _columns(name: str, *cells: str) -> str:
    """A line of the picture: its name and cells below those of the other lines."""
    row = "".join(f"{cell:<{COLUMN}}" if len(cell) < COLUMN else f"{cell}  " for cell in cells)
    return f"  {name:<7}{row}".rstrip()


def _clock(moment: str) -> str:
    """An ISO time in this machine's time."""
    return clock(datetime.fromisoformat(moment).astimezone())


class StatusWriter:
    """Leaves in a scores folder how far its scoring is.

    Storage that refuses is warned of, once until it takes a file again: the scoring goes on as long as its
    rows can be committed.
    """

    def __init__(self, place: Place, may_write: Callable[[], object] = permit) -> None:
        """may_write: as of `Place.write`; it raises where the folder is not there, or another job's."""
        self.place, self._may_write = place, may_write
        self._written, self._refused = -EVERY_S, False

    def write(self, progress: "ScoringProgress", *, at_once: bool = False) -> None:
        """Write status.json, unless that was done less than a minute ago; at_once: in any case."""
        if not at_once and time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        status = asdict(progress.status())
        try:
            self.place.write_json(FILE, status, may_write=self._may_write)
        except OSError as error:
            if not self._refused:
                text = f"{self.place}/{FILE} cannot be written ({error}); it tells what was true before"
                warnings.warn(DataWarning(text), stacklevel=2)
            self._refused = True
        else:
            self._refused = False


class StatusReader:
    """A scoring as its status.json tells it: what a live view of another machine's work watches."""

    def __init__(self, place: Place) -> None:
        """RequestError: the folder holds no status.json, or none of ours."""
        self.place = place
        self.status = self._read()
        self.title, self.total = self.status.title, self.status.images_total

    def _read(self) -> ScoringStatus:
        where = f"{self.place}/{FILE}"
        with refusing(self.place.uri):
            content = self.place.read(FILE)
        if content is None:
            raise RequestError(f"{where} is not there; give the folder that was `out` of a scoring")
        try:
            return ScoringStatus.from_json(content)
        except (ValueError, RequestError) as error:
            raise RequestError(
                f"{where} is no status of a scoring ({error}); was another version at work?"
            ) from None

    @property
    def done(self) -> int:
        """Images in ledger or quarantine."""
        return self.status.images_done

    @property
    def note(self) -> str:
        """The rest of a log's line."""
        return silence(self.status, self.silence_s) if self.silence_s else log_note(self.status)

    @property
    def silence_s(self) -> float:
        """Seconds without a sign of life; 0: all is well, or it has ended."""
        return self.status.silence_s(datetime.now(UTC))

    @property
    def exit_code(self) -> int:
        """The command's own where it has ended, 0 while it works, 1 where it gives no sign of life."""
        return self.status.exit_code(datetime.now(UTC))

    def look(self) -> None:
        """Read the file again."""
        self.status = self._read()

    def picture(self, height: int) -> RenderableType:
        """As the scoring itself draws it, and an alarm where it is silent."""
        return draw_status(self.status, self.silence_s)


def show_status(place: Place, *, watch: bool = False, as_json: bool = False) -> int:
    """Print how far a folder's scoring is; its exit code (docs/reference/scores.md). RequestError: none.

    watch: go on until it has ended or Ctrl-C. as_json: the plain values, with `silent_seconds`. DamagedFile:
    a part of what was committed; the rest is printed before.
    """
    reader = StatusReader(place)
    if watch:
        watch_status(reader)
    elif not as_json:
        console = open_console()
        console.print(reader.picture(console.height))
    if as_json:
        values = without_nan(asdict(reader.status) | {"silent_seconds": reader.silence_s})
        for line in json.dumps(values, indent=2).splitlines():  # in ASCII: a name's controls do nothing
            say(line, out=True)
    _check_parts(place)
    return reader.exit_code


def _check_parts(place: Place) -> None:
    """DamagedFile: a part of the folder is. Figures are shown before: its job counted them, not we."""
    try:
        read_ledger(place)
    except FileNotFoundError:  # listed, and gone when it was read: a living job put its next revision there
        read_ledger(place)


def watch_status(reader: StatusReader) -> None:
    """Show a scoring until it has ended, a line a minute where there is no terminal; Ctrl-C ends that."""
    try:
        with live_view(reader, line_every_s=EVERY_S) as show:
            show()
            while reader.status.runs:
                time.sleep(READ_EVERY_S)
                show()
    except KeyboardInterrupt:
        return
