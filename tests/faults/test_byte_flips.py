"""A flipped bit in what a scoring or a training keeps is noticed, or changes no figure."""

from pathlib import Path

import pytest

from tests.faults.byte_flips import FAILURES, KINDS, LIMITS, SCORES, prepare, run
from tests.watched import call_each

FLIPS = 60
"""Of each file; `python -m tests.faults.byte_flips` makes 1,000."""
UNSEEN = ("summary.json",)
"""What nobody promises: figures of the last command's end."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scoring, made in a process of its own, as the flips are."""
    place = tmp_path_factory.mktemp("flips")
    (((_,), answer),) = call_each(prepare, [(place,)], LIMITS)
    assert answer.kind == "returned", answer.detail
    return place


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNSEEN])
def test_a_flipped_bit_is_named_or_changes_no_figure(scene: Path, kind: str) -> None:
    flips = list(run(scene, [kind], FLIPS, seed=1))
    assert len(flips) >= FLIPS
    assert [flip for flip in flips if flip.verdict in FAILURES] == []


@pytest.mark.long
def test_a_scoring_whose_summary_is_damaged_still_counts_right(scene: Path) -> None:
    flips = [flip for flip in run(scene, ["summary.json"], FLIPS, seed=1) if flip.command == "score"]
    assert {flip.verdict for flip in flips} <= {"same", "same, told", "refused"}
    assert "summary.json" in SCORES
