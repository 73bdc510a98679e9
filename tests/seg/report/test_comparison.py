import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg.data.listing import natural_key
from seg.errors import RequestError
from seg.metrics import iou, mean_present
from seg.report.comparison import (
    Comparison,
    PairedSums,
    compare,
    draw_forest,
    resample,
    spread_changes,
    write_comparison,
)
from seg.storage import as_place
from tests.cluster.scores import make_row, random_rows, write_scores
from tests.small import write_image

CLASSES = ("background", "disc", "dust")


def matrix_of(row: dict[str, Any]) -> np.ndarray:
    return np.reshape(row["confusion"], (3, 3))


def compare_rows(
    folder: Path, one: list[dict[str, Any]], other: list[dict[str, Any]], **run: Any
) -> Comparison:
    write_scores(folder / "A", one)
    write_scores(folder / "B", other, **run)
    return compare(as_place(folder / "A"), as_place(folder / "B"))


def random_pair(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same labelled images scored twice; each has an image of its own and one that is not labelled."""
    one, other = random_rows(count, seed=7), random_rows(count, seed=8)
    one += [make_row("only/a.png", np.eye(3, dtype=int)), make_row("both.png", None)]
    other += [make_row("only/b.png", None), make_row("both.png", np.eye(3, dtype=int))]
    return one, other


def test_figures_are_those_of_the_images_that_both_have_with_a_label(tmp_path: Path) -> None:
    one, other = random_pair(40)
    found = compare_rows(tmp_path, one, other)
    matrices = [np.sum([matrix_of(row) for row in rows[:40]], 0) for rows in (one, other)]
    assert (found.images, found.unlabelled, found.other_bytes) == (40, 1, 0)
    assert (found.miou.a, found.miou.b) == pytest.approx([mean_present(iou(m)) for m in matrices])
    for c, row in enumerate(found.classes):
        assert (row.name, row.a, row.b) == (CLASSES[c], *(iou(matrix)[c] for matrix in matrices))
    assert (found.only_a.count, found.only_a.images) == (1, ["only/a.png"])
    assert (found.only_b.count, found.only_b.images) == (1, ["only/b.png"])

    by_name = [
        {row["image"]: mean_present(iou(matrix_of(row))) for row in rows[:40]} for rows in (one, other)
    ]
    changes = {name: by_name[1][name] - by_name[0][name] for name in by_name[0]}
    in_order = sorted(changes, key=natural_key)
    assert found.changes.tolist() == pytest.approx([changes[name] for name in in_order], nan_ok=True)
    ranked = sorted((name for name in in_order if abs(changes[name]) > 0), key=lambda name: changes[name])
    assert [row.image for row in found.worse] == [name for name in ranked if changes[name] < 0]
    assert [row.image for row in found.better] == [name for name in ranked if changes[name] > 0][::-1]
    for row in found.better + found.worse:
        assert [row.a, row.b] == pytest.approx([ratios[row.image] for ratios in by_name])


def test_a_scoring_is_no_better_than_itself(tmp_path: Path) -> None:
    rows = random_rows(30, seed=1)
    found = compare_rows(tmp_path, rows, rows[::-1])
    assert (found.miou.change, found.miou.interval.low, found.miou.interval.high) == (0, 0, 0)
    assert (found.better, found.worse, found.better_share, found.settings) == ([], [], 0.5, [])


def test_what_differs_between_the_runs_is_named(tmp_path: Path) -> None:
    one, other = random_rows(3, seed=1), random_rows(3, seed=2)
    other[0]["sha256"] = "another"
    found = compare_rows(tmp_path, one, other, halo_px=32, preprocessing={"shrink": 3})
    assert found.settings == [("halo_px", None, 32), ("preprocessing.shrink", None, 3)]
    assert found.other_bytes == 1


def refuse(folder: Path, one: list[dict[str, Any]], other: list[dict[str, Any]], **run: Any) -> str:
    with pytest.raises(RequestError) as error:
        compare_rows(folder, one, other, **run)
    return str(error.value).replace(f"{folder}/", "")


def test_scorings_that_cannot_be_compared_are_refused_with_the_difference(tmp_path: Path) -> None:
    rows = random_rows(9, seed=1)
    relabelled = [row | {"label_sha256": "new"} if "/3" in row["image"] else row for row in rows]
    said = "the label of s0/3.png differs between A and B; score the older one again"
    assert refuse(tmp_path / "1", rows, relabelled) == said
    said = "A and B have different label_map (none; [3, 255]); compare scorings of the same labels"
    assert refuse(tmp_path / "2", rows, rows, label_map=[[3, 255]]) == said
    others = [make_row(f"x{n}.png", np.eye(3, dtype=int)) for n in range(3)]
    said = "A and B have no labelled image in common; compare others"
    assert refuse(tmp_path / "3", rows, others) == said
    write_scores(tmp_path / "4/A", rows)
    place = write_scores(tmp_path / "4/B", rows, classes=["sky", "road", "car"])
    with pytest.raises(RequestError, match=r"different classes \(background, disc, dust; sky, road, car\)"):
        compare(as_place(tmp_path / "4/A"), place)


def paired_sums(count: int, *, gain: float, seed: int = 0) -> PairedSums:
    """Random images; in the second scoring a share of each union is hit besides."""
    random = np.random.default_rng(seed)
    unions = random.integers(50, 1000, (count, 3)) * (random.random((count, 3)) < 0.8)
    hits = (unions * random.random((count, 3))).astype(np.int64)
    noise = (gain * unions * random.random((count, 3))).astype(np.int64)
    return PairedSums(hits, unions, np.minimum(hits + noise, unions), unions)


def test_a_resample_is_the_data_sets_ratios_of_images_drawn_with_replacement() -> None:
    """The same draws, image by image; the product must be exact also across its blocks."""
    sums, random = paired_sums(50, gain=0.3), np.random.default_rng(5)
    found = resample(sums, resamples=40, seed=5)
    for k in range(40):
        drawn = random.integers(50, size=50)
        totals = [[int(values[drawn, c].sum()) for c in range(3)] for values in (sums.hits_a, sums.hits_b)]
        unions = [int(sums.unions_a[drawn, c].sum()) for c in range(3)]
        differences = [(b - a) / union for a, b, union in zip(*totals, unions, strict=True)]
        assert found.iou[k] == pytest.approx(differences, rel=1e-12)  # a difference of two roundings
        assert found.miou[k] == pytest.approx(np.mean(differences), rel=1e-12)


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = paired_sums(50, gain=0.3)
    whole = resample(sums, resamples=40)
    monkeypatch.setattr("seg.report.comparison.CHUNK", 350)  # seven at a time
    assert np.array_equal(resample(sums, resamples=40).iou, whole.iou)


def test_the_interval_is_as_wide_as_theory_says_of_a_mean() -> None:
    """With unions all alike, IoU is a mean over images, and its standard error is known."""
    random = np.random.default_rng(2)
    hits_a, hits_b = random.integers(0, 1000, (2, 400, 1))
    unions = np.full((400, 1), 1000)
    interval = resample(PairedSums(hits_a, unions, hits_b, unions)).interval()
    changes = (hits_b - hits_a)[:, 0] / 1000
    half = 1.96 * changes.std() / 20
    assert interval.low == pytest.approx(changes.mean() - half, abs=0.1 * half)  # 2000 resamples: 3 % noise
    assert interval.high == pytest.approx(changes.mean() + half, abs=0.1 * half)


def test_an_interval_without_zero_is_where_one_is_better_in_nearly_all_resamples() -> None:
    for gain, low, high in ((0.5, 0.999, 1.0), (0.0, 0.5, 0.5)):
        samples = resample(paired_sums(60, gain=gain))
        assert low <= samples.better_share() <= high
        assert (samples.interval().low > 0) == (gain > 0)


def test_a_class_that_nothing_shows_has_no_interval_and_no_place_in_the_plot(tmp_path: Path) -> None:
    matrix = np.diag([9, 5, 0])
    rows = [make_row(f"{n}.png", matrix + np.diag([0, n, 0])) for n in range(4)]
    other = [make_row(f"{n}.png", matrix + np.array([[0, n, 0], [0, 0, 0], [0, 0, 0]])) for n in range(4)]
    found = compare_rows(tmp_path, rows, other)
    assert np.isnan([found.classes[2].change, found.classes[2].interval.low]).all()
    forest = draw_forest([found.miou, *found.classes])
    assert forest.places[3] is None
    low, middle, high = forest.places[0] or (0, 0, 0)
    assert 0 <= low <= middle <= high <= forest.zero  # worse
    assert [text for place, text in forest.ticks if place == forest.zero] == ["0"]


def test_changes_are_spread_over_an_axis_with_no_change_in_its_middle() -> None:
    changes = spread_changes(np.array([0.2, -0.1, 0.0, np.nan, 0.0]))
    assert (changes.better, changes.same, changes.worse, changes.most) == (1, 2, 1, 0.2)
    assert (changes.counts[20], changes.counts[-1], sum(changes.counts)) == (2, 1, 4)


@pytest.fixture
def pictured(tmp_path: Path) -> tuple[Path, Path]:
    """Two scorings with masks of an archive of two images, one of them with a name that is HTML."""
    truth = np.zeros((10, 12), np.uint8)
    truth[2:6] = 1
    names = ("s/<b>#1.png", "s/2.png")
    for name in names:
        write_image(tmp_path / "archive" / name, truth * 80)
        write_image(tmp_path / "labels" / f"{name}.png", truth)
    run: dict[str, Any] = {
        "archive": str(tmp_path / "archive"),
        "labels": str(tmp_path / "labels"),
        "masks": "png",
    }
    for folder, moved in (("A", (1, 0)), ("the B", (0, 2))):
        rows = []
        for name, step in zip(names, moved, strict=True):
            ids = np.roll(truth, step, 0)
            matrix = np.array([[((truth == t) & (ids == p)).sum() for p in range(3)] for t in range(3)])
            write_image(tmp_path / "scores" / folder / "masks" / f"{name}.png", ids)
            rows.append(make_row(name, matrix, label_path=f"{name}.png", sha256="old"))
        write_scores(tmp_path / "scores" / folder, rows, **run)
    return tmp_path / "scores/A", tmp_path / "scores/the B"


def test_the_page_is_beside_a_whole_and_its_links_are_files(pictured: tuple[Path, Path]) -> None:
    from urllib.parse import unquote

    one, other = map(as_place, pictured)
    where = write_comparison(compare(one, other), one, other, None)
    assert where == f"{pictured[0]}/comparison-the B.html"
    source = Path(where).read_text()
    assert not re.search(r"https?://|url\(|@import|<link|srcset", source)
    assert all(link.startswith("data:image/") for link in re.findall(r'src="([^"]*)', source))
    links = re.findall(r'href="([^"]*)', source)
    assert len(links) == 6  # the image and two masks of the better one and of the worse one
    assert all((pictured[0] / unquote(link)).is_file() for link in links)
    assert source.count("<figcaption>prediction B</figcaption>") == 2
    assert source.count('alt="truth of') == 2
    assert "<b>#1" not in source
    assert "&lt;b&gt;#1.png" in source


def test_without_masks_or_files_the_page_still_has_its_tables(
    pictured: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = map(as_place, pictured)
    shutil.rmtree(pictured[1] / "masks")
    shutil.rmtree(tmp_path / "archive")
    where = write_comparison(compare(one, other), one, other, tmp_path / "page.html")
    source = Path(where).read_text()
    assert "The mask of B can no longer be read: No such file or directory." in source
    assert "The image can no longer be read: No such file or directory." in source
