"""Predicting and counting an image by MONAI's sliding window and metric, and by ours, with one model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.setup import BATCH, Bench, time_ms
from bench.table import Row
from seg.data.frames import Frame
from seg.data.images import Pixels, decode_image
from seg.data.preprocess import choose_statistics, normalise, preprocess
from seg.metrics import iou
from seg.models.build import build
from seg.predict.confusion import confusion_matrix
from seg.predict.passes import autocast
from seg.predict.predictor import Predictor
from seg.recipe import Recipe, Tiling
from seg.recipes import RECIPES

TURNS = 2
"""Turns for each one that the bench is asked for: an image takes a second."""
LEAST_ALIKE = 0.95
"""Share of pixels that both must agree on: where windows overlap, MONAI averages and we keep cores."""
FRAME_PX = 3072
COLOUR_PX = (768, 960)
"""Size of CamVid's frames, in whole strides: there both lay the same windows."""
NUM_CLASSES = {1: 2, 3: 11}
"""By channels: of interferograms and of CamVid."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a contender found of an image: class ids at its own size, uint8 [H, W], and each class's IoU."""

    ids: Tensor
    ious: NDArray[np.float64]


class Subject:
    """One recipe's network with chance weights, and an image with its truth."""

    def __init__(self, recipe: Recipe, precision: str, pixels: Pixels) -> None:
        channels = recipe.preprocessing.channels
        self.num_classes, self.precision, self.tiling = NUM_CLASSES[channels], precision, recipe.tiling
        torch.manual_seed(0)
        model = build(recipe.model, backbone=recipe.backbone, num_classes=self.num_classes, channels=channels)
        self.model: nn.Module = model.to(memory_format=torch.channels_last).eval()
        self.size = (pixels.shape[0], pixels.shape[1])
        working = preprocess(pixels, recipe.preprocessing)
        self.frame: Frame = (working, choose_statistics(working, recipe.preprocessing, None))
        coarse = np.random.default_rng(0).integers(self.num_classes, size=(24, 30), dtype=np.uint8)
        truth = cv2.resize(coarse, self.size[::-1], interpolation=cv2.INTER_NEAREST)
        self.truth = np.asarray(truth, np.uint8)
        self._spread_classes()

    @torch.inference_mode()
    def _spread_classes(self) -> None:
        """Shift the score layer's biases so that each class wins somewhere: chance weights favour one."""
        (height, width), pixels = self.tiling.crop_px, self._pixels()
        logits = self._forward(pixels[..., :height, :width])
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Conv2d)]
        score = [layer for layer in layers if layer.bias is not None and len(layer.bias) == logits.shape[1]]
        assert score[-1].bias is not None, "as chosen"
        score[-1].bias -= logits.movedim(1, 0).flatten(1).median(1).values

    def count_ours(self, predictor: Predictor) -> Counted:
        """By `Predictor` and one confusion matrix."""
        ids = predictor.predict(*self.frame, self.size).ids
        return Counted(ids, iou(confusion_matrix(self.truth, ids, self.num_classes).numpy()))

    @torch.inference_mode()
    def count_monai(self, mode: str) -> Counted:
        """By MONAI as its tutorials combine it: window, argmax, one-hot, MeanIoU; logits enlarged between."""
        from monai.inferers.utils import sliding_window_inference  # pyright: ignore[reportMissingImports]  # optional
        from monai.metrics.meaniou import MeanIoU  # pyright: ignore[reportMissingImports]
        from monai.networks.utils import one_hot  # pyright: ignore[reportMissingImports]

        logits = sliding_window_inference(
            self._pixels(), self.tiling.crop_px, BATCH, self._forward, _overlap(self.tiling), mode
        )
        assert isinstance(logits, Tensor), "one input, one output"
        if logits.shape[-2:] != self.size:
            logits = F.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        ids = logits.argmax(1, keepdim=True)
        metric = MeanIoU(reduction="mean_batch", ignore_empty=False)
        truth = torch.from_numpy(self.truth)[None, None]
        metric(one_hot(ids, self.num_classes), one_hot(truth, self.num_classes))
        ious = metric.aggregate()
        assert isinstance(ious, Tensor), "counts of what is no number are not asked for"
        return Counted(ids[0, 0].to(torch.uint8), ious.double().numpy())

    def check_alike(self, ours: Counted, theirs: Counted) -> None:
        """Whether both do the same; also the warm-up. SystemExit: they do not."""
        alike = float((ours.ids == theirs.ids).float().mean())
        counted = iou(confusion_matrix(self.truth, theirs.ids, self.num_classes).numpy())
        if alike < LEAST_ALIKE or not np.allclose(counted, theirs.ious, atol=1e-5):
            raise SystemExit(f"MONAI and we agree on {alike:.1%} of the pixels, or its metric is none")

    def _pixels(self) -> Tensor:
        """What the model sees of the whole image, float32 [1, channels, h, w]."""
        working, statistics = self.frame
        pixels = torch.from_numpy(working)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        mean, std = (
            torch.tensor([[values]], dtype=torch.float64) for values in (statistics.mean, statistics.std)
        )
        return normalise(pixels[None, None], mean, std)[:, 0]

    def _forward(self, crops: Tensor) -> Tensor:
        with autocast(crops.device, self.precision):
            logits = self.model(crops.contiguous(memory_format=torch.channels_last))
        return logits.float()


def _overlap(tiling: Tiling) -> tuple[float, ...]:
    """Share of a window that the next one has too; the half pixel: MONAI rounds its step down."""
    return tuple((2 * tiling.halo_px - 0.5) / side if tiling.halo_px else 0.0 for side in tiling.crop_px)


def measure_monai(bench: Bench) -> Iterator[Row]:
    """Ours against MONAI on each of three networks, then both blended by Gaussian weights."""
    modes = {"core": "constant", "gaussian": "gaussian"}
    for name, blend in (
        ("interferogram-small", "core"),
        ("interferogram-icnet", "core"),
        ("camvid-fpn-mobilenet", "core"),
        ("interferogram-small", "gaussian"),
    ):
        subject = Subject(RECIPES[name], bench.precision, read_frame(bench, RECIPES[name]))
        predictor = Predictor(
            subject.model,
            subject.tiling,
            batch=BATCH,
            device=torch.device("cpu"),
            precision=bench.precision,
            blend="gaussian" if blend == "gaussian" else "core",
        )
        ours, theirs = partial(subject.count_ours, predictor), partial(subject.count_monai, modes[blend])
        subject.check_alike(ours(), theirs())
        contenders = {"ours": partial(time_ms, ours), "theirs": partial(time_ms, theirs)}
        found = bench.take_turns(contenders, more=1 if bench.quick else TURNS)
        what = f"{name}, {blend}"
        yield Row(what, found["ours"], f"MONAI, {modes[blend]}", found["theirs"], "share", 100)


def read_frame(bench: Bench, recipe: Recipe) -> Pixels:
    """A simulated frame, a small one repeated to full size; colours are noise of a camera's size.

    An image smaller than a window would be padded, which MONAI and we do in different ways.
    """
    if recipe.preprocessing.channels == 3:
        return np.random.default_rng(0).integers(256, size=(*COLOUR_PX, 3), dtype=np.uint8)
    pixels = decode_image(min((bench.frames / "images").rglob("*.png")).read_bytes())
    return np.asarray(np.tile(pixels, (FRAME_PX // pixels.shape[0], FRAME_PX // pixels.shape[1])), np.uint8)
