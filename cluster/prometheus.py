"""The live view's figures for Prometheus, through Ray: http://NODE:PORT/metrics of the job's own node."""

from ray.util.metrics import Counter, Gauge

from seg.score.status import ScoringStatus

COUNTERS = {
    "fringe_images_scored": "Images that this command put into the ledger",
    "fringe_images_quarantined": "Images that this command set aside",
    "fringe_megapixels_scored": "Megapixels that this command scored",
}
"""Without the ending _total, which Ray or Prometheus may add."""
GAUGES = {
    "fringe_images": "Images of the archive that were asked for",
    "fringe_images_done": "Of them, those in ledger or quarantine",
    "fringe_megapixels_per_second": "Over the last five minutes",
    "fringe_miou": "Mean IoU over the folder's labelled images",
    "fringe_eta_seconds": "Time until the last image is done, at the recent pace",
    "fringe_suspects": "Images that were held by a worker that died",
    "fringe_images_in_flight": "Images that workers hold",
    "fringe_workers": "Workers",
}


class ScoreMetrics:
    """Counters and gauges of one scoring, with its title as their tag; Ray must run."""

    def __init__(self, title: str) -> None:
        tags = {"scoring": title}
        self._counters = {name: Counter(name, text, ("scoring",)) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, ("scoring",)) for name, text in GAUGES.items()}
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(tags)
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def update(self, status: ScoringStatus) -> None:
        """Tell the figures of a look; what is not known keeps its last value."""
        for name, value in _counts(status).items():
            if value > self._counted[name]:
                self._counters[name].inc(value - self._counted[name])
                self._counted[name] = value
        for name, value in _levels(status).items():
            if value is not None:
                self._gauges[name].set(value)


def _counts(status: ScoringStatus) -> dict[str, float]:
    return {
        "fringe_images_scored": status.images_scored,
        "fringe_images_quarantined": status.images_done - status.images_skipped - status.images_scored,
        "fringe_megapixels_scored": status.pixels / 1e6,
    }


def _levels(status: ScoringStatus) -> dict[str, float | None]:
    return {
        "fringe_images": status.images_total,
        "fringe_images_done": status.images_done,
        "fringe_megapixels_per_second": status.megapixels_per_second_recent,
        "fringe_miou": status.miou,
        "fringe_eta_seconds": status.seconds_left,
        "fringe_suspects": status.suspects,
        "fringe_images_in_flight": len(status.in_flight),
        "fringe_workers": status.workers,
    }
