import re
import urllib.request
from dataclasses import replace

import pytest

from cluster.session import Session
from seg.score.progress import ScoringProgress
from seg.score.status import Held
from tests.small import wait_until

VALUES = {
    "images": 100,
    "images_done": 50,
    "images_scored_total": 38,
    "images_quarantined_total": 2,
    "megapixels_scored_total": 76,
    "megapixels_per_second": 1.5,
    "miou": 0.25,
    "eta_seconds": 90,
    "suspects": 3,
    "images_in_flight": 1,
    "workers": 4,
}


@pytest.mark.long  # Ray's agent asks for metrics every 10 s
def test_prometheus_reads_a_scorings_figures_from_ray(session: Session) -> None:
    import ray

    from cluster.prometheus import ScoreMetrics

    progress = ScoringProgress(100, ("background", "cell"), workers=4, title="scoring cells")
    first = replace(progress.status(), images_skipped=10, images_done=30, images_scored=19, pixels=38 * 10**6)
    metrics = ScoreMetrics(first.title)
    metrics.update(replace(first, miou=0.5))
    metrics.update(
        replace(
            first,
            images_done=50,
            images_scored=38,
            pixels=76 * 10**6,
            megapixels_per_second_recent=1.5,
            miou=0.25,
            seconds_left=90.0,
            suspects=3,
            in_flight=[Held("a", "model", 1.0)],
        )
    )
    metrics.update(replace(first, images_done=50, images_scored=38, pixels=76 * 10**6, suspects=3,
                           in_flight=[Held("b", "read", 0.0)]))  # fmt: skip
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}

    def read_all() -> bool:
        page = urllib.request.urlopen(url, timeout=5).read().decode()
        lines = re.findall(r'^ray_fringe_(\w+)\{(?=[^}]*scoring="scoring cells")[^}]*\} (\S+)$', page, re.M)
        found.update((name, float(value)) for name, value in lines)
        return VALUES.keys() <= found.keys() and found["images_done"] == 50

    wait_until(read_all, f"figures of {sorted(VALUES)} at {url}")
    assert {name: found[name] for name in VALUES} == VALUES
