"""Scoring real images from ../shared/data; skipped, visibly, where they are not there."""

from pathlib import Path

import cv2
import numpy as np

from cluster.score import score
from cluster.session import Session
from seg.data.camvid import CLASSES
from seg.data.preprocess import Statistics
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.small import count_by_hand, ledger_rows, read_ids, sum_ledger, write_model

FITTED = Statistics((105.0, 108.0, 110.0), (75.0, 77.0, 75.0), 8)


def test_camvids_validation_images_are_counted_as_by_hand(
    shared_data: Path, tmp_path: Path, idle: Session
) -> None:
    model = write_model(
        tmp_path / "model.safetensors",
        classes=CLASSES,
        architecture="icnet",
        preprocessing=Preprocessing(channels=3, normalisation="fitted"),
        statistics=FITTED,
        label_map=((11, 255),),
    )
    camvid = shared_data / "camvid"
    summary = score(
        ScoreRequest(
            archive=as_place(camvid / "val"),
            labels=as_place(camvid / "valannot"),
            models=(model,),
            out=as_place(tmp_path / "out"),
            workers=0,
            limit=4,
        ),
        idle,
    )
    counts = [summary.values[name] for name in ("images_found", "images_scored", "labelled")]
    assert (counts, summary.exit_code) == ([101, 4, 4], 0)
    rows = ledger_rows(tmp_path / "out")
    labels: dict[str, Path | None] = {row["image"]: camvid / "valannot" / row["image"] for row in rows}
    expected = count_by_hand(tmp_path / "out" / "masks", labels, num_classes=11)
    assert sum_ledger(tmp_path / "out", num_classes=11) == summary.values["confusion"] == expected
    assert np.sum(expected) + sum(row["ignored"] for row in rows) == 4 * 360 * 480
    assert all(sum(row) for row in expected[:5])  # the truth has many classes
    assert np.count_nonzero(np.sum(expected, 0)) > 1  # and so has the prediction


def test_every_hologram_gets_a_mask_of_its_own_size(shared_data: Path, tmp_path: Path, idle: Session) -> None:
    archive = shared_data / "holograms"
    model = write_model(tmp_path / "model.safetensors", preprocessing=Preprocessing(shrink=6))
    summary = score(
        ScoreRequest(archive=as_place(archive), models=(model,), out=as_place(tmp_path / "out"), workers=0),
        idle,
    )
    counts = [summary.values[f"images_{kind}"] for kind in ("scored", "quarantined")]
    assert (counts, summary.exit_code) == ([8, 0], 0)
    rows = {row["image"]: row for row in ledger_rows(tmp_path / "out")}
    for image, row in rows.items():
        frame = cv2.imread(str(archive / image), cv2.IMREAD_UNCHANGED)
        mask = read_ids(tmp_path / "out" / "masks" / f"{image}.png")
        assert frame is not None
        assert mask.shape == frame.shape[:2] == (row["height"], row["width"])
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        assert row["bit_depth"] == frame.dtype.itemsize * 8
    depths = {image: row["bit_depth"] for image, row in rows.items() if row["bit_depth"] == 16}
    assert depths.keys() == {"paramecium_offaxis_u16.tif", "paramecium_offaxis_background_u16.tif"}
    assert rows["glioblastoma_2049.jpg"]["height"] == 2049
