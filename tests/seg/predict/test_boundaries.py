"""Windows against the whole image, for architectures with random weights: what a halo has to cover."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.data.preprocess import image_statistics
from seg.models.build import build, takes_frames
from seg.models.fcn32 import FCN32
from seg.predict.predictor import Predictor
from seg.predict.tiling import place_grid
from seg.recipe import Tiling
from seg.recipes import RECIPES

CPU = torch.device("cpu")


class Calibrated(nn.Module):
    """A network of two classes, random weights, and a threshold between them that an image decides."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.TAKES_FRAMES = takes_frames(name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = build(name, num_classes=2, channels=1).eval()
        self.threshold = 0.0

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return torch.stack([logits[:, 0] + self.threshold, logits[:, 1]], dim=1)

    @torch.inference_mode()
    def calibrate(self, working: NDArray[np.uint8]) -> None:
        """The second class on a tenth of the pixels, as cells are in an interferogram."""
        images = torch.from_numpy((working - working.mean()) / working.std()).float()[None, None]
        logits = self(images[:, None] if self.TAKES_FRAMES else images)[0]
        self.threshold = float((logits[1] - logits[0]).quantile(0.9))


def draw(height: int, width: int) -> NDArray[np.uint8]:
    """Structure of every size."""
    random = np.random.default_rng(0)
    noise = [random.normal(0, 1, (height, width)) for _ in range(3)]
    image = noise[0] + 2 * 4 * cv2.GaussianBlur(noise[1], (0, 0), 4)
    image += 2 * 16 * cv2.GaussianBlur(noise[2], (0, 0), 16)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]


def differing_share(name: str, tiling: Tiling) -> float:
    """Share of pixels that windows predict otherwise than one pass over the image, in an endless image.

    Measured on the one seam of two windows; an endless image has one each way every core.
    """
    crop, step = tiling.crop_px[0], tiling.crop_px[0] - 2 * tiling.halo_px
    working = draw(crop, crop + step)
    network = Calibrated(name)
    network.calibrate(working)
    whole, windows = (
        Predictor(network, kind, batch=1, device=CPU)
        .predict(working, image_statistics(working), (crop, crop + step))
        .ids
        for kind in (Tiling(crop_px=(crop, crop + step), halo_px=0), tiling)
    )
    assert 0.05 < float(whole.float().mean()) < 0.2
    return 2 * float((whole != windows).sum()) / (crop * step)


CUTTING = {name: recipe for name, recipe in RECIPES.items() if recipe.tiling.halo_px}
"""Recipes whose images are larger than their windows; the others' fit into one."""


def test_recipes_without_a_halo_see_their_images_whole_or_pool_over_them() -> None:
    seen = {
        "interferogram-fcn32-small": (3072 // 4, 3072 // 4),
        "interferogram-icnet": (3072 // 3, 3072 // 3),
        "interferogram-icnet-gru": (3072 // 3, 3072 // 3),
        "camvid-icnet": (360, 480),
        "camvid-unet": (128, 128),
        "camvid-fpn-mobilenet": (360, 480),
        "pets-fcn-resnet101": (128, 128),
        "pets-fcn-resnet101-37": (128, 128),
        "drinks-pyramid": (480, 640),
        "drinks-fpn-mobilenet": (480 // 2, 640 // 2),
    }
    assert seen.keys() | CUTTING.keys() == RECIPES.keys()
    for name, size in seen.items():
        assert len(place_grid(size, size, RECIPES[name].tiling).tiles) == 1, name


@pytest.mark.parametrize(
    "recipe",
    [
        name if name == "interferogram-small" else pytest.param(name, marks=pytest.mark.long)
        for name in CUTTING
    ],
)
def test_windows_with_a_recipes_halo_differ_from_the_whole_image_in_a_thousandth_of_the_pixels_at_most(
    recipe: str,
) -> None:
    assert differing_share(RECIPES[recipe].model, RECIPES[recipe].tiling) <= 1e-3


HALOS = {"unet-classic": (256, 32), "fcn-resnet50": (448, 176), "fcn32": (576, 224)}
"""Windows and halos that keep others within that; their recipes see images whole.

Of pyramid-fcn a halo of 128, of icnet-gru one of 160 does not cover the context.
"""


@pytest.mark.long
@pytest.mark.parametrize("name", HALOS)
def test_a_halo_that_covers_an_architectures_context_leaves_no_trace_of_windows(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(FCN32, "HEAD_WIDTH", 64)  # a fiftieth of the work, the same context
    crop, halo = HALOS[name]
    assert differing_share(name, Tiling(crop_px=(crop, crop), halo_px=halo)) <= 1e-3
