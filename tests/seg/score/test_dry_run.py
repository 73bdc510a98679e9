import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from seg.data.formats.header import Header
from seg.data.listing import Listing, list_images
from seg.ledger.outcome import Outcome
from seg.recipe import Tiling
from seg.score import dry_run as dry_run_tables
from seg.score.dry_run import (
    DryRun,
    Findings,
    HeaderSurvey,
    LabelSurvey,
    Truth,
    dry_run,
    survey_headers,
)
from seg.score.pipeline import ImageScorer
from seg.score.queue import Order
from seg.score.read import ScorerSettings
from seg.score.rehearsal import Estimate, Power
from seg.storage import Place, as_place
from seg.words import file_size
from tests.outcomes import make_aside, make_scored
from tests.small import read_tree, write_model, write_odd_archive

POWER = Power(workers=2, threads=1, cpus=2, on_gpu=False)
BAD = {"bad.png": ("unreadable", b"no image\n" * 9), "a/empty.tif": ("empty", b"")}


LISTING = Listing([f"{k}.png" for k in range(10)], {".md": 3}, np.ones(10, np.int64), np.ones(10, np.int64))
KINDS = Counter({Header("PNG", 9, width, 1, 8): 1 for width in range(1, 21)})
FOUND = Findings(
    plan=DryRun(
        archive=as_place("/a/rather/long/name" * 9),
        listing=LISTING,
        labels=LISTING.images,
        sequences=1,
        finished=0,
        quarantined=0,
        pending=LISTING.images,
        truth=Truth(
            place=as_place("/labels"),
            names={},
            classes=("background", "a class with a rather long name"),
            label_map=(),
            trained=(0.93, 0.07),
        ),
        out=as_place("/scores/x"),
        power=Power(workers=1, threads=1, cpus=1, on_gpu=False),
    ),
    headers=HeaderSurvey(KINDS, {"empty": [("folder/" * 20 + f"{k}.png", "no bytes") for k in range(5)]}),
    labels=LabelSurvey(
        np.array([10**6, 12, 7]), 59, [(f"{k}.png", "label x/y.png is of another size") for k in range(5)]
    ),
    timed=[make_scored("a.png"), make_aside("b.png", detail="the file ends after 10 bytes")],
    estimate=Estimate(10, 7200.0, 3 * 10**12),
    bytes_free=2 * 10**9,
)
"""More kinds and bad headers than are listed, and a disk that is too small."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of odd images of which two have bad headers."""
    write_odd_archive(tmp_path / "archive")
    images = tmp_path / "archive" / "images"
    for name, (_, content) in BAD.items():
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(content)
    return images


def plan_of(archive: Path, out: Path, **other: Any) -> DryRun:
    listing = list_images(as_place(archive))
    plan = DryRun(
        archive=as_place(archive),
        listing=listing,
        labels=listing.images[:3],
        sequences=4,
        finished=2,
        quarantined=1,
        pending=listing.images[3:],
        out=as_place(out),
        power=POWER,
    )
    return replace(plan, **other)


@pytest.fixture
def scorer_settings(archive: Path, tmp_path: Path) -> ScorerSettings:
    return ScorerSettings(
        archive=as_place(archive),
        labels=None,
        out=as_place(tmp_path / "out"),
        models=(write_model(tmp_path / "model.safetensors"),),
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        batch=1,
        precision="float32",
        threads=1,
    )


class Sampler:
    """Scores a sample as a job does, in this process, and remembers which and where."""

    def __init__(self, settings: ScorerSettings) -> None:
        self.settings, self.images, self.files = settings, [], {}

    def __call__(self, images: list[str], scratch: Place) -> Iterator[Outcome]:
        self.images = images
        with closing(ImageScorer(replace(self.settings, out=scratch), "cpu")) as scorer:
            yield from scorer.score(map(Order, images))
        self.files = read_tree(scratch.local())


def test_a_dry_run_tells_what_there_is_and_writes_nothing(
    archive: Path, tmp_path: Path, scorer_settings: ScorerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_tree(tmp_path)
    plan, sampler = plan_of(archive, tmp_path / "out"), Sampler(scorer_settings)
    found = dry_run(plan, sampler)
    assert read_tree(tmp_path) == before
    images = plan.listing.images
    assert found.headers.read == len(images)
    num_bytes = sum((archive / image.partition("#")[0]).stat().st_size for image in images)
    bad = {image: reason for reason, bads in found.headers.bad.items() for image, _ in bads}
    assert bad == {image: reason for image, (reason, _) in BAD.items()}
    kinds = found.headers.kinds
    assert kinds.total() == len(images) - 2
    looks = [(kind.format, kind.bit_depth, kind.channels) for kind in kinds.elements()]
    assert looks.count(("TIFF", 16, 3)) == 1
    sound = [image for image in plan.pending if image not in BAD]
    assert (
        [one.image for one in found.timed] == sampler.images == [sound[0], sound[len(sound) // 2], sound[-1]]
    )
    masks = sum(len(content) for name, content in sampler.files.items() if name.startswith("masks/"))
    assert masks > 0
    assert found.estimate.bytes is not None
    assert found.estimate.bytes > 1000 * len(plan.pending)
    assert found.estimate.seconds
    shown = capsys.readouterr().out
    assert re.search(rf"images +{len(images):,}, {file_size(num_bytes)} *\n", shown)
    assert re.search(rf"labelled +3 \({3 / len(images):.1%}\) *\n", shown)
    assert re.search(rf"to score +{len(images) - 3} *\n", shown)
    wanted = (f"archive {archive}", "1 .md", "2 in the ledger, 1 in quarantine", "bad.png: the content is no")
    for text in (*wanted, "16 bit RGB", "130 x 97", "with 2 workers", " free in "):
        assert text in shown
    assert "│" not in shown  # off a terminal it is plain


def test_a_dry_run_counts_the_pixels_of_labels_by_class_as_the_night_will(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {image: label for image, label in write_odd_archive(archive.parent).items() if label is not None}
    expected = [0, 0, 0]
    for label in labels.values():
        mask = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        for number, stored in enumerate((0, 1, 255)):
            expected[number] += int(np.count_nonzero(mask == stored))
    (archive.parent / "masks" / "bad.png.png").write_bytes(b"")  # its image has a bad header
    (archive.parent / "masks" / "s1" / "frame-10.png").write_bytes(b"no mask")
    names = {image: label.relative_to(archive.parent / "masks").as_posix() for image, label in labels.items()}
    names |= {"bad.png": "bad.png.png", "s1/frame-10.png": "s1/frame-10.png"}
    truth = Truth(
        place=as_place(archive.parent / "masks"),
        names=names,
        classes=("background", "disc"),
        label_map=(),
        trained=(0.93, 0.07),
    )
    plan = plan_of(archive, tmp_path / "out", pending=[], truth=truth, labels=names)
    found = dry_run(plan, lambda images, scratch: []).labels
    assert found is not None
    assert found.pixels.tolist() == expected
    assert [image for image, _ in found.bad] == ["s1/frame-10.png"]
    assert found.looked_at == len(labels) + 1
    shown = capsys.readouterr().out
    share = expected[1] / sum(expected[:2])
    assert re.search(rf"disc +{expected[1]:,} +{share:.2%} +7.00%", shown)
    assert f"labels, {len(labels) + 1} of {len(labels) + 2}" in shown
    assert "frame-10.png  label" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_tables_that_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(dry_run_tables, "open_console", lambda **_: console)
    with console.capture() as captured:
        dry_run_tables.print_dry_run(FOUND)
    lines = captured.get().splitlines()
    assert sum("│" in line for line in lines) > 20
    assert max(map(len, lines)) <= width


def test_where_nothing_is_left_the_time_is_not_guessed(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(images: list[str], scratch: Place) -> list[dict[str, Any]]:
        raise AssertionError(images)

    found = dry_run(plan_of(archive, tmp_path / "out", pending=[]), never)
    assert (found.estimate.seconds, found.timed) == (None, [])
    assert "not known: nothing to score" in capsys.readouterr().out


def test_of_a_large_archive_some_headers_are_read_from_its_first_image_to_its_last(archive: Path) -> None:
    names = ["a/empty.tif", *["s1/frame-2.png"] * 500, "bad.png", *["s1/frame-2.png"] * 500, "a/empty.tif"]
    survey = survey_headers(as_place(archive), names, limit=3)
    assert survey.read == 3
    bad = sorted(image for found in survey.bad.values() for image, _ in found)
    assert bad == ["a/empty.tif", "a/empty.tif", "bad.png"]
    assert survey_headers(as_place(archive), names).read == len(names)


def test_a_file_that_is_gone_is_a_bad_header(archive: Path) -> None:
    survey = survey_headers(as_place(archive), ["gone.png"])
    ((image, detail),) = survey.bad["unreadable"]
    assert (image, "gone.png cannot be read" in detail) == ("gone.png", True)


def test_what_does_not_fit_the_disk_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    dry_run_tables.print_dry_run(FOUND)
    shown = capsys.readouterr().out
    assert "about 3.0 TB, 2.0 GB free in /scores/x; NOT ENOUGH" in shown
    assert "8 more" in shown
    assert "and 2 more" in shown
    assert "b.png: truncated, the file ends after 10 bytes" in shown
    assert "2 h 00 min with 1 worker, besides" in shown
    dry_run_tables.print_dry_run(replace(FOUND, bytes_free=None))
    assert "about 3.0 TB in /scores/x " in capsys.readouterr().out
