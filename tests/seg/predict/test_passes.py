"""A pass holds exactly so many crops of whatever images are there, and no crop hangs on the others."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seg.data.preprocess import image_statistics
from seg.models import MODELS
from seg.models.build import build, takes_frames
from seg.models.fcn32 import FCN32
from seg.predict.passes import Part, Passes, has_fast_bf16
from seg.predict.tiling import FrameCrops, ImageCrops, Mixing
from seg.recipe import Tiling
from tests.seg.models.test_models import LONG

CPU = torch.device("cpu")
TILING = Tiling(crop_px=(32, 32), halo_px=0)


class Echo(nn.Module):
    """Gives back what it sees, and notes how many crops that were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, crops: Tensor) -> Tensor:
        self.sizes.append(len(crops))
        return crops


def draw_image(tiles: int, seed: int = 0, dtype: type = np.uint8) -> FrameCrops:
    """An image of so many tiles."""
    size = (32, 32 * tiles)
    pixels = np.random.default_rng(seed).integers(0, 200 + 50 * seed, size).astype(dtype)
    return FrameCrops([(pixels, image_statistics(pixels))], size, TILING)


def run(tiles: Sequence[int | None], batch: int, mixing: Mixing = "mixed") -> tuple[list[int], list[Tensor]]:
    net = Echo()
    passes = Passes(net, batch=batch, device=CPU, mixing=mixing)
    images = [None if count is None else draw_image(count, seed) for seed, count in enumerate(tiles)]
    return net.sizes, list(passes.logits(images))


@pytest.mark.parametrize(
    ("tiles", "batch", "passes"),
    [
        ([5], 4, 2),
        ([1, 1, 1, 1], 4, 1),
        ([3, 3, 3, 3], 4, 3),
        ([1], 4, 1),
        ([2, None, 2], 4, 2),  # none was there to join the first
        ([4, None, None, 4, None], 4, 2),  # nothing waits for company
        ([2, 7, 1], 1, 10),
    ],
)
def test_every_pass_has_as_many_crops_and_every_crop_its_own_logits(
    tiles: list[int | None], batch: int, passes: int
) -> None:
    sizes, logits = run(tiles, batch)
    assert sizes == [batch] * passes
    expected = [
        (draw_image(count, seed), number) for seed, count in enumerate(tiles) for number in range(count or 0)
    ]
    assert len(logits) == len(expected)
    for found, (image, number) in zip(logits, expected, strict=True):
        crop = image.cut(slice(number, number + 1))[0, 0].astype(np.float64)
        scaled = (crop - image.means[0][:, None, None]) / image.deviations[0][:, None, None]
        np.testing.assert_allclose(found.numpy(), scaled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tiles", "batch", "sizes"),
    [([10, 3], 4, [4, 4, 4, 3]), ([10], 7, [5, 5]), ([10, 1], 64, [10, 1]), ([1, 1], 4, [1, 1])],
)
def test_passes_of_one_image_are_as_few_as_can_be_and_of_one_size(
    tiles: list[int], batch: int, sizes: list[int]
) -> None:
    found, logits = run(tiles, batch, "image")
    assert found == sizes
    assert len(logits) == sum(tiles)


def test_images_are_asked_for_no_sooner_than_a_pass_needs_them() -> None:
    asked: list[int] = []

    def images() -> Iterator[ImageCrops]:
        for number in range(5):
            asked.append(number)
            yield draw_image(2)

    logits = Passes(Echo(), batch=4, device=CPU).logits(images())
    next(logits)
    assert asked == [0, 1]


def test_bits_and_channels_of_images_in_one_pass_may_differ_in_depth() -> None:
    images = [draw_image(1, seed, dtype) for seed, dtype in enumerate((np.uint8, np.uint16))]
    together = list(Passes(Echo(), batch=2, device=CPU).logits(images))
    for image, found in zip(images, together, strict=True):
        (alone,) = Passes(Echo(), batch=2, device=CPU).logits([image])
        assert torch.equal(alone, found)


def test_who_is_in_a_pass_is_told_before_it_runs() -> None:
    told: list[list[ImageCrops]] = []
    net = Echo()
    passes = Passes(net, batch=3, device=CPU)
    images = [draw_image(2), draw_image(2)]

    class Watch:
        def __init__(self, parts: Sequence[Part]) -> None:
            told.append([image for image, _ in parts])
            self.before = len(net.sizes)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            assert len(net.sizes) == self.before + 1

    passes.watch = Watch
    list(passes.logits(images))
    assert told == [images, images[1:]]


PRECISIONS = ["float32", pytest.param("bf16", marks=[] if has_fast_bf16() else [pytest.mark.long])]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in LONG | {"fcn32"} else []) for name in MODELS],
)
def test_logits_hang_on_neither_a_crops_place_in_a_pass_nor_its_company(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in passes of one size: so images may share passes, and integers stay what they are."""
    monkeypatch.setattr(FCN32, "HEAD_WIDTH", 64)
    check_company(name, precision, CPU)


def check_company(name: str, precision: str, device: torch.device) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name, num_classes=3, channels=1).to(device, memory_format=torch.channels_last)
        settle(model, torch.randn(2, *([2] if takes_frames(name) else []), 1, 64, 96).to(device))
    tiling = Tiling(crop_px=(64, 96), halo_px=0)
    images = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        pixels = [random.integers(0, 256, (64, 96), np.uint8) for _ in range(2 if takes_frames(name) else 1)]
        images.append(FrameCrops([(one, image_statistics(one)) for one in pixels], (64, 96), tiling))
    passes = Passes(model, batch=3, device=device, precision=precision)
    alone = [next(passes.logits([image])) for image in images]  # filled up with itself
    assert all(logits.isfinite().all() for logits in alone)
    assert not torch.equal(alone[0], alone[1])
    for order in permutations(range(3)):
        together = list(passes.logits([images[number] for number in order]))
        for number, logits in zip(order, together, strict=True):
            assert torch.equal(logits, alone[number]), (name, precision, order)


def settle(model: nn.Module, images: Tensor) -> None:
    """Have layers that normalise go by these images: what 101 layers of chance give is too large for fp16."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        model.train()(images)
