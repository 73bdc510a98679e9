"""What bench/training.py compares is the same work, and its figures are what they say."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bench.gpu_time import covered
from bench.reference_loops import CropSequence, DecodedCrops, iou_and_accuracy, iou_and_dice
from bench.table import Row
from bench.training import DecodedPack
from seg import metrics
from seg.pack.crops import CropSampler
from seg.pack.training_data import TrainingData, open_packs, open_training_data
from seg.predict.confusion import confusion_matrix
from seg.recipe import Crops, Preprocessing, Recipe
from tests.conftest import WriteArchive

RECIPE = Recipe(
    name="small",
    preprocessing=Preprocessing(),
    crops=Crops(size_px=(32, 64), per_image=2, flip_rows=True),
    batch=2,
)


@pytest.fixture
def data(write_archive: WriteArchive) -> TrainingData:
    return open_training_data(write_archive(size=(64, 96)), RECIPE, seed=0)


def test_crops_decoded_from_files_are_those_of_the_pack(data: TrainingData) -> None:
    train, _ = open_packs(data, RECIPE)
    decoded = DecodedPack(train.path, data.split.train)
    packed, files = (CropSampler(pack, RECIPE, seed=0, fitted=None) for pack in (train, decoded))
    before = [batch.images for batch in files.batches(1)]
    assert all(map(torch.equal, before, (batch.images for batch in packed.batches(1))))
    cv2.imwrite(str(data.split.train[0].image), np.zeros((64, 96), np.uint8))
    after = [batch.images for batch in files.batches(1)]
    assert not all(map(torch.equal, before, after)), "the files were not read again"


def test_a_reference_loop_sees_each_image_as_often_as_ours_and_cuts_its_crops_from_it(
    data: TrainingData,
) -> None:
    crops = DecodedCrops(data.split.train, RECIPE)
    images = [cv2.imread(str(sample.image), cv2.IMREAD_UNCHANGED) for sample in data.split.train]
    for index in range(len(crops)):
        pixels, truth = crops[index]
        assert pixels.shape == (1, 32, 64)
        assert truth.shape == (32, 64)
        crop = (pixels[0].numpy() * 255).round().astype(np.uint8)
        turned = [np.flip(crop, axes) for axes in ((), 0, 1, (0, 1))]
        whole = images[index % len(images)]
        assert whole is not None
        windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 64))
        assert any((windows == crop).all((2, 3)).any() for crop in turned)
    assert sum(len(truth) for _, truth in CropSequence(crops, 2)) == 2 * len(data.split.train)


def test_what_reference_loops_measure_on_a_batch_is_what_its_matrix_says() -> None:
    seeded = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, generator=seeded)
    truth = torch.randint(3, (2, 16, 16), generator=seeded, dtype=torch.uint8)
    confusion = confusion_matrix(
        truth.flatten(1).numpy(), logits.argmax(1).to(torch.uint8).flatten(1), 3
    ).numpy()
    ious, dices = iou_and_dice(logits, truth, 3)
    assert ious == pytest.approx(metrics.iou(confusion), abs=1e-6)  # theirs are float32
    assert dices == pytest.approx(metrics.dice(confusion), abs=1e-6)
    ious, accuracy = iou_and_accuracy(logits, truth, 3)
    assert ious == pytest.approx(metrics.iou(confusion), abs=1e-6)
    assert accuracy == pytest.approx(metrics.pixel_accuracy(confusion), abs=1e-6)


def test_spans_cover_every_instant_once() -> None:
    random = np.random.default_rng(0)
    pairs = np.sort(random.integers(0, 200, (12, 2)), axis=1).tolist()
    spans = [(start, min(end, start + 20)) for start, end in pairs]
    assert covered(spans) == len({instant for span in spans for instant in range(*span)})


@pytest.mark.parametrize(
    ("figure", "limit", "kept", "broken"),
    [
        ("times", 2, 50, 51),
        ("above", 5, 104, 106),
        ("below", 3, 102, 104),
        ("share", 1, 1, 2),
        ("filled", 95, 95, 94),
    ],
)
def test_a_row_says_whether_its_limit_is_kept(figure: str, limit: float, kept: float, broken: float) -> None:
    ends = [Row("", [ours], "", [100], figure, limit).line().split()[-1] for ours in (kept, broken)]
    assert ends == ["yes", "NO"]


@pytest.mark.long
def test_a_quick_run_says_yes_or_no_to_every_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.training import main

    main(device="cpu", quick=True, folder=tmp_path)
    said = capsys.readouterr().out
    assert sum(line.endswith(("yes", "NO")) for line in said.splitlines()) == 7
