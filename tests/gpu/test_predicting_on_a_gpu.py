"""What is predicted and counted on a GPU is what a CPU says."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from seg.data.preprocess import image_statistics
from seg.models.build import build
from seg.predict.confusion import confusion_matrix, count_classes
from seg.predict.passes import autocast
from seg.predict.predictor import Prediction, Predictor
from seg.recipe import Tiling
from tests.seg.models.test_models import NAMES
from tests.seg.predict.test_passes import check_company

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.mark.parametrize("num_classes", [2, 11, 15, 16, 255])
def test_pixels_are_counted_alike(gpu: torch.device, num_classes: int) -> None:
    random = np.random.default_rng(0)
    truth, ids = random.integers(num_classes, size=(2, 700, 900), dtype=np.uint8)
    truth[random.random(truth.shape) < 0.1] = 255
    prediction = torch.from_numpy(ids)
    counted = confusion_matrix(truth[5:, 7:], prediction[5:, 7:].to(gpu), num_classes)
    assert counted.device.type == gpu.type
    assert torch.equal(counted.cpu(), confusion_matrix(truth[5:, 7:], prediction[5:, 7:], num_classes))
    assert torch.equal(
        count_classes(prediction.to(gpu), num_classes).cpu(), count_classes(prediction, num_classes)
    )


def test_float32_is_float32(gpu: torch.device) -> None:
    """TF32, torch's default for convolutions, misses by 1e-4 and more."""
    seeded = torch.Generator().manual_seed(0)
    images = torch.randn(2, 64, 48, 48, generator=seeded)
    layer = nn.Conv2d(64, 64, 3, bias=False)
    with torch.inference_mode(), autocast(gpu, "float32"):
        exact = layer.double()(images.double())
        found = layer.float().to(gpu)(images.to(gpu)).cpu().double()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5


def predict(
    device: torch.device,
    *,
    blend: Literal["core", "gaussian"] = "core",
    precision: str = "float32",
    channels: int = 1,
    dtype: type = np.uint8,
) -> Prediction:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("unet", backbone=None, num_classes=3, channels=channels)
    size = (333, 290) if channels == 1 else (333, 290, channels)
    working = np.random.default_rng(0).integers(np.iinfo(dtype).max + 1, size=size).astype(dtype)
    predictor = Predictor(
        model.to(device),
        Tiling(crop_px=(96, 96), halo_px=32),
        batch=4,
        device=device,
        precision=precision,
        blend=blend,
    )
    return predictor.predict_frames([(working, image_statistics(working))], (666, 580), probability=True)


@pytest.mark.parametrize("blend", ["core", "gaussian"])
@pytest.mark.parametrize(("precision", "differing"), [("float32", 1e-3), ("bf16", 0.1), ("fp16", 0.1)])
def test_images_are_predicted_alike(
    gpu: torch.device,
    blend: Literal["core", "gaussian"],
    precision: str,
    differing: float,
) -> None:
    """Weights of chance: many pixels lie near a tie, which rounding may flip."""
    ours = predict(gpu, blend=blend, precision=precision)
    cpus = predict(CPU, blend=blend)
    assert float((ours.ids.cpu() != cpus.ids).float().mean()) < differing
    assert ours.confidence == pytest.approx(cpus.confidence, rel=0.01)
    assert ours.probability is not None
    assert cpus.probability is not None
    if precision == "float32":
        torch.testing.assert_close(ours.probability.cpu(), cpus.probability, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (3, np.uint8), (3, np.uint16)])
def test_other_pixels_are_predicted_alike(gpu: torch.device, channels: int, dtype: type) -> None:
    """Torch knows 16 bits without a sign only in part, on a GPU in another part than on a CPU."""
    ours, cpus = (predict(device, channels=channels, dtype=dtype) for device in (gpu, CPU))
    assert float((ours.ids.cpu() != cpus.ids).float().mean()) < 1e-3


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_hang_on_neither_a_crops_place_in_a_pass_nor_its_company(
    gpu: torch.device, name: str, precision: str
) -> None:
    """One that fails here keeps passes of one image: see docs/how-to/overnight.md."""
    check_company(name, precision, gpu)
