"""How long from logits at a third of the size to class ids at own size? Ours against torch's."""

import json
import platform
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.setup import time_ms
from seg.predict.tiling import Span
from seg.predict.upsampling import Resampling, classes_at_own_size, margins_over_first


def by_torch(logits: Tensor, side_px: int) -> Tensor:
    full = F.interpolate(logits[None], size=(side_px, side_px), mode="bilinear", align_corners=False)[0]
    return full.argmax(0).to(torch.uint8)


def by_fringe(logits: Tensor, side_px: int) -> Tensor:
    small = logits.shape[-1]
    axis = Resampling(Span(0, 0, small), small, side_px, small, logits.device)
    return classes_at_own_size(margins_over_first(logits), axis, axis)


CONTENDERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "interpolate + argmax": by_torch,
    "seg.predict.upsampling": by_fringe,
}


def main(repeat: int = 5, side_px: int = 3072, threads: int = 1) -> None:
    """Print a line a contender and number of classes, then one JSON line."""
    torch.set_num_threads(threads)
    print(
        f"{platform.machine()}, {threads} thread, torch {torch.__version__}, {side_px // 3} -> {side_px} px"
    )
    rows: dict[str, list[float]] = {}
    for num_classes in (2, 11):
        random = torch.Generator().manual_seed(0)
        logits = torch.randn(num_classes, side_px // 3, side_px // 3, generator=random)
        expected = by_torch(logits, side_px)
        for name, contender in CONTENDERS.items():
            differing = int((contender(logits, side_px) != expected).sum())
            if differing > side_px:  # rounding decides a pixel in a few thousand rows at most
                raise SystemExit(f"{name} differs in {differing} pixels: not timed")
            call = partial(contender, logits, side_px)
            rows[f"{name}, {num_classes} classes"] = times = [time_ms(call) for _ in range(repeat)]
            spread = f"({min(times):.0f}-{max(times):.0f})"
            print(f"{name:22}{num_classes:3} classes {median(times):8.1f} ms {spread}, {differing} px differ")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
