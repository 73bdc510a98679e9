import pytest
import torch

from seg.metrics import iou
from seg.predict.confusion import confusion_matrix
from seg.train.losses import build_loss, lovasz_steps, mean_loss
from tests.seg.loss_formulas import make_batch
from tests.seg.smp_losses import load_smp_losses


def test_dice_of_a_crop_with_all_classes_is_that_of_segmentation_models_pytorch() -> None:
    """Theirs takes a batch as one crop and divides by all classes, there or not."""
    logits, truth = (tensor[:1] for tensor in make_batch())
    smp = load_smp_losses().DiceLoss("multiclass", smooth=0.0, ignore_index=255)
    found = mean_loss(*build_loss("dice")(logits, truth))
    assert found.item() == pytest.approx(smp(logits, truth.long()).item(), rel=1e-12)  # float64 rounding


def test_lovasz_of_crops_with_all_classes_is_that_of_segmentation_models_pytorch() -> None:
    """Theirs by image takes the mean of means; it differs where crops have different numbers of classes."""
    logits, truth = (tensor[:2] for tensor in make_batch(dtype=torch.float32))
    smp = load_smp_losses().LovaszLoss("multiclass", per_image=True, ignore_index=255)
    found = mean_loss(*build_loss("lovasz")(logits, truth))
    assert found.item() == pytest.approx(smp(logits, truth.long()).item(), rel=1e-5)  # float32 rounding


def test_lovasz_of_a_certain_prediction_is_1_minus_iou() -> None:
    _, truth = make_batch(crops=1, height=30, width=40)
    seeded = torch.Generator().manual_seed(2)
    ids = torch.randint(4, truth.shape, generator=seeded, dtype=torch.uint8)
    ids = torch.where(torch.rand(truth.shape, generator=seeded) < 0.6, truth.clamp(max=3), ids)
    certain = torch.stack([(ids == c) * 1e3 for c in range(4)], dim=1).double()
    sums, weights = build_loss("lovasz", (1.0, 2.0, 4.0, 8.0))(certain, truth)
    confusion = confusion_matrix(truth[0].numpy(), ids[0], 4)
    losses = 1 - torch.tensor(iou(confusion.numpy()))
    present = torch.tensor([bool((truth == c).any()) for c in range(4)])
    table = torch.tensor([1.0, 2.0, 4.0, 8.0]) * present
    assert sums.item() == pytest.approx((table * losses.nan_to_num()).sum().item(), rel=1e-12)  # rounding
    assert weights.item() == table.sum()


def test_lovasz_steps_keep_float32s_digits_over_many_pixels() -> None:
    seeded = torch.Generator().manual_seed(0)
    errors = torch.rand(1, 1, 400_000, generator=seeded)
    is_class = torch.rand(errors.shape, generator=seeded) < 0.5
    other = ~is_class & (torch.rand(errors.shape, generator=seeded) < 0.9)
    found = lovasz_steps(errors, is_class, other)
    exact = lovasz_steps(errors.double(), is_class, other)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)  # a few roundings
    assert not found[~is_class & ~other].any()
    assert exact.sum().item() == pytest.approx(1, rel=1e-9)  # from IoU 1 to IoU 0


@pytest.mark.parametrize("spec", ["dice", "lovasz"])
def test_every_region_costs_between_0_and_1(spec: str) -> None:
    for seed in range(5):
        logits = 10 * torch.randn(1, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
        truth = torch.full((1, 9, 7), seed % 3, dtype=torch.uint8)
        sums, weights = build_loss(spec)(logits, truth)
        assert weights.item() == 1
        assert 0 <= sums.item() <= 1
