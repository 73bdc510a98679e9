"""Training validates as scoring scores: the same images give the same integers, however they are prepared."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.score import score
from cluster.session import Session
from cluster.train import train
from seg.data.background import FEWEST_FRAMES
from seg.recipe import Augmentation, Crops, Optimizer, Preprocessing, Recipe, Tiling
from seg.recipes import RECIPES
from seg.requests import ScoreRequest, TrainRequest
from seg.storage import as_place
from tests.conftest import draw_disc
from tests.small import ledger_rows, write_image

PLAIN = replace(
    RECIPES["interferogram-small"],
    backbone="mobilenet_v2",
    preprocessing=Preprocessing(),
    crops=Crops(size_px=(32, 64), per_image=2),
    tiling=Tiling(crop_px=(64, 64), halo_px=16),
    optimizer=Optimizer(lr=3e-3),
    batch=4,
    epochs=1,
    precision="float32",
)
WHOLE = Tiling(crop_px=(64, 96), halo_px=0)
KINDS: dict[str, Recipe] = {
    "every step of preprocessing": replace(
        PLAIN,
        preprocessing=Preprocessing(
            background_every=2, blur_px=3, shrink=1.5, clahe_clip=5, clahe_grid=4, normalisation="percentile"
        ),
    ),
    "a fixed size, in colour": replace(
        PLAIN,
        preprocessing=Preprocessing(channels=3, size_px=(64, 64), normalisation="imagenet"),
        augmentation=Augmentation(rotate_degrees=10, scale=(0.8, 1.5), brightness=0.2, contrast=0.2),
        class_weights="median_frequency",
        loss="focal(gamma=1.5)+dice",
    ),
    "windows of a sequence": replace(
        PLAIN,
        preprocessing=Preprocessing(background_every=1),
        model="icnet-gru",
        backbone=None,
        frames=3,
        crops=Crops(size_px=(64, 96)),
        tiling=WHOLE,
        class_weights=(),
    ),
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two sequences of five frames, each with a pattern that stands still; one frame has no label."""
    root, random = tmp_path / "archive", np.random.default_rng(4)
    for sequence in range(2):
        still = cv2.resize(random.uniform(0, 60, (6, 8)), (130, 97), interpolation=cv2.INTER_CUBIC)
        for frame in range(5):
            image, mask = draw_disc((97, 130), np.random.default_rng([sequence, frame]))
            image = (image + still).clip(0, 255).astype(np.uint8)
            write_image(root / "images" / f"s{sequence}" / f"{frame}.png", image)
            if frame != 2:
                write_image(root / "masks" / f"s{sequence}" / f"{frame}.png", mask)
    (root / "classes.txt").write_text("background\ndisc\n")
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_a_validation_image_counts_the_same_when_it_is_scored(
    tmp_path: Path, archive: Path, idle: Session, kind: str
) -> None:
    recipe = KINDS[kind]
    run = train(TrainRequest(recipe=recipe, data=archive, out=tmp_path / "run", workers=0), idle)
    assert run.exit_code == 0
    request = ScoreRequest(
        archive=as_place(archive),
        models=(tmp_path / "run/best.safetensors",),
        out=as_place(tmp_path / "scores"),
        workers=0,
        batch=1,
    )
    assert score(request, idle).exit_code == 0
    rows = ledger_rows(tmp_path / "scores")
    assert len(rows) == 10
    validation = json.loads((tmp_path / "run/run.json").read_text())["validation"]
    counted = [row["confusion"] for row in rows if row["image"] in validation]
    assert len(counted) == 4  # of five frames one has no label
    assert np.sum(counted, 0).reshape(2, 2).tolist() == run.values["confusion"]
    used = 5 if recipe.preprocessing.background_every else 0  # fewer than eight: k went down to 1
    assert {row["background_frames"] for row in rows} == {used}
    assert used == 0 or used >= FEWEST_FRAMES
