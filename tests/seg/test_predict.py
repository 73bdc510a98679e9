from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.data.preprocess import image_statistics
from seg.models.build import build
from seg.predict import Predictor
from seg.recipe import Tiling

CPU = torch.device("cpu")


class SmallNet(nn.Module):
    """Strided and dilated like the real ones, but its context, 23 pixels, stays below a halo of 32."""

    def __init__(self, channels: int = 1, num_classes: int = 3) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, dilation=4, padding=4)
        self.score = nn.Conv2d(8, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.score(torch.tanh(self.wide(torch.tanh(self.down(images)))))
        return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture
def net() -> SmallNet:
    return seeded(SmallNet)


def seeded(make: Callable[[], SmallNet]) -> SmallNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def draw(height: int, width: int, dtype: type = np.uint8, channels: int = 1) -> NDArray[np.generic]:
    """Smooth noise, read-only as an array out of a pack is."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    image.flags.writeable = False
    return image


def predict_whole(
    net: nn.Module, working: NDArray[np.generic], size: tuple[int, int], crop: tuple[int, int] = (32, 32)
) -> tuple[Tensor, NDArray[np.uint8], float]:
    """Logits of one pass over the whole padded image at own size, their ids, and the mean top probability."""
    height, width = working.shape[:2]
    pixels = working.reshape(height, width, -1).astype(np.float64)
    scaled = ((pixels - pixels.mean((0, 1))) / pixels.std((0, 1))).transpose(2, 0, 1)
    down, across = (max(least - side, -side % 32) for side, least in zip((height, width), crop, strict=True))
    padding = ((0, 0), (0, down), (0, across))
    padded = torch.from_numpy(np.pad(scaled, padding, mode="reflect")[None]).float()
    with torch.no_grad():
        logits = net(padded)[:, :, :height, :width]
        confidence = float(logits.softmax(1).amax(1).double().mean())
        if (height, width) != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits[0], logits[0].argmax(0).to(torch.uint8).numpy(), confidence


def assert_same_but_ties(ids: Tensor, expected: NDArray[np.uint8], logits: Tensor) -> None:
    """Equal, but where the two best logits differ by less than float32 rounds differently in other shapes."""
    differ = ids.numpy() != expected
    best = logits.topk(2, dim=0).values
    assert not (differ & ((best[0] - best[1]).numpy() > 1e-5)).any()
    assert differ.mean() < 1e-4


@pytest.mark.parametrize("size", [(64, 64), (100, 230), (129, 65), (33, 200), (5, 3), (2, 1), (320, 257)])
@pytest.mark.parametrize("tiling", [((96, 96), 32), ((128, 96), 32), ((96, 256), 32)])
def test_windows_give_what_the_whole_image_gives(
    net: SmallNet, size: tuple[int, int], tiling: tuple[tuple[int, int], int]
) -> None:
    working = draw(*size)
    predictor = Predictor(net, Tiling(crop_px=tiling[0], halo_px=tiling[1]), batch=2, device=CPU)
    found = predictor.predict(working, image_statistics(working), size)
    logits, expected, confidence = predict_whole(net, working, size, tiling[0])
    assert_same_but_ties(found.ids, expected, logits)
    assert found.confidence == pytest.approx(confidence, rel=1e-6)


@pytest.mark.parametrize("full", [(576, 576), (577, 800), (448, 613), (290, 301)])
@pytest.mark.parametrize("shrink", [3, 2, 1.7])
def test_ids_at_own_size_are_those_of_the_whole_images_logits(
    net: SmallNet, full: tuple[int, int], shrink: float
) -> None:
    small = (round(full[0] / shrink), round(full[1] / shrink))
    working = draw(*small)
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=4, device=CPU)
    found = predictor.predict(working, image_statistics(working), full)
    logits, expected, _ = predict_whole(net, working, full)
    assert found.ids.shape == full
    assert_same_but_ties(found.ids, expected, logits)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_depth_and_colour_is_predicted(channels: int, dtype: type) -> None:
    net = seeded(lambda: SmallNet(channels))
    working = draw(100, 150, dtype, channels)
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=3, device=CPU)
    found = predictor.predict(working, image_statistics(working), (100, 150))
    logits, expected, _ = predict_whole(net, working, (100, 150))
    assert_same_but_ties(found.ids, expected, logits)


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_the_batch_changes_nothing_but_ties(net: SmallNet, batch: int) -> None:
    working = draw(200, 310)
    tiling = Tiling(crop_px=(96, 96), halo_px=32)
    one, other = (
        Predictor(net, tiling, batch=size, device=CPU).predict(working, image_statistics(working), (600, 930))
        for size in (1, batch)
    )
    assert (one.ids != other.ids).float().mean() < 1e-5  # float32 convolutions sum in another order
    assert one.confidence == pytest.approx(other.confidence, rel=1e-6)


def test_every_batch_has_the_fixed_size(net: SmallNet) -> None:
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    working = draw(200, 100)
    Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=4, device=CPU).predict(
        working, image_statistics(working), (200, 100)
    )
    assert set(seen) == {4}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_real_network_predicts_in_either_precision(precision: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("unet", backbone=None, num_classes=2, channels=1)
    working = draw(70, 90)
    predictor = Predictor(
        model, Tiling(crop_px=(64, 64), halo_px=16), batch=2, device=CPU, precision=precision
    )
    found = predictor.predict(working, image_statistics(working), (210, 270))
    assert not model.training
    assert found.ids.shape == (210, 270)
    assert found.ids.max() < 2
    assert 0.5 <= found.confidence <= 1
