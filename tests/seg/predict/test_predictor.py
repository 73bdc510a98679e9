import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.data.preprocess import image_statistics
from seg.errors import RequestError
from seg.models.build import build
from seg.predict.predictor import Canvas, PixelCounter, Prediction, Predictor
from seg.predict.tiling import CutCrops, FrameCrops
from seg.predict.upsampling import margins_over_first, top_class, top_probability
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


def test_the_probability_of_each_working_pixel_is_told_when_asked(net: SmallNet) -> None:
    working = draw(100, 230)
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=2, device=CPU)
    frames = [(working, image_statistics(working))]
    found = predictor.predict_frames(frames, (210, 460), probability=True)
    logits, _, _ = predict_whole(net, working, (100, 230))
    assert found.probability is not None
    assert found.probability.dtype == torch.float32
    torch.testing.assert_close(found.probability, logits.softmax(0).amax(0), rtol=0, atol=1e-5)
    assert predictor.predict_frames(frames, (210, 460)).probability is None


@pytest.mark.parametrize("num_classes", [1, 2, 3, 11])
def test_the_top_class_and_its_probability_follow_from_margins(num_classes: int) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (num_classes, 60, 50), generator=random).float()  # full of ties
    logits[:, 30:] *= 40  # and where a softmax without care would overflow
    margins = margins_over_first(logits)
    assert torch.equal(top_class(margins), torch.from_numpy(logits.numpy().argmax(0)).to(torch.uint8))
    expected = logits.double().softmax(0).amax(0).float()
    torch.testing.assert_close(top_probability(margins), expected, rtol=1e-6, atol=0)


BLENDS = ["core", "gaussian"]
IMAGES = {
    "at own size": ((333, 190), (333, 190), np.uint8, 1),
    "16 bits, enlarged": ((333, 190), (700, 395), np.uint16, 1),
    "colour": ((200, 90), (300, 95), np.uint8, 3),
    "smaller than a window": ((20, 300), (60, 900), np.uint8, 1),
    "a width of whole windows": ((420, 160), (420, 160), np.uint8, 1),
}


@pytest.mark.parametrize("blend", BLENDS)
def test_images_that_share_passes_are_predicted_bit_for_bit_as_alone(
    net: SmallNet, blend: Literal["core", "gaussian"]
) -> None:
    gray = [values for values in IMAGES.values() if values[3] == 1]
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=4, device=CPU, blend=blend)
    frames = [(draw(*small, dtype), size) for small, size, dtype, _ in gray]
    images = [predictor.crop([(working, image_statistics(working))], size) for working, size in frames]
    together = []
    for image, pieces in predictor.predict_stream(images):
        canvas = Canvas(image.grid, CPU, probability=True)
        for piece in pieces:
            canvas.add(piece)
        together.append(canvas.finish())
    for (working, size), found in zip(frames, together, strict=True):
        assert_equal(
            found, predictor.predict_frames([(working, image_statistics(working))], size, probability=True)
        )


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("blend", BLENDS)
def test_crops_that_were_cut_before_give_the_same(kind: str, blend: Literal["core", "gaussian"]) -> None:
    small, size, dtype, channels = IMAGES[kind]
    working = draw(*small, dtype, channels)
    net = seeded(lambda: SmallNet(channels))
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=3, device=CPU, blend=blend)
    frames = [(working, image_statistics(working))]
    canvas = None
    for image, pieces in predictor.predict_stream([cut_out(predictor.crop(frames, size))]):
        canvas = Canvas(image.grid, CPU, probability=True)
        for piece in pieces:
            canvas.add(piece)
    assert canvas is not None
    assert_equal(canvas.finish(), predictor.predict_frames(frames, size, probability=True))


def cut_out(image: FrameCrops) -> CutCrops:
    crops = image.gather()
    crops.pixels.flags.writeable = False  # as in an object store
    return crops


def assert_equal(one: Prediction, other: Prediction) -> None:
    assert torch.equal(one.ids, other.ids)
    assert len(one.ids.unique()) == 3  # or it would prove little
    assert one.confidence == other.confidence
    assert one.probability is not None
    assert other.probability is not None
    assert torch.equal(one.probability, other.probability)


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(333, 190), (700, 395)])
def test_shares_of_an_image_stitch_and_add_up_to_the_whole(
    net: SmallNet, shares: int, size: tuple[int, int]
) -> None:
    working = draw(333, 190)
    frames = [(working, image_statistics(working))]
    predictor = Predictor(net, Tiling(crop_px=(96, 96), halo_px=32), batch=4, device=CPU)
    whole = predictor.predict_frames(frames, size, probability=True)
    image = predictor.crop(frames, size)
    canvas, seen = Canvas(image.grid, CPU, probability=True), torch.zeros(333, 190, dtype=torch.int64)
    truth = torch.randint(3, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    truth[5:40, 70:] = 255
    counts = []
    parts = cut_out(image).shares(shares, 1)
    assert len(parts) == shares
    for part in reversed(parts):
        for _, pieces in predictor.predict_stream([part]):
            rows = part.own_rows()
            counter = PixelCounter(3, CPU, truth[rows], rows.start)
            for piece in pieces:
                seen[piece.working] += 1
                canvas.add(piece)
                counter.add(piece)
            counts.append(counter.counts())
    assert (seen == 1).all()
    assert_equal(whole, canvas.finish())
    total = sum(counts[1:], counts[0])
    ids = whole.ids.numpy()
    assert total.confusion == tuple(
        int(((truth == row) & (ids == column)).sum()) for row in range(3) for column in range(3)
    )
    assert total.class_pixels == tuple(int((ids == k).sum()) for k in range(3))
    assert total.ignored == int((truth == 255).sum())


def test_shares_of_a_blend_are_refused(net: SmallNet) -> None:
    tiling = Tiling(crop_px=(96, 96), halo_px=32)
    predictor = Predictor(net, tiling, batch=1, device=CPU, blend="gaussian")
    working = draw(200, 200)
    image = cut_out(predictor.crop([(working, image_statistics(working))], (200, 200))).shares(5, 1)[0]
    _, pieces = next(predictor.predict_stream([image]))
    with pytest.raises(ValueError, match="not of the blend gaussian"):
        next(pieces)


def blend_by_hand(
    net: nn.Module, working: NDArray[np.generic], size: tuple[int, int], crop: int, halo: int
) -> Tensor:
    """Probabilities at own size, float64 [C, H, W]: weighted sum over whole canvases, divided at the end."""
    height, width = working.shape
    scaled = (working.astype(np.float64) - working.mean()) / working.std()
    down, across = (max(crop - side, -side % 32) for side in (height, width))
    padded = torch.from_numpy(np.pad(scaled, ((0, down), (0, across)), mode="reflect"))[None, None]
    distance = (torch.arange(crop, dtype=torch.float64) - (crop - 1) / 2) / (crop / 8)
    weight = torch.exp(-(distance[:, None] ** 2 + distance**2) / 2)
    total, weights = torch.zeros(3, *padded.shape[2:], dtype=torch.float64), torch.zeros(padded.shape[2:])
    weights = weights.double()
    last_row, last_column = padded.shape[2] - crop, padded.shape[3] - crop
    for top in [*range(0, last_row, crop - 2 * halo), last_row]:
        for left in [*range(0, last_column, crop - 2 * halo), last_column]:
            window = (slice(top, top + crop), slice(left, left + crop))
            with torch.no_grad():
                probability = net(padded[..., window[0], window[1]])[0].softmax(0)
            total[:, window[0], window[1]] += weight * probability
            weights[window] += weight
    averaged = (total / weights)[None, :, :height, :width]
    return F.interpolate(averaged, size=size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(333, 190), (701, 395), (999, 190)])
@pytest.mark.parametrize("crop", [96, 128])
def test_a_gaussian_blend_is_the_weighted_average_of_all_windows(
    net: SmallNet, size: tuple[int, int], crop: int
) -> None:
    working = draw(333, 190)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)  # surer, and seams clearer
    tiling, statistics = Tiling(crop_px=(crop, crop), halo_px=16), image_statistics(working)
    predictor = Predictor(net, tiling, batch=3, device=CPU, blend="gaussian")
    found = predictor.predict_frames([(working, statistics)], size, probability=True)
    expected = blend_by_hand(net.double(), working, size, crop, 16)
    assert_same_but_ties(found.ids, expected.argmax(0).to(torch.uint8).numpy(), expected)
    top = blend_by_hand(net, working, (333, 190), crop, 16).amax(0)
    assert found.probability is not None
    torch.testing.assert_close(found.probability.double(), top, rtol=0, atol=1e-5)
    assert found.confidence == pytest.approx(float(top.mean()), rel=1e-6)
    cores = Predictor(net.float(), tiling, batch=3, device=CPU).predict(working, statistics, size)
    assert (cores.ids != found.ids).any()  # a halo of 16 is less than the context of 23: seams differ


@pytest.mark.parametrize(
    ("blend", "halo", "message"),
    [
        ("gaussian", 0, "`blend=gaussian` averages windows where they overlap, but with a halo of 0"),
        ("mean", 16, "`blend` is mean; choose one of core, gaussian"),
    ],
)
def test_a_blend_that_cannot_be_is_refused(net: SmallNet, blend: Any, halo: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Predictor(net, Tiling(crop_px=(96, 96), halo_px=halo), batch=1, device=CPU, blend=blend)


def test_three_batch_sizes_differ_in_at_most_one_pixel_of_a_million() -> None:
    """They may differ at all since a convolution of another shape adds float32 products in another order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("unet", backbone=None, num_classes=2, channels=1).eval()
    working, size = draw(224, 320), (1120, 1600)
    small = Tiling(crop_px=(96, 96), halo_px=16)
    with torch.no_grad():  # both classes on about half of the pixels
        score = model.get_submodule("score")
        assert isinstance(score, nn.Conv2d)
        assert score.bias is not None
        logits = model(torch.randn(1, 1, 224, 320, generator=torch.Generator().manual_seed(0)))[0]
        score.bias[1] -= (logits[1] - logits[0]).median()
    one, *others = (
        Predictor(model, small, batch=batch, device=CPU).predict(working, image_statistics(working), size).ids
        for batch in (1, 3, 8)
    )
    assert 0.2 < float(one.float().mean()) < 0.8
    assert one.numel() > 1.7e6
    assert all(int((one != other).sum()) <= one.numel() // 10**6 for other in others)


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


MEASURE = """
import numpy as np, torch
from pathlib import Path
from seg.data.preprocess import Statistics
from seg.train.training import peak_memory_bytes
from seg.predict.predictor import Predictor
from seg.recipe import Tiling

torch.set_num_threads(1)
net = torch.nn.Conv2d(1, 2, 3, padding=1)
predictor = Predictor(net, Tiling(crop_px=(1024, 1024), halo_px=64), batch=4, device=torch.device("cpu"))
image = np.random.default_rng(0).integers(0, 256, (16384, 16384), dtype=np.uint8)
image.flags.writeable = False
predictor.predict(image[:2048, :2048], Statistics((127.0,), (70.0,), 8), (2048, 2048))  # loads libraries
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
status = Path("/proc/self/status").read_text().splitlines()
before = 1024 * int(next(line for line in status if line.startswith("VmRSS:")).split()[1])
prediction = predictor.predict(image, Statistics((127.0,), (70.0,), 8), image.shape)
print(peak_memory_bytes(torch.device("cpu")) - before - prediction.ids.numel())
"""


@pytest.mark.long
def test_an_image_of_16384_pixels_square_takes_little_memory_beside_its_pixels_and_ids() -> None:
    told = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    assert int(told.stdout) < 2**30  # a batch and its logits take 300 MiB
