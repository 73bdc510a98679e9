import math

import pytest
import torch
import torch.nn.functional as F

from seg.train.losses import build_loss, focus, mean_loss
from tests.seg.loss_formulas import WEIGHTS, make_batch
from tests.seg.smp_losses import load_smp_losses


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_cross_entropy_divided_is_torchs_mean(class_weights: tuple[float, ...] | None) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    table = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(logits, truth.long(), table, ignore_index=255)
    found = mean_loss(*build_loss("cross_entropy", class_weights)(logits, truth))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # float32 rounding


def test_smoothed_cross_entropy_divided_is_torchs_mean_where_classes_weigh_alike() -> None:
    logits, truth = make_batch()
    expected = F.cross_entropy(logits, truth.long(), ignore_index=255, label_smoothing=0.1)
    found = mean_loss(*build_loss("cross_entropy(smoothing=0.1)")(logits, truth))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)  # float64 rounding


def test_smoothed_cross_entropy_is_that_of_segmentation_models_pytorch() -> None:
    """Their sum; their mean divides by the ignored pixels too."""
    logits, truth = make_batch()
    smp = load_smp_losses().SoftCrossEntropyLoss(reduction="sum", smooth_factor=0.1, ignore_index=255)
    sums, _ = build_loss("cross_entropy(smoothing=0.1)")(logits, truth)
    assert sums.item() == pytest.approx(smp(logits, truth.long()).item(), rel=1e-12)  # float64 rounding


def test_focal_of_two_classes_is_that_of_segmentation_models_pytorch() -> None:
    """Their binary one, whose alpha is our class weights; for more classes they add a sigmoid each."""
    logits, truth = make_batch(num_classes=2)
    difference = (logits[:, 1] - logits[:, 0])[:, None]
    smp = load_smp_losses().FocalLoss("binary", alpha=0.25, gamma=1.5, ignore_index=255, reduction="sum")
    sums, _ = build_loss("focal(gamma=1.5)", (0.75, 0.25))(logits, truth)
    assert sums.item() == pytest.approx(smp(difference, truth.long()).item(), rel=1e-9)  # theirs has an eps


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("focal(gamma=0)", "cross_entropy"),
        ("asymmetric(gamma_neg=0, smoothing=0.3)", "cross_entropy(smoothing=0.3)"),
        ("asymmetric(smoothing=0)", "cross_entropy"),
        ("asymmetric(gamma_pos=1.5, smoothing=0)", "focal(gamma=1.5)"),
    ],
)
def test_losses_meet_where_their_parameters_say(one: str, other: str) -> None:
    logits, truth = make_batch()
    found, expected = (build_loss(spec, WEIGHTS)(logits, truth)[0].item() for spec in (one, other))
    assert found == pytest.approx(expected, rel=1e-12)  # float64 rounding


def test_alpha_is_a_factor_of_the_loss() -> None:
    logits, truth = make_batch()
    whole, part = (build_loss(f"focal(alpha={alpha})")(logits, truth) for alpha in (1, 0.8))
    assert part[0].item() == pytest.approx(0.8 * whole[0].item(), rel=1e-12)  # float64 rounding
    assert torch.equal(part[1], whole[1])


@pytest.mark.parametrize("spec", ["focal(gamma=0.1)", "asymmetric(gamma_pos=0.1, gamma_neg=0.1)"])
@pytest.mark.parametrize("height", [20.0, 200.0])
def test_a_pixel_that_is_surely_right_has_no_gradient_to_speak_of(spec: str, height: float) -> None:
    logits = torch.tensor([[height, 0.0, 0.0]]).view(1, 3, 1, 1).requires_grad_()
    sums, _ = build_loss(spec)(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    sums.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 0.1  # the share that smoothing gives to others, times their focus


def test_how_far_a_pixel_is_from_right_keeps_float32s_digits() -> None:
    nll = torch.logspace(-20, 1, 50)
    exact = [(-math.expm1(-value)) ** 1.5 * value for value in nll.tolist()]
    assert focus(nll, 1.5).tolist() == pytest.approx(exact, rel=1e-6)  # a few roundings


def test_asymmetric_leaves_improbable_other_classes_alone() -> None:
    """What arXiv:2009.14119 is for: with gamma_neg 4 easy negatives add next to nothing."""
    logits = torch.tensor([3.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1).double()
    truth = torch.zeros(1, 1, 1, dtype=torch.uint8)
    focused, plain, alone = (
        build_loss(f"asymmetric(gamma_neg={gamma}, smoothing={smoothing})")(logits, truth)[0].item()
        for gamma, smoothing in ((4, 0.1), (0, 0.1), (4, 0))
    )
    assert focused == pytest.approx(0.925 * alone, rel=1e-4)  # 1 - 0.1 + 0.1 / 4
    assert plain > 2 * focused
