import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from seg.model_file import load_model
from seg.recipe import Tiling
from seg.train.learner import Ranks
from seg.train.losses import build_loss, mean_loss
from seg.train.training import Training
from seg.train.validation import LossTotal
from tests.conftest import WriteArchive
from tests.small import open_plan

CPU = torch.device("cpu")
WEIGHTS = (1.0, 4.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(side: int = 64) -> tuple[Tensor, Tensor]:
    """Truth, uint8 [side, side], some of it ignored, and logits of two classes."""
    seeded = torch.Generator().manual_seed(3)
    truth = torch.randint(2, (side, side), generator=seeded, dtype=torch.uint8)
    truth[:7] = 255
    return truth, torch.randn(2, side, side, generator=seeded)


def by_hand(truth: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Weighted negative log-likelihood and its weight, in float64 [h, w] and [C, h, w]."""
    counted = truth < 255
    ids, values = truth[counted], logits.astype(np.float64)[:, counted]
    shifted = values - values.max(0)
    nll = np.log(np.exp(shifted).sum(0)) - shifted[ids, np.arange(len(ids))]
    weights = np.array(WEIGHTS)[ids]
    return float((weights * nll).sum()), float(weights.sum())


def test_a_run_judges_its_validation_labels_pixel_by_pixel(
    write_archive: WriteArchive, tmp_path: Path
) -> None:
    """Each image is one window here, so that the network can be asked for it directly."""
    root = write_archive(sequences=3, frames=2)
    for number, file in enumerate(sorted((root / "masks").rglob("*.png"))):
        mask = np.asarray(Image.open(file)).copy()
        mask[: 9 * number] = 255  # of each image another share counts
        Image.fromarray(mask).save(file)
    plan = open_plan(root, tmp_path / "run", tiling=Tiling(crop_px=(64, 96), halo_px=0))
    training = Training(replace(plan, recipe=replace(plan.recipe, class_weights=WEIGHTS)), CPU)
    _, found = training.validate()
    network, total, weight = training.learner.model.eval(), 0.0, 0.0
    for sample in plan.data.split.validation:
        pixels = np.asarray(Image.open(str(sample.image)), np.float64)
        seen = torch.tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)
        assert seen.shape == (64, 96)
        with torch.no_grad():
            logits = network(seen[None, None])[0].numpy()
        parts = by_hand(np.asarray(Image.open(str(sample.label))), logits)
        total, weight = total + parts[0], weight + parts[1]
    assert len(plan.data.split.validation) == 2
    assert found == pytest.approx(total / weight, rel=1e-5)  # float32 in the network


def mean_over_flips(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Mean probability of an image [h, w] over its four mirror images, float64 [C, h, w]."""
    total = np.zeros(())
    for down in (1, -1):
        for across in (1, -1):
            seen = torch.from_numpy(pixels[::down, ::across].astype(np.float32).copy())
            with torch.no_grad():
                logits = network(seen[None, None])[0].double().numpy()[:, ::down, ::across]
            powers = np.exp(logits - logits.max(0))
            total = total + powers / powers.sum(0) / 4
    return total


def test_views_are_averaged_where_a_run_is_judged_and_nowhere_else(
    write_archive: WriteArchive, tmp_path: Path
) -> None:
    """Each image is one window here; the model file holds the network that was averaged over its views."""
    tiling, root = Tiling(crop_px=(64, 96), halo_px=0), write_archive(sequences=3, frames=2)
    plan = open_plan(root, tmp_path / "run", tiling=tiling, epochs=1, tta="flips")
    result = next(Training(plan, CPU).epochs())
    network, card = load_model(plan.folder / "best.safetensors")
    expected, nll, counted = np.zeros((2, 2), np.int64), 0.0, 0
    for sample in plan.data.split.validation:
        pixels = np.asarray(Image.open(str(sample.image)), np.float64)
        truth = np.asarray(Image.open(str(sample.label)))
        mean = mean_over_flips(network, (pixels - pixels.mean()) / pixels.std())
        known = truth < 255
        np.add.at(expected, (truth[known], mean.argmax(0)[known]), 1)
        nll -= np.log(mean[truth[known], *np.nonzero(known)]).sum()
        counted += known.sum()
    assert card.validation["confusion"] == expected.tolist()
    assert result.validation_loss == pytest.approx(nll / counted, rel=1e-5)  # float32 in the network
    plain = replace(plan, recipe=replace(plan.recipe, tta="none"), folder=tmp_path / "plain")
    assert next(Training(plain, CPU).epochs()).validation_loss != result.validation_loss
    weights = [load_file(folder / "best.safetensors") for folder in (plan.folder, plain.folder)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize(
    "spec", ["cross_entropy", "focal(gamma=2)", "cross_entropy(smoothing=0.1)", "asymmetric"]
)
def test_windows_of_any_size_make_one_mean_over_pixels(spec: str) -> None:
    truth, logits = draw()
    loss = build_loss(spec, WEIGHTS)
    total = LossTotal(loss, CPU)
    for rows in (slice(0, 5), slice(5, 50), slice(50, 64)):  # the first is ignored as a whole
        total.add(truth[rows], logits[:, rows])
    whole = mean_loss(*loss(logits[None].double(), truth[None]))
    assert total.mean(Ranks()) == pytest.approx(float(whole), rel=1e-6)  # sums of a window are float32


def test_a_part_of_a_loss_that_measures_overlap_counts_each_window_that_has_the_class() -> None:
    truth, logits = draw()
    truth[32:] = 0
    total = LossTotal(build_loss("dice"), CPU)
    ratios = []
    for rows in (slice(0, 32), slice(32, 64)):
        total.add(truth[rows], logits[:, rows])
        counted = truth[rows] < 255
        p = logits[:, rows].double().softmax(0)
        for number in (0, 1):
            g = truth[rows] == number
            if g.any():
                ratios.append(1 - 2 * p[number][g].sum() / (p[number][counted].sum() + g.sum()))
    assert len(ratios) == 3
    assert total.mean(Ranks()) == pytest.approx(float(sum(ratios) / 3), rel=1e-6)


def test_where_nothing_counts_there_is_no_loss() -> None:
    truth, logits = draw()
    total = LossTotal(build_loss("cross_entropy+dice"), CPU)
    assert math.isnan(total.mean(Ranks()))
    total.add(torch.full_like(truth, 255), logits)
    assert math.isnan(total.mean(Ranks()))
