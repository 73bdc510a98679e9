import os
from pathlib import Path

import pytest

from cluster.score import look_only, score
from cluster.session import Session
from seg.errors import DataWarning
from seg.ledger.ledger import Ledger
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.conftest import WriteArchive
from tests.small import read_tree, write_model


def ask(tmp_path: Path, **options: object) -> ScoreRequest:
    words = {
        "archive": as_place(tmp_path / "archive"),
        "models": (tmp_path / "model.safetensors",),
        "out": as_place(tmp_path / "out"),
        "workers": 0,
    }
    return ScoreRequest(**(words | options))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("always:NONE of the 3 images of the rehearsal")
def test_a_dry_run_counts_what_the_same_command_would_score(
    write_archive: WriteArchive, tmp_path: Path, idle: Session
) -> None:
    """Of five images the first is bad and the second is scored, and changed where changes are asked for."""
    archive = write_archive(sequences=2, frames=2)
    write_model(tmp_path / "model.safetensors")
    (archive / "images" / "a.png").write_bytes(b"")
    score(ask(tmp_path, limit=2), idle)
    (scored,) = Ledger(tmp_path / "out").finished_images()
    time_ns = (archive / "images" / scored).stat().st_mtime_ns
    before = read_tree(tmp_path / "out")
    for options, counts in (
        ({}, (1, 1, 3)),
        ({"limit": 2}, (1, 1, 0)),
        ({"limit": 1}, (0, 1, 0)),
        ({"retry_quarantined": True}, (1, 0, 4)),
        ({"rescore_changed": True}, (0, 1, 4)),
        ({"rescore_changed": True, "limit": 2}, (0, 1, 1)),
    ):
        later = 10**9 * ("rescore_changed" in options)
        os.utime(archive / "images" / scored, ns=(time_ns + later, time_ns + later))
        plan = look_only(ask(tmp_path, **options), idle).plan
        assert (plan.finished, plan.quarantined, len(plan.pending)) == counts, options
    assert read_tree(tmp_path / "out") == before


def test_a_dry_run_is_loud_where_few_label_files_fit_and_shows_their_pixels(
    write_archive: WriteArchive, tmp_path: Path, idle: Session
) -> None:
    archive = write_archive(sequences=1, frames=3)
    write_model(tmp_path / "model.safetensors")
    masks = archive / "masks"
    for frame in (1, 2):
        (masks / f"s0/{frame}.png").rename(masks / f"s0/{frame}_mask.png")
    for options in ({}, {"archive": as_place(archive / "images"), "labels": as_place(masks)}):
        with pytest.warns(DataWarning, match=r"ONLY 1 of its 3 label files .* unused: s0/1_mask.png"):
            labels = look_only(ask(tmp_path, limit=1, **options), idle).labels
        assert labels is not None
        assert (labels.looked_at, labels.pixels[-1], labels.pixels[:-1].sum()) == (1, 96, 63 * 96)
