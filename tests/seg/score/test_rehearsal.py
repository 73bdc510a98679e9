import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seg.data.preprocess import IntensityRange
from seg.errors import DataWarning
from seg.ledger.outcome import Scored
from seg.score.rehearsal import (
    Estimate,
    Power,
    Rest,
    averaging_line,
    choose_rehearsal,
    estimate_night,
    ready_line,
    tell_ready,
)
from seg.storage import as_place
from tests.outcomes import make_aside, make_object, make_scored

CPU = Power(workers=4, threads=1, cpus=4, on_gpu=False)
GPU = Power(workers=2, threads=1, cpus=64, on_gpu=True)
EVENING = datetime(2026, 3, 3, 18, 0, tzinfo=UTC)


def scored(image: str = "a.png", *, size: int = 1000, mask: int | None = None, **seconds: float) -> Scored:
    seconds = {f"seconds_{stage}": value for stage, value in seconds.items()}
    return make_scored(image, bytes=size, intensity_mean=50.0, mask_bytes=mask, **seconds)


OUTCOMES = [
    scored("a.png", read=0.4, decode=2.0, model=9.0, write=0.5),  # warms up
    scored("b.png", size=2000, read=0.8, decode=2.4, model=4.0, write=0.8),
    scored("c.png", read=0.5, decode=1.3, model=2.2, write=0.5),
]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (1001, [0, 500, 1000])],
)
def test_a_rehearsal_is_of_the_first_the_middle_and_the_last_image(count: int, chosen: list[int]) -> None:
    assert choose_rehearsal([str(place) for place in range(count)]) == [str(place) for place in chosen]


def test_with_gpus_the_busiest_stage_of_the_workers_is_the_time() -> None:
    # a kilobyte takes at least 0.4 s to read, 1.2 to decode, 2 in the model, 0.4 to write
    estimate = estimate_night([replace(OUTCOMES[0], mask_bytes=400), *OUTCOMES[1:]], Rest(50, 100_000), GPU)
    assert estimate.seconds == pytest.approx(100 * max((0.4 + 1.2) / 3, 2, 0.4 / 2) / 2)
    assert estimate.bytes == 400 * 100_000 // 4000 + 50 * 1000


def test_without_gpus_the_cpus_bound_it() -> None:
    estimate = estimate_night(OUTCOMES, Rest(50, 100_000), CPU)
    assert estimate.seconds == pytest.approx(100 * (1.2 + 0.4 + 2) / 4)


def test_what_an_ensemble_and_views_cost_is_said() -> None:
    assert averaging_line(OUTCOMES, 1, "none", GPU) is None
    pixels = OUTCOMES[2].height * OUTCOMES[2].width  # in 2.2 s, by each of two
    rate = f"{2 * pixels / 2.2e6:.2g} MPix/s"
    assert averaging_line(OUTCOMES, 3, "flips", GPU) == (
        f"3 models, 4 views of each crop: 12 times the work of one model, about {rate}"
    )
    assert averaging_line([make_aside("a.png")], 1, "d4", CPU) == (
        "1 model, 8 views of each crop: 8 times the work of one model"
    )


def test_slow_storage_bounds_a_fast_model() -> None:
    outcomes = [scored(read=6, decode=0.3, model=0.1, write=0.1)]
    estimate = estimate_night(outcomes, Rest(10, 10_000), GPU)
    assert estimate.seconds == pytest.approx(10 * 6.3 / 3 / 2)


def test_objects_count_in_what_is_written() -> None:
    outcomes = [replace(OUTCOMES[2], mask_bytes=100, objects=(make_object("c.png", 0),) * 7)]
    estimate = estimate_night(outcomes, Rest(10, 10_000), CPU)
    assert estimate.bytes == 10 * (100 + 7 * 60) + 10 * 1000


def test_the_line_says_how_long_how_much_and_until_when() -> None:
    estimate = Estimate(20_000, 11 * 3600 + 7 * 60, 14_240_000_000)
    line = "ready, 20000 images, about 11 h 07 min, 14.2 GB, ends at Wed 05:07"
    assert ready_line(estimate, EVENING) == line
    assert ready_line(estimate, EVENING, EVENING + timedelta(hours=13)) == line
    early = EVENING + timedelta(hours=10)
    left = round(20_000 * (3600 + 7 * 60) / (11 * 3600 + 7 * 60))
    assert (
        ready_line(estimate, EVENING, early) == f"{line}; the deadline Wed 04:00 leaves about {left} of them"
    )
    assert ready_line(Estimate(7, None, None), EVENING) == "ready, 7 images, how long they take is not known"
    assert "300.0 kB" in ready_line(Estimate(3, 20.0, 300_000), EVENING)


def test_a_good_rehearsal_is_one_line_with_the_masks_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [replace(outcome, mask_bytes=1000) for outcome in OUTCOMES]
    estimate = tell_ready(outcomes, Rest(4, 4000), as_place(tmp_path), CPU)
    assert estimate.bytes == 3000 + 4 * 1000
    assert capsys.readouterr().err.startswith("ready, 4 images, about 4 s, 7.0 kB, ends at ")


def test_where_all_are_set_aside_it_is_said_loudly_with_the_reasons(tmp_path: Path) -> None:
    aside = [make_aside(f"{k}.png", "empty", detail="the file has no bytes") for k in range(3)]
    text = r"NONE of the 3 images .*: 0.png: empty, the file has no bytes; 1.png: empty, .*; 2.png: empty"
    with pytest.warns(DataWarning, match=text):
        estimate = tell_ready(aside, Rest(4, 4000), as_place(tmp_path), CPU)
    assert (estimate.seconds, estimate.bytes) == (None, None)
    tell_ready([*aside, OUTCOMES[0]], Rest(4, 4000), as_place(tmp_path), CPU)  # one is sound: no warning


def test_images_unlike_the_trainings_are_warned_of(tmp_path: Path) -> None:
    ranges = (IntensityRange(8, 100.0, 120.0, 10.0, 210.0),)
    with pytest.warns(DataWarning, match=r"3 of 3 images \(100.0%\) have another .* the first is a.png"):
        tell_ready(OUTCOMES, Rest(4, 4000), as_place(tmp_path), CPU, ranges=ranges)
    bright = [replace(outcome, intensity_mean=130.0) for outcome in OUTCOMES]
    tell_ready(bright, Rest(4, 4000), as_place(tmp_path), CPU, ranges=ranges)


def test_a_disk_that_is_too_small_is_warned_of(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    images = 2 * free // 1000
    place = as_place(tmp_path / "not" / "there yet")
    with pytest.warns(DataWarning, match=r"there yet` has [\d.]+ [GT]B free, about [\d.]+ [GT]B are needed"):
        tell_ready(OUTCOMES, Rest(images, 1000 * images), place, CPU)
