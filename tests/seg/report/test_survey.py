from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.listing import natural_key
from seg.errors import DamagedFile
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import LEDGER_SCHEMA, Scored, to_table
from seg.ledger.parts import OBJECT_COUNTS, PartName, Parts
from seg.report.page import DRIFT_BINS, distributions, drifts, object_figures
from seg.report.report import gather, write_report, write_review
from seg.report.survey import Lowest, Survey, natural_order, read_scores
from seg.storage import Place
from tests.cluster.scores import make_row, random_rows, write_scores
from tests.outcomes import make_aside, make_object, make_scored

CLASSES = ("background", "disc", "dust")
NAMES = st.text(st.sampled_from("ab/.-_#0129é٣"), min_size=1, max_size=8)


@given(st.lists(NAMES, unique=True))
def test_names_sort_as_the_archive_does(names: list[str]) -> None:
    order = natural_order(pa.chunked_array([names[:2], names[2:]], pa.string()))
    assert [names[place] for place in order] == sorted(names, key=natural_key)


@pytest.mark.parametrize("part", [1, 7, 64])
def test_the_lowest_of_a_stream_are_those_of_the_whole(part: int) -> None:
    values = np.random.default_rng(part).integers(0, 9, 64).astype(float)
    values[::5] = np.nan
    names = [f"{n:02}" for n in range(64)]
    lowest = Lowest(10)
    for first in range(0, 64, part):
        chosen = slice(first, first + part)
        lowest.add(values[chosen], to_table(list(map(make_scored, names[chosen])), LEDGER_SCHEMA))
    expected = sorted((value, name) for value, name in zip(values, names, strict=True) if value >= 0)
    assert [(value, image.image) for value, image in lowest.ranked] == expected[:10]


def read_survey(folder: Path, rows: list[dict[str, Any]], part: int = 7) -> Survey:
    return Survey(Ledger(write_scores(folder, rows, part=part)), 3)


def mean_iou(flat: list[int]) -> float:
    """By whole numbers and fractions, class by class."""
    matrix = [flat[0:3], flat[3:6], flat[6:9]]
    ratios = []
    for c in range(3):
        union = sum(matrix[c]) + sum(row[c] for row in matrix) - matrix[c][c]
        ratios += [Fraction(matrix[c][c], union)] if union else []
    return float(sum(ratios) / len(ratios)) if ratios else float("nan")


@pytest.mark.parametrize("part", [1, 7, 100])
def test_a_survey_has_every_images_numbers_in_the_archives_order_and_the_exact_sums(
    tmp_path: Path, part: int
) -> None:
    rows = random_rows(40, seed=1, unlabelled=11)
    for number, row in enumerate(rows):
        if row["labelled"]:
            row.update({name: [number, 2, place] for place, name in enumerate(OBJECT_COUNTS)})
    survey = read_survey(tmp_path, rows, part)
    by_name = {row["image"]: row for row in rows}
    images = survey.by_image()
    names = [images.name(place) for place in range(len(images))]
    assert names == sorted(by_name, key=natural_key)
    for place, name in enumerate(names):
        row = by_name[name]
        assert images.confidence[place] == row["confidence"]
        assert images.intensity[place] == row["intensity_mean"]
        expected = mean_iou(row["confusion"]) if row["labelled"] else float("nan")
        assert images.miou[place] == pytest.approx(expected, rel=1e-14, nan_ok=True)  # two roundings
    counted = [row for row in rows if row["labelled"]]
    assert survey.totals.labelled == len(counted) == 29
    total = [sum(row["confusion"][k] for row in counted) for k in range(9)]
    assert survey.totals.confusion.ravel().tolist() == total
    assert survey.totals.class_pixels.tolist() == [
        sum(row["class_pixels"][c] for row in rows) for c in range(3)
    ]
    assert [getattr(survey.totals, name).tolist() for name in OBJECT_COUNTS] == [
        [sum(row[name][c] for row in counted) for c in range(3)] for name in OBJECT_COUNTS
    ]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each part was read, by its folder and stem."""
    counted: Counter[str] = Counter()
    read = Parts.read

    def read_and_count(self: Parts, part: PartName, columns: list[str] | None = None) -> Any:
        counted[f"{self.folder}/{part.stem}"] += 1
        return read(self, part, columns)

    monkeypatch.setattr(Parts, "read", read_and_count)
    return counted


def write_mixed(folder: Path) -> Place:
    """Scores with objects and a quarantine, in several parts."""
    first, *rows = random_rows(40, seed=7, unlabelled=9)
    first["objects"] = (make_object(first["image"], 0),)
    return write_scores(folder, [first, make_aside("z/1.png"), *rows, make_aside("z/2.png", "empty")])


def test_report_and_review_of_one_survey_read_each_part_once(tmp_path: Path, reads: Counter[str]) -> None:
    place = write_mixed(tmp_path)
    survey = read_scores(place).survey()
    write_report(place, report=gather(place, survey))
    write_review(place, survey=survey)
    assert {name.partition("/")[0] for name in reads} == {"ledger", "objects", "quarantine"}
    assert set(reads.values()) == {1}


def test_a_survey_kept_current_reads_new_parts_alone_and_is_that_of_the_whole(
    tmp_path: Path, reads: Counter[str]
) -> None:
    place = write_mixed(tmp_path)
    ledger = Ledger(place)
    survey = Survey(ledger, 3)
    for number in range(3):
        labelled = make_row(f"new/{number}.png", np.diag([9, number, 0]), confidence=0.01 * number)
        ledger.add(
            [Scored(**labelled), make_aside(f"new/bad{number}.png"), Scored(**make_row(f"x{number}", None))]
        )
        ledger.commit()
        survey.update()
    survey.update()
    assert set(reads.values()) == {1}
    pages = []
    for known in (survey, None):
        write_report(place, report=gather(place, known))
        write_review(place, survey=known)
        pages.append([place.read(name) for name in ("report.html", "review.csv")])
    assert pages[0] == pages[1]
    assert survey.reason_counts == {"truncated": 4, "empty": 1}
    images = ["new/1.png", "new/bad1.png", "nowhere.png"]
    assert survey.find_finished(images).tolist() == [True, False, False]
    assert survey.find_quarantined(images).tolist() == [False, True, False]


def test_of_many_names_those_that_are_there_are_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    survey = Survey(ledger, 2)
    assert survey.find_finished(["a", "b"]).tolist() == [False, False]
    ledger.add([make_scored("b"), make_aside("c"), make_scored("é/ü.png")])
    ledger.commit()
    survey.update()
    assert survey.find_finished(["a", "b", "c", "é/ü.png"]).tolist() == [False, True, False, True]
    assert survey.find_quarantined(["a", "b", "c"]).tolist() == [False, False, True]
    assert survey.find_finished([]).tolist() == []


def test_an_update_that_was_broken_off_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_mixed(tmp_path)
    ledger = Ledger(place)
    survey = Survey(ledger, 3)
    for image in ("new/1.png", "new/2.png"):
        ledger.add([Scored(**make_row(image, np.diag([9, 1, 0])))])
        ledger.commit()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(survey.least_confident, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            survey.update()
    survey.update()
    whole = Survey(Ledger(place), 3)
    assert survey.totals.confusion.tolist() == whole.totals.confusion.tolist()
    assert len(survey.by_image()) == len(whole.by_image()) == 42


def test_an_image_in_two_parts_is_refused_by_name(tmp_path: Path) -> None:
    rows = random_rows(2, seed=0)
    place = write_scores(tmp_path, [*rows, rows[0]], part=1)
    with pytest.raises(DamagedFile, match=f"image {rows[0]['image']} is there twice, in .* and in "):
        read_scores(place).survey()


@pytest.mark.parametrize("count", [2, 12, 19, 163, 1200])
def test_drift_has_the_percentiles_of_neighbours_in_the_archives_order(tmp_path: Path, count: int) -> None:
    rows = random_rows(count, seed=3, unlabelled=count)
    drift, confidence = drifts(read_survey(tmp_path, rows, 300).by_image())
    assert (drift.title, confidence.title) == ("Intensity", "Confidence")  # no labels, so no mIoU
    values = [row["intensity_mean"] for row in sorted(rows, key=lambda row: natural_key(row["image"]))]
    assert len(drift.bins) <= DRIFT_BINS
    lowest, highest = (float(text.replace(",", "")) for text in (drift.ticks[0][1], drift.ticks[-1][1]))
    ends = 0.0
    for one in drift.bins:
        assert one.left == pytest.approx(ends)
        ends = one.right
        group = values[round(one.left * count) : round(one.right * count)]
        for level, percent in ((one.low, 10), (one.median, 50), (one.high, 90)):
            found = lowest + level * (highest - lowest)
            assert found == pytest.approx(np.percentile(group, percent), abs=1e-9 * highest)
    assert ends == pytest.approx(1)


def test_depths_are_brought_to_one_scale_only_where_they_differ(tmp_path: Path) -> None:
    rows = [make_row("a.png", None, intensity_mean=255.0, confidence=0.25)]
    rows.append(make_row("b.png", None, intensity_mean=65535 / 2, bit_depth=16, confidence=0.75))
    drift, _ = drifts(read_survey(tmp_path, rows).by_image())
    assert drift.title == "Intensity, as a share of the full range"
    assert [one.title for one in drift.bins] == ["a.png: 1", "b.png: 0.5"]


def test_a_distribution_counts_every_image_that_has_the_figure(tmp_path: Path) -> None:
    rows = random_rows(60, seed=4, unlabelled=20)
    found = distributions(read_survey(tmp_path, rows).by_image())
    mious = [mean_iou(row["confusion"]) for row in rows if row["labelled"]]
    assert sum(found[0].counts) == sum(miou >= 0 for miou in mious) == 39  # one has no pixel
    assert found[0].counts[3] == sum(0.15 <= miou < 0.2 for miou in mious)
    assert sum(found[1].counts) == 60


def test_objects_have_the_ratios_of_their_sums_and_counts_by_class(tmp_path: Path) -> None:
    rows = random_rows(3, seed=5)
    for place, counts in enumerate(((5, 1, 0), (1, 0, 3), (0, 2, 0))):  # found, missed, invented
        rows[place] |= {name: [0, count, 0] for name, count in zip(OBJECT_COUNTS, counts, strict=True)}
    survey = read_survey(tmp_path, rows)
    for ids, areas, touching in (([1, 1, 2], [70, 90, 65], [True, False, False]), ([2], [100], [True])):
        columns = {"class_id": pa.array(ids, pa.int16()), "area": areas, "touches_border": touching}
        survey.objects.add(pa.table(columns))
    disc, dust = object_figures(survey, CLASSES)
    assert (disc.name, disc.found, disc.missed, disc.invented) == ("disc", 6, 3, 3)
    assert (disc.precision, disc.recall, disc.f1) == (6 / 9, 6 / 9, 12 / 18)
    assert (disc.predicted, disc.mean_area, disc.at_border) == (2, 80, 0.5)
    assert (dust.predicted, dust.mean_area, dust.at_border) == (2, 82.5, 0.5)
    assert np.isnan([dust.precision, dust.recall, dust.f1]).all()
