import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg.report.report import write_review
from seg.report.review import CHECKED, REVIEWED, Candidate, Spread
from tests.cluster.scores import make_row, random_rows, write_scores


def by_dhondt(candidates: list[Candidate], count: int) -> list[str]:
    """One after the other: whichever sequence offers most for its next image gets the turn."""
    left: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (one.confidence, one.image)):
        left.setdefault(one.sequence, []).append(one)
    taken = dict.fromkeys(left, 0)
    chosen = []
    while len(chosen) < count and any(left.values()):
        offers = [((1 - rest[0].confidence) / (taken[name] + 1), name) for name, rest in left.items() if rest]
        best = max(offer for offer, _ in offers)
        name = min((name for offer, name in offers if offer == best), key=lambda name: left[name][0].image)
        chosen.append(left[name].pop(0).image)
        taken[name] += 1
    return chosen


@pytest.mark.parametrize("part", [1, 13, 400])
@pytest.mark.parametrize("sequences", [1, 3, 90])
def test_sequences_take_turns_by_their_uncertainty_whatever_the_parts(part: int, sequences: int) -> None:
    random = np.random.default_rng([part, sequences])
    level = random.random(sequences)  # some sequences are worse than others
    candidates = []
    for number in range(400):
        own = int(random.integers(sequences))
        confidence = round(float(1 - level[own] * random.random()), 2)  # so that there are ties
        candidates.append(Candidate(f"{number:03}", f"s{own}", confidence, []))
    spread = Spread(60)
    for first in range(0, 400, part):
        spread.add(candidates[first : first + part])
    assert [choice.candidate.image for choice in spread.choices] == by_dhondt(candidates, 60)


def test_one_bad_sequence_gets_more_turns_but_not_all() -> None:
    bad = [Candidate(f"bad/{n}", "bad", 0.5 + n / 1000, []) for n in range(100)]
    good = [Candidate(f"good/{n}", "good", 0.8 + n / 1000, []) for n in range(100)]
    spread = Spread(20)
    spread.add(good + bad)
    names = [choice.candidate.sequence for choice in spread.choices]
    assert names[0] == "bad"
    assert 12 <= names.count("bad") <= 16


def read_review(folder: Path, rows: list[dict[str, Any]], **run: Any) -> list[dict[str, str]]:
    write_review(write_scores(folder, rows, part=256, **run))
    with (folder / "review.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_unlabelled_images_come_first_then_labels_to_check(tmp_path: Path) -> None:
    rows = random_rows(30, seed=2, unlabelled=12)
    found = read_review(tmp_path, rows)
    by_name = {row["image"]: row for row in rows}
    assert [row["rank"] for row in found] == [str(rank) for rank in range(1, 30)]  # one has no pixel
    assert [by_name[row["image"]]["labelled"] for row in found] == [False] * 12 + [True] * 17
    mious = [float(row["miou"]) for row in found[12:]]
    assert mious == sorted(mious)
    assert all(row["miou"] == "" for row in found[:12])
    for row in found:
        own = by_name[row["image"]]
        assert float(row["confidence"]) == pytest.approx(own["confidence"], abs=1e-6)
        pixels = [int(row[f"pixels_{name}"]) for name in ("background", "disc", "dust")]
        assert pixels == own["class_pixels"]
    first = min((row for row in rows if not row["labelled"]), key=lambda row: row["confidence"])
    where = first["image"].partition("/")[0]
    assert (found[0]["image"], found[0]["reason"]) == (
        first["image"],
        f"to label: no. 1 by least confidence in {where}",
    )
    assert found[12]["reason"].startswith("to check: no. 1 by lowest mIoU")


def test_the_list_ends_after_a_thousand_rows_and_keeps_room_for_checks(tmp_path: Path) -> None:
    rows = random_rows(REVIEWED + 500, seed=3, unlabelled=REVIEWED + 200)
    found = read_review(tmp_path, rows)
    assert len(found) == REVIEWED
    assert sum(row["miou"] != "" for row in found) == CHECKED
    assert len({row["image"] for row in found}) == REVIEWED


def test_sequences_are_those_of_the_recipe(tmp_path: Path) -> None:
    rows = [make_row(f"run{n % 2}_{n}.png", None, confidence=0.5 + n / 100) for n in range(4)]
    found = read_review(tmp_path, rows, sequence=r"run\d")
    assert [row["reason"].rpartition(" ")[2] for row in found] == ["run0", "run1", "run0", "run1"]


def test_names_with_commas_quotes_and_line_ends_come_back(tmp_path: Path) -> None:
    names = {'a, "b".png', "c\nd.png", "ü.png"}
    rows = [make_row(name, None) for name in names]
    assert {row["image"] for row in read_review(tmp_path, rows)} == names
    assert all(row["reason"].endswith("in the top folder") for row in read_review(tmp_path / "again", rows))
