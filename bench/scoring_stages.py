"""What each stage of scoring a frame costs one core, and what a row costs the job's process."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import timer

from bench.setup import BATCH, Bench, time_ms
from bench.values import Value
from seg.data.background import Background
from seg.data.images import decode_image
from seg.data.labels import encode_mask, read_label
from seg.data.preprocess import choose_statistics, preprocess
from seg.model_file import load_model
from seg.objects import find_objects, match_objects, object_rows
from seg.predict.predictor import Piece, PixelCounter, Predictor
from seg.recipes import RECIPES
from seg.score.read import describe_pixels
from seg.storage import as_place

MIN_OBJECT_PX = 64
HEAVIER = "interferogram-icnet"
"""A recipe that prepares frames with more than a resize."""


Result = TypeVar("Result")


class TimedModel(nn.Module):
    """A network that notes how long its forward passes take, a sum for each prediction that was begun."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.took_ms: list[float] = []

    def forward(self, crops: Tensor) -> Tensor:
        """The network's own."""
        started = timer()
        logits = self.model(crops)
        self.took_ms[-1] += 1e3 * (timer() - started)
        return logits


class StageTimes:
    """The stages of one image after the other, on one thread, each again and again."""

    def __init__(self, bench: Bench) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.bench = bench
        self.found: dict[str, list[float]] = defaultdict(list)
        model, self.card = load_model(bench.model)
        self.model = TimedModel(model).eval()

    def take(self, stage: str, call: Callable[[], Result]) -> Result:
        """Time a stage; what it returns."""
        self.found[stage].append(time_ms(call))
        return call()

    def run(self, image: Path, label: Path) -> None:
        """Everything that a worker does for one image."""
        take, card = self.take, self.card
        data = take("read, from the page cache", image.read_bytes)
        truth_data = label.read_bytes()
        take("hash, SHA-256", lambda: hashlib.sha256(data).hexdigest())
        pixels = take("decode the image", lambda: decode_image(data))
        bmp = bytes(cv2.imencode(".bmp", pixels)[1])
        take("(decode it as BMP)", lambda: decode_image(bmp))
        take("mean and deviation of its pixels", lambda: describe_pixels(pixels))
        size = (pixels.shape[0], pixels.shape[1])
        truth = take("decode its mask of truth", lambda: read_label(truth_data, label, size, card.classes))
        background, heavier = Background(np.zeros(size, np.float32), num_frames=1), RECIPES[HEAVIER]
        what = f"(preprocess as {HEAVIER}: background, CLAHE)"
        take(what, lambda: preprocess(pixels, heavier.preprocessing, background))
        working = take("preprocess", lambda: preprocess(pixels, card.preprocessing))
        frame = working, choose_statistics(working, card.preprocessing, card.statistics)
        for precision in ("float32", "bf16"):
            ids, probability = self._predict(frame, size, precision)
        whole = slice(0, size[0]), slice(0, size[1])
        piece = Piece(whole, ids, (slice(0, 1), slice(0, 1)), probability)

        def count() -> None:
            counter = PixelCounter(len(card.classes), torch.device("cpu"), truth.mask)
            counter.add(piece)
            counter.counts()

        take("count pixels", count)

        def find_and_match() -> None:
            found = find_objects(ids.numpy(), len(card.classes), MIN_OBJECT_PX, probability.numpy())
            matches = match_objects(found, truth, len(card.classes), MIN_OBJECT_PX)
            object_rows(image.name, found, matches.ious)

        take("find and match objects", find_and_match)
        mask = take("encode the mask", lambda: encode_mask(ids.numpy()))
        place = as_place(self.bench.folder)
        take("write the mask, flushed", lambda: place.write("stage.png", mask))

    def _predict(self, frame: Any, size: tuple[int, int], precision: str) -> tuple[Tensor, Tensor]:
        predictor = Predictor(
            self.model, self.card.tiling, batch=BATCH, device=torch.device("cpu"), precision=precision
        )

        rest_ms: list[float] = []

        def predict() -> Any:
            self.model.took_ms.append(0.0)
            started = timer()
            prediction = predictor.predict_frames([frame], size, probability=True)
            rest_ms.append(1e3 * (timer() - started) - self.model.took_ms[-1])
            return prediction

        self.model.took_ms.clear()
        time_ms(predict)
        self.found[f"model, {precision}"].append(median(self.model.took_ms))
        if precision == "bf16":
            self.found["windows, upsampling, ids, confidence"].append(median(rest_ms))
        prediction = predict()
        assert prediction.probability is not None, "it was asked for"
        return prediction.ids, prediction.probability


def measure_stages(bench: Bench) -> Iterator[Value]:
    """Each stage of a frame, one core."""
    stages = StageTimes(bench)
    for image in sorted((bench.frames / "images").rglob("*.png")):
        stages.run(image, bench.frames / "masks" / image.relative_to(bench.frames / "images"))
    found = stages.found
    for stage, values in found.items():
        yield Value(f"a frame: {stage}", values, "ms")
    others = [values for stage, values in found.items() if not stage.startswith(("model", "("))]
    yield Value("a frame: all but the model", [sum(parts) for parts in zip(*others, strict=True)], "ms")
