"""How long one core takes for a simulated frame of 3072 px, and for the static part of a sequence."""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import scipy
import tyro

from bench.setup import time_ms
from seg.simulate.archive import write_frame
from seg.simulate.holograms import DIFFICULTIES, Scene, make_background, simulate_frame

LIMIT_S = 2.5
"""What a frame of 3072 px may take, written to disk."""


def time_s(call: Callable[[int], object], repeat: int) -> list[float]:
    """Seconds of a call, `repeat` times over, given 0, 1, 2, ...: each is another frame's."""
    numbers = count()
    return [time_ms(lambda: call(next(numbers))) / 1e3 for _ in range(repeat)]


def measure(scene: Scene, repeat: int) -> dict[str, list[float]]:
    """Seconds of the static part, of a frame, and of a frame written to disk."""

    def make_static(_: int) -> None:
        make_background.cache_clear()
        make_background(scene)

    static = time_s(make_static, repeat)
    made = time_s(lambda frame: simulate_frame(scene, frame), repeat)
    with tempfile.TemporaryDirectory() as folder:
        written = time_s(lambda frame: write_frame(Path(folder), scene, frame), repeat)
    return {"static part, a sequence": static, "frame in memory": made, "frame written": written}


def main(repeat: int = 5, size_px: int = 3072) -> None:
    """Print seconds by difficulty and depth, on one core, then one JSON line."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, whatever the libraries would like
    print(f"{platform.machine()}, 1 core, numpy {np.__version__}, scipy {scipy.__version__}, {size_px} px")
    rows = {}
    for name, difficulty in DIFFICULTIES.items():
        for bits in (8, 16):
            scene = Scene(seed=0, sequence=0, size_px=size_px, bits=bits, difficulty=difficulty)
            for what, seconds in measure(scene, repeat).items():
                rows[f"{name}, {bits} bits, {what}"] = seconds
                spread = f"({min(seconds):.2f}-{max(seconds):.2f})"
                print(f"{name:10} {bits:2} bits  {what:24} median {median(seconds):6.2f} s  {spread}")
    slowest = max(median(seconds) for what, seconds in rows.items() if "written" in what)
    print(f"slowest frame {slowest:.2f} s, limit at 3072 px {LIMIT_S} s")
    print(json.dumps(rows))


if __name__ == "__main__":
    tyro.cli(main)
