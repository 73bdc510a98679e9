"""The live view's figures for Prometheus, through Ray: http://NODE:PORT/metrics of the job's own node."""

from collections.abc import Callable
from operator import attrgetter

from ray.util.metrics import Counter, Gauge

from seg.score.status import ScoringStatus

Read = Callable[[ScoringStatus], float | None]
"""A figure of a look; None: it is not known."""

COUNTERS: dict[str, tuple[str, Read]] = {
    "fringe_images_scored": (
        "Images that this command put into the ledger",
        lambda status: status.images_scored,
    ),
    "fringe_images_quarantined": (
        "Images that this command set aside",
        lambda status: status.images_done - status.images_skipped - status.images_scored,
    ),
    "fringe_megapixels_scored": ("Megapixels that this command scored", lambda status: status.pixels / 1e6),
}
"""Without the ending _total, which Ray or Prometheus may add."""
GAUGES: dict[str, tuple[str, Read]] = {
    "fringe_images": ("Images of the archive that were asked for", attrgetter("images_total")),
    "fringe_images_done": ("Of them, those in ledger or quarantine", attrgetter("images_done")),
    "fringe_megapixels_per_second": (
        "Over the last five minutes",
        attrgetter("megapixels_per_second_recent"),
    ),
    "fringe_miou": ("Mean IoU over the folder's labelled images", attrgetter("miou")),
    "fringe_eta_seconds": (
        "Time until the last image is done, at the recent pace",
        attrgetter("seconds_left"),
    ),
    "fringe_suspects": ("Images that were held by a worker that died", attrgetter("suspects")),
    "fringe_images_in_flight": ("Images that workers hold", lambda status: len(status.in_flight)),
    "fringe_workers": ("Workers", attrgetter("workers")),
}


class ScoreMetrics:
    """Counters and gauges of one scoring, with its title as their tag; Ray must run."""

    def __init__(self, title: str) -> None:
        self._counters = {name: Counter(name, text, ("scoring",)) for name, (text, _) in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, ("scoring",)) for name, (text, _) in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags({"scoring": title})
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def update(self, status: ScoringStatus) -> None:
        """Tell the figures of a look; what is not known keeps its last value."""
        for name, (_, read) in COUNTERS.items():
            value = read(status) or 0.0
            if value > self._counted[name]:
                self._counters[name].inc(value - self._counted[name])
                self._counted[name] = value
        for name, (_, read) in GAUGES.items():
            value = read(status)
            if value is not None:
                self._gauges[name].set(value)
