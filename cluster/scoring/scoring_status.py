"""How far a scoring is, as plain values: what status.json holds (docs/formats.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cluster.outcome import DONE, EXIT_CODES, FAILED, QUARANTINED, StoppedBy
from seg.plain_data import from_plain, parse_json, require_fields

STARTING, SCORING, FINISHING = "starting", "scoring", "finishing"
RUNNING = frozenset({STARTING, SCORING, FINISHING})
"""States in which somebody works; the others are a StoppedBy's words."""
STALE_S = 180.0
"""Who works writes once a minute; two misses may be a slow storage, three are no sign of life."""

BOUND_BY = {"read": "storage", "decode": "decode", "model": "model", "write": "write"}
"""Timed stages of an image, and what is said to limit a scoring in which they do."""


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
    in_flight: list[dict[str, Any]] = field(default_factory=list)
    """`image`, `stage` and `seconds` of each image that a worker holds, the longest held first."""
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
        for held in status.in_flight:
            require_fields({"image": str, "stage": str, "seconds": float}, held, "in_flight")
        for moment in (status.updated, status.deadline, status.ends_at):
            _check_moment(moment or status.updated)
        return status

    @property
    def runs(self) -> bool:
        """Whether the command had not ended when this was written."""
        return self.state in RUNNING

    @property
    def overdue(self) -> list[dict[str, Any]]:
        """Of `in_flight` what takes too long."""
        limit_s = self.image_limit_s
        return [] if limit_s is None else [held for held in self.in_flight if held["seconds"] > limit_s]

    def silence_s(self, now: datetime) -> float:
        """Seconds without a sign of life, beyond what is usual; 0: all is well, or it has ended."""
        silent = (now - datetime.fromisoformat(self.updated)).total_seconds()
        return silent if self.runs and silent > STALE_S else 0.0

    def exit_code(self, now: datetime) -> int:
        """What the command ended with; 0 while it works; 1 where it gives no sign of life."""
        if self.runs:
            return FAILED if self.silence_s(now) else DONE
        code = EXIT_CODES[StoppedBy(self.state)]
        return QUARANTINED if code == DONE and self.images_quarantined else code

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

    seconds: spent in each stage, over all workers. lanes: threads of a worker that each stage has; reading
    and decoding share theirs, so they count together, and the longer of the two is named.
    """
    if not any(seconds.values()):
        return None
    ahead = (seconds.get("read", 0.0) + seconds.get("decode", 0.0)) / lanes["read"]
    later = {stage: seconds.get(stage, 0.0) / lanes[stage] for stage in ("model", "write")}
    busiest = max(later, key=lambda stage: later[stage])
    if ahead > later[busiest]:
        busiest = max(("read", "decode"), key=lambda stage: seconds.get(stage, 0.0))
    return BOUND_BY[busiest]
