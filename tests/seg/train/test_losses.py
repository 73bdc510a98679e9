import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from seg.errors import RequestError
from seg.train.losses import (
    LOSSES,
    Asymmetric,
    CrossEntropy,
    Dice,
    Focal,
    Loss,
    Lovasz,
    build_loss,
    mean_loss,
)
from tests.seg.loss_formulas import FORMULAS, WEIGHTS, make_batch

SPECS = [*FORMULAS, "cross_entropy+dice", "focal+lovasz+asymmetric"]


def test_every_loss_has_its_formula() -> None:
    assert {spec.split("(")[0] for spec in FORMULAS} == set(LOSSES)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("spec", SPECS)
def test_losses_equal_the_papers_formulas(spec: str, class_weights: tuple[float, ...] | None) -> None:
    logits, truth = make_batch()
    expected = [FORMULAS[part](logits, truth, class_weights or (1.0,) * 4) for part in spec.split("+")]
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
def test_a_class_of_weight_0_counts_nothing(spec: str) -> None:
    logits, truth = make_batch(dtype=torch.float32)
    only = truth.where((truth == 2) | (truth == 255), torch.tensor(2, dtype=torch.uint8))
    sums, weights = build_loss(spec, (1.0, 1.0, 0.0, 1.0))(logits, only)
    assert not sums.any()
    assert not weights.any()


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


@pytest.mark.parametrize("spec", FORMULAS)
def test_no_step_of_a_loss_depends_on_data(spec: str) -> None:
    """So that a GPU's queue never empties: on the meta device whatever reads a value raises."""
    logits = torch.empty(2, 4, 6, 5, device="meta", requires_grad=True)
    truth = torch.empty(2, 6, 5, device="meta", dtype=torch.int64)
    (part,) = build_loss(spec).parts
    class_weights = torch.empty(4, device="meta")
    total, weight = part(logits, truth, class_weights), part.weigh(truth, class_weights)
    mean_loss(total, weight).backward()
    assert logits.grad is not None
    assert total.shape == weight.shape == ()


def test_outputs_count_by_their_weights_and_coarse_ones_are_interpolated() -> None:
    logits, truth = make_batch()
    coarse = logits[..., ::2, ::2]
    scaled = F.interpolate(coarse, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    (fine_sum, weight), (coarse_sum, _) = (FORMULAS["focal"](x, truth, WEIGHTS) for x in (logits, scaled))
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
    for spec in ("cross_entropy", "asymmetric(smoothing=0)", "focal", "dice", "lovasz"):
        # certain pixels' probabilities are 1 to float32
        assert build_loss(spec)(certain, truth)[0].tolist() == pytest.approx([0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("cross_entropy", (CrossEntropy(),)),
        (" cross_entropy +dice", (CrossEntropy(), Dice())),
        ("lovasz()+lovasz", (Lovasz(), Lovasz())),
        ("focal(alpha=0.8,gamma=2)+dice", (Focal(alpha=0.8, gamma=2), Dice())),
        ("focal ( gamma = 3 ) + dice ( )", (Focal(gamma=3), Dice())),
        ("focal(gamma=5e-1)+focal(gamma=+1e+0)", (Focal(gamma=0.5), Focal(gamma=1))),
        ("asymmetric(smoothing=0, gamma_pos=1)", (Asymmetric(smoothing=0, gamma_pos=1),)),
        ("asymmetric", (Asymmetric(gamma_neg=4, gamma_pos=0, smoothing=0.1),)),
    ],
)
def test_a_recipes_words_become_losses(spec: str, parts: tuple[object, ...]) -> None:
    assert build_loss(spec).parts == parts


KNOWN = "known: asymmetric, cross_entropy, dice, focal, lovasz"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crossentropy", f"unknown loss 'crossentropy'; did you mean cross_entropy? {KNOWN}"),
        ("cross_entropy+", f"unknown loss ''; {KNOWN}"),
        ("", f"unknown loss ''; {KNOWN}"),
        ("dise + focal", f"unknown loss 'dise'; did you mean dice? {KNOWN}"),
        ("focal(gama=2)", "unknown parameter of focal 'gama'; did you mean gamma? known: alpha, gamma"),
        ("cross_entropy(alpha=1)", "unknown parameter of cross_entropy 'alpha'; known: smoothing"),
        ("dice(smooth=1)", "loss dice takes no parameters, but 'smooth=1' is given"),
        ("focal(2)", "loss focal: '2' is not like alpha=1"),
        ("focal(gamma=2,)", "loss focal: '' is not like alpha=1"),
        ("focal(gamma=2, gamma=2)", "loss focal: gamma is given twice"),
        ("focal(gamma=two)", "loss focal: gamma is 'two', not a number"),
        ("focal(gamma=)", "loss focal: gamma is '', not a number"),
        ("focal(gamma=-1)", "loss focal: gamma is -1, not a number from 0 up"),
        ("focal(gamma=nan)", "loss focal: gamma is nan, not a number from 0 up"),
        ("focal(gamma=inf)", "loss focal: gamma is inf, not a number from 0 up"),
        ("focal(alpha=0)", "loss focal: alpha is 0, not a number above 0"),
        ("cross_entropy(smoothing=1)", "loss cross_entropy: smoothing is 1, not a number from 0 to below 1"),
        ("asymmetric(smoothing=2)", "loss asymmetric: smoothing is 2, not a number from 0 to below 1"),
        ("asymmetric(gamma_neg=-2)", "loss asymmetric: gamma_neg is -2, not a number from 0 up"),
        ("asymmetric(gamma_pos=-2)", "loss asymmetric: gamma_pos is -2, not a number from 0 up"),
        ("focal(gamma=2", "loss 'focal(gamma=2' is not like dice, or like focal(alpha=0.8, gamma=2)"),
        ("focal)", "loss 'focal)' is not like dice, or like focal(alpha=0.8, gamma=2)"),
        ("focal(gamma=2)x", "loss 'focal(gamma=2)x' is not like dice, or like focal(alpha=0.8, gamma=2)"),
    ],
)
def test_words_that_name_no_loss_are_refused(spec: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build_loss(spec)
    assert str(raised.value) == message


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_class_weights_that_cannot_weigh_are_refused(weight: float) -> None:
    with pytest.raises(RequestError, match="each must be a number from 0 up"):
        build_loss("dice", (1.0, weight))


def test_a_loss_is_a_value() -> None:
    loss = build_loss("focal(gamma=1)+lovasz", WEIGHTS, (1.0, 0.4))
    assert pickle.loads(pickle.dumps(loss)) == loss  # noqa: S301 - our own bytes
    assert hash(build_loss("focal(gamma=1.0) + lovasz", WEIGHTS, (1.0, 0.4))) == hash(loss)
    assert loss != build_loss("focal+lovasz", WEIGHTS, (1.0, 0.4))
    assert loss == Loss((Focal(gamma=1), Lovasz()), WEIGHTS, (1.0, 0.4))


def test_wrong_numbers_of_classes_and_outputs_are_refused() -> None:
    logits, truth = make_batch()
    with pytest.raises(ValueError, match="2 class weights for 4 classes"):
        build_loss("focal", (1.0, 2.0))(logits, truth)
    with pytest.raises(ValueError, match="2 outputs of the model for 1 output weights"):
        build_loss("focal")((logits, logits), truth)
