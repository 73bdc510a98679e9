from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray

from seg.data.preprocess import image_statistics
from seg.label.folder import read_image
from seg.label.proposals import Proposer
from seg.label.shapes import paint
from seg.model_file import load_model
from seg.predict.predictor import Predictor
from seg.recipe import Preprocessing
from tests.conftest import draw_disc
from tests.small import write_image, write_model

CLASSES = ("background", "cell", "dust")


def write_frames(archive: Path, dtype: type = np.uint8) -> dict[str, NDArray[Any]]:
    """Nine frames of a sequence, discs that move over a pattern that stays."""
    scale = np.iinfo(dtype).max // 255
    pattern = np.random.default_rng(1).integers(-40, 40, (97, 130))
    frames = {}
    for k in range(9):
        gray, _ = draw_disc((97, 130), np.random.default_rng([2, k]))
        frames[f"s/{k}.png"] = ((gray + pattern).clip(0, 255) * scale).astype(dtype)
        write_image(archive / f"s/{k}.png", frames[f"s/{k}.png"])
    return frames


def load_proposer(folder: Path, model: Path, frames: dict[str, NDArray[Any]]) -> Proposer:
    return Proposer(
        model,
        folder / "archive",
        list(frames),
        read_image=partial(read_image, folder / "archive"),
        backgrounds=folder / "backgrounds",
        min_object_px=30,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("every", [0, 2])
def test_a_model_proposes_what_it_predicts(tmp_path: Path, dtype: type, every: int) -> None:
    settings = Preprocessing(background_every=every, background_factor=0.9)
    file = write_model(tmp_path / "model.safetensors", classes=CLASSES, preprocessing=settings)
    frames = write_frames(tmp_path / "archive", dtype)
    image = frames["s/5.png"].astype(np.float64)
    if every:  # every second of nine would be five, fewer than the eight that are wanted
        mean = sum(frame.astype(np.float64) for frame in frames.values()) / 9
        image -= 0.9 * (mean - mean.mean())
    working = image.round().clip(0, np.iinfo(dtype).max).astype(dtype)
    model, card = load_model(file)
    predictor = Predictor(model, card.tiling, batch=1, device=torch.device("cpu"))
    ids = predictor.predict(working, image_statistics(working), (97, 130)).ids.numpy()
    shapes = load_proposer(tmp_path, file, frames).propose("s/5.png", frames["s/5.png"])
    wanted = np.zeros_like(ids)
    for kind in (1, 2):
        components, _ = scipy.ndimage.label(ids == kind, np.ones((3, 3)))
        wanted[(np.bincount(components.ravel()) >= 30)[components] & (components > 0)] = kind
    assert (paint(np.zeros_like(ids), shapes) == wanted).all()
    assert {shape.box.kind for shape in shapes} == {1, 2}


def test_a_sequence_model_sees_the_frames_before_and_passes_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_model(tmp_path / "model.safetensors", classes=CLASSES, architecture="icnet-gru", frames=3)
    frames = write_frames(tmp_path / "archive")
    (tmp_path / "archive/s/4.png").write_bytes(b"half a frame")
    proposer, seen = load_proposer(tmp_path, file, frames), []
    predict = proposer.predictor.predict_frames
    monkeypatch.setattr(
        proposer.predictor,
        "predict_frames",
        lambda *given: seen.append(given[0]) or predict(*given),
    )
    proposer.propose("s/5.png", frames["s/5.png"])
    for (working, statistics), name in zip(seen[0], ("s/3.png", "s/5.png", "s/5.png"), strict=True):
        assert (working == frames[name]).all()
        assert statistics == image_statistics(frames[name])
