import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster import crop_sharding
from cluster.crop_sharding import CropPredictor, ImageAssembly, Share, score_crops
from cluster.session import Session
from seg.ledger.outcome import Outcome, Quarantined, Scored
from seg.model_card import ModelCard
from seg.model_file import read_model
from seg.recipe import Preprocessing, Tiling
from seg.score.predict import ImageScorer
from seg.score.queue import Order, WorkersKeepDying
from seg.score.read import ImageReader, ScorerSettings, Work
from seg.storage import as_place
from tests.small import read_tree, write_image, write_model, write_odd_archive

CLOCKS = dict.fromkeys(("seconds_read", "seconds_decode", "seconds_model", "seconds_write", "finished_at"))


@pytest.fixture
def labels(tmp_path: Path) -> dict[str, Path | None]:
    """An archive of odd images, one of several windows, one that is none."""
    labels = write_odd_archive(tmp_path)
    random = np.random.default_rng(2)
    large = random.integers(0, 255, (5, 7), dtype=np.uint8).repeat(40, 0).repeat(25, 1)
    write_image(tmp_path / "images" / "large.png", large)
    write_image(tmp_path / "masks" / "large.png", large // 128)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    return labels | {"large.png": tmp_path / "masks" / "large.png", "bad.png": None}


def open_settings(tmp_path: Path, out: str, shrink: float = 2.0) -> tuple[ScorerSettings, ModelCard]:
    model = write_model(tmp_path / "model.safetensors", preprocessing=Preprocessing(shrink=shrink))
    (tmp_path / out).mkdir(exist_ok=True)  # a scoring claims its folder before it writes a mask
    settings = ScorerSettings(
        archive=as_place(tmp_path / "images"),
        labels=as_place(tmp_path / "masks"),
        out=as_place(tmp_path / out),
        model=model,
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        batch=3,
        precision="float32",
        threads=1,
    )
    return settings, read_model(model)[1]


def ask(tmp_path: Path, labels: dict[str, Path | None]) -> list[Order]:
    return [
        Order(image, label=label and label.relative_to(tmp_path / "masks").as_posix())
        for image, label in labels.items()
    ]


def without_clocks(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [replace(one, **CLOCKS) if isinstance(one, Scored) else one for one in outcomes]


def check_same(tmp_path: Path, outcomes: list[Outcome], orders: list[Order], shrink: float) -> None:
    """The outcomes and masks of out/ are those of images scored whole."""
    settings, _ = open_settings(tmp_path, "whole", shrink)
    assert without_clocks(outcomes) == without_clocks(ImageScorer(settings, "cpu").score(orders))
    assert read_tree(tmp_path / "out" / "masks") == read_tree(tmp_path / "whole" / "masks")
    scored = {one.image: one for one in outcomes if isinstance(one, Scored)}
    assert {one.reason for one in outcomes if isinstance(one, Quarantined)} == {"unreadable"}
    assert scored["large.png"].class_pixels[1] > 500


@pytest.mark.parametrize(("shrink", "shares"), [(1.0, 7), (3.0, 1), (3.0, 40)])
def test_shares_put_together_give_the_row_and_mask_of_the_image_scored_whole(
    tmp_path: Path, labels: dict[str, Path | None], shares: int, shrink: float
) -> None:
    settings, card = open_settings(tmp_path, "out", shrink)
    reader, predictor = ImageReader(settings, card), CropPredictor(settings, None, shares)
    orders, outcomes = ask(tmp_path, labels), []
    for order in orders:
        work = reader.prepare(order)
        assembly = ImageAssembly(work, 2)
        for share in reversed(range(shares)):
            assembly.add(predictor.predict(work, share))
        outcomes.append(assembly.finish(settings))
    check_same(tmp_path, outcomes, orders, shrink)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_workers_share_images_and_give_the_rows_and_masks_of_images_scored_whole(
    tmp_path: Path, labels: dict[str, Path | None], session: Session, workers: int
) -> None:
    assert session.connected
    settings, card = open_settings(tmp_path, "out")
    names = ("large.png", "bad.png", "deep/colour.tif", "s1/frame-10.png")
    orders = [order for order in ask(tmp_path, labels) if order.image in names]
    outcomes = [one for arrived in score_crops(settings, card, orders, workers, gpus=0) for one in arrived]
    check_same(tmp_path, outcomes, orders, 2.0)


class Dying(CropPredictor):
    """A worker that dies of the second image."""

    def predict(self, work: Work, share: int) -> Share | None:
        if work.order.image == "large.png":
            os._exit(1)
        return CropPredictor.predict(self, work, share)


@pytest.mark.ray
@pytest.mark.long
def test_an_image_that_kills_its_workers_ends_the_rows_with_its_name(
    tmp_path: Path, labels: dict[str, Path | None], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.connected
    monkeypatch.setattr(crop_sharding, "CropPredictor", Dying)
    settings, card = open_settings(tmp_path, "out")
    orders = sorted(ask(tmp_path, labels), key=lambda order: order.image == "large.png")[-2:]
    with pytest.raises(WorkersKeepDying, match=r"has died 3 times, the last time at .* or the next image"):
        list(score_crops(settings, card, orders, 2, gpus=0))
