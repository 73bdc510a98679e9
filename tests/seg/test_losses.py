import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seg.errors import RequestError
from seg.losses import LOSSES, Loss, build_loss, mean_loss

SPECS = [*LOSSES, "cross_entropy+dice", "focal+dice"]
WEIGHTS = (1.0, 4.0, 0.5, 2.0)


def make_batch(
    crops: int = 3,
    num_classes: int = 4,
    height: int = 6,
    width: int = 5,
    *,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Logits, and truth of which a fifth is ignored; the last crop lacks class 1 and its first row."""
    seeded = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(crops, num_classes, height, width, generator=seeded, dtype=dtype)
    truth = torch.randint(num_classes, (crops, height, width), generator=seeded, dtype=torch.uint8)
    truth[torch.rand(truth.shape, generator=seeded) < 0.2] = 255
    truth[-1][truth[-1] == 1] = 0
    truth[-1, 0] = 255
    return logits, truth


def true_probability(scores: NDArray[np.float64], true: int) -> float:
    exponentials = np.exp(scores - scores.max())
    return float(exponentials[true] / exponentials.sum())


def expect_pixel_loss(
    logits: Tensor, truth: Tensor, weights: tuple[float, ...], gamma: float
) -> tuple[float, float]:
    """-w (1 - p)^gamma ln p summed pixel by pixel, and the sum of w: the papers' formulas."""
    scores, ids = logits.numpy().astype(np.float64), truth.numpy()
    total = weight = 0.0
    for n, y, x in product(*map(range, ids.shape)):
        if ids[n, y, x] != 255:
            p = true_probability(scores[n, :, y, x], ids[n, y, x])
            total -= weights[ids[n, y, x]] * (1 - p) ** gamma * math.log(p)
            weight += weights[ids[n, y, x]]
    return total, weight


def expect_dice(logits: Tensor, truth: Tensor, weights: tuple[float, ...]) -> tuple[float, float]:
    """w (1 - 2 sum(p g) / (sum(p) + sum(g))) over the classes that each crop has, and the sum of w."""
    scores, ids = logits.numpy().astype(np.float64), truth.numpy()
    total = weight = 0.0
    for n, c in product(range(len(ids)), range(scores.shape[1])):
        overlap = predicted = true = 0.0
        for y, x in zip(*np.nonzero(ids[n] != 255), strict=True):
            p = true_probability(scores[n, :, y, x], c)
            predicted += p
            if ids[n, y, x] == c:
                true += 1
                overlap += p
        if true:
            total += weights[c] * (1 - 2 * overlap / (predicted + true))
            weight += weights[c]
    return total, weight


def expect_part(part: str, logits: Tensor, truth: Tensor, weights: tuple[float, ...]) -> tuple[float, float]:
    if part == "dice":
        return expect_dice(logits, truth, weights)
    return expect_pixel_loss(logits, truth, weights, gamma={"cross_entropy": 0.0, "focal": 2.0}[part])


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("spec", SPECS)
def test_losses_equal_the_papers_formulas(spec: str, class_weights: tuple[float, ...] | None) -> None:
    logits, truth = make_batch()
    expected = [expect_part(part, logits, truth, class_weights or (1.0,) * 4) for part in spec.split("+")]
    sums, weights = build_loss(spec, class_weights)(logits, truth)
    assert sums.tolist() == pytest.approx([total for total, _ in expected], rel=1e-12)  # float64 rounding
    assert weights.tolist() == [weight for _, weight in expected]  # these weights add exactly
    assert weights.dtype == torch.float64
    assert mean_loss(sums, weights).item() == pytest.approx(sum(total / weight for total, weight in expected))


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_the_numerical_ones(spec: str) -> None:
    logits, truth = make_batch(crops=2, height=3, width=3)
    loss = build_loss(spec, WEIGHTS)
    assert torch.autograd.gradcheck(lambda x: loss(x, truth)[0], (logits.requires_grad_(),))


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_cross_entropy_divided_is_torchs_mean(class_weights: tuple[float, ...] | None) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    table = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(logits, truth.long(), table, ignore_index=255)
    found = mean_loss(*build_loss("cross_entropy", class_weights)(logits, truth))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # float32 rounding


@pytest.mark.parametrize("spec", SPECS)
def test_ignored_pixels_change_nothing_and_have_no_gradient(spec: str) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    ignored = (truth == 255)[:, None].expand_as(logits)
    others = torch.where(
        ignored, 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)), logits
    )
    loss = build_loss(spec, WEIGHTS)
    sums, weights = loss(logits.requires_grad_(), truth)
    assert torch.equal(loss(others, truth)[0], sums)
    assert torch.equal(loss(others, truth)[1], weights)
    mean_loss(sums, weights).backward()
    assert logits.grad is not None
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].any()


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_of_ignored_pixels_counts_nothing(spec: str) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    sums, weights = build_loss(spec, WEIGHTS)(logits.requires_grad_(), torch.full_like(truth, 255))
    assert not sums.any()
    assert not weights.any()
    loss = mean_loss(sums, weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("spec", SPECS)
def test_workers_sums_over_their_summed_weights_are_the_whole_batchs_loss_and_gradient(spec: str) -> None:
    logits, truth = make_batch()
    loss = build_loss(spec, WEIGHTS)
    logits.requires_grad_()
    expected = mean_loss(*loss(logits, truth))
    (gradient,) = torch.autograd.grad(expected, logits)
    parts = [loss(logits[part], truth[part]) for part in (slice(0, 1), slice(1, 3))]
    reduced = parts[0][1] + parts[1][1]
    found = torch.stack([mean_loss(sums, reduced) for sums, _ in parts]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)  # float64 rounding
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spec", SPECS)
def test_bf16_logits_under_autocast_are_computed_in_float32(spec: str) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    rounded = logits.bfloat16().requires_grad_()
    loss = build_loss(spec, WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        sums, weights = loss(rounded, truth)
    assert sums.dtype == torch.float32
    assert torch.equal(sums, loss(rounded.float(), truth)[0])
    mean_loss(sums, weights).backward()
    assert rounded.grad is not None
    assert rounded.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_huge_logits_give_finite_losses_and_gradients(spec: str, dtype: torch.dtype) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    huge = (1e4 * logits.sign()).to(dtype).requires_grad_()
    sums, weights = build_loss(spec)(huge, truth)
    mean_loss(sums, weights).backward()
    assert sums.isfinite().all()
    assert huge.grad is not None
    assert huge.grad.isfinite().all()


def test_outputs_count_by_their_weights_and_coarse_ones_are_interpolated() -> None:
    logits, truth = make_batch()
    coarse = logits[..., ::2, ::2]
    scaled = F.interpolate(coarse, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    (fine_sum, weight), (coarse_sum, _) = (expect_part("focal", x, truth, WEIGHTS) for x in (logits, scaled))
    sums, weights = build_loss("focal", WEIGHTS, (1.0, 0.4))((logits, coarse), truth)
    assert sums.item() == pytest.approx(fine_sum + 0.4 * coarse_sum, rel=1e-12)  # float64 rounding
    assert weights.item() == weight  # once, not once an output


def test_one_tensor_counts_once_whatever_the_output_weights() -> None:
    logits, truth = make_batch()
    trained = build_loss("dice", None, (0.5, 0.4))
    assert torch.equal(trained(logits, truth)[0], build_loss("dice")(logits, truth)[0])


def test_a_perfect_prediction_costs_nothing() -> None:
    _, truth = make_batch()
    certain = torch.stack([(truth == c) * 100.0 for c in range(4)], dim=1)
    for spec in SPECS:
        # certain pixels' probabilities are 1 to float32
        assert build_loss(spec)(certain, truth)[0].tolist() == pytest.approx(
            [0.0] * len(spec.split("+")), abs=1e-5
        )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "crossentropy",
            "unknown loss 'crossentropy'; did you mean cross_entropy? known: cross_entropy, dice, focal",
        ),
        ("cross_entropy+", "unknown loss ''; known: cross_entropy, dice, focal"),
        ("dise + focal", "unknown loss 'dise'; did you mean dice? known: cross_entropy, dice, focal"),
    ],
)
def test_unknown_losses_are_refused_with_the_near_ones(spec: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build_loss(spec)
    assert str(raised.value) == message


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_class_weights_that_cannot_weigh_are_refused(weight: float) -> None:
    with pytest.raises(RequestError, match="each must be a number from 0 up"):
        build_loss("dice", (1.0, weight))


def test_spaces_around_a_plus_are_allowed() -> None:
    assert build_loss("cross_entropy + dice") == Loss(("cross_entropy", "dice"))


def test_wrong_numbers_of_classes_and_outputs_are_refused() -> None:
    logits, truth = make_batch()
    with pytest.raises(ValueError, match="2 class weights for 4 classes"):
        build_loss("focal", (1.0, 2.0))(logits, truth)
    with pytest.raises(ValueError, match="2 outputs of the model for 1 output weights"):
        build_loss("focal")((logits, logits), truth)
