"""What a training step takes where others use the cores too, by how long torch's threads wait awake."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bench.setup import Bench, count_cores, time_ms
from bench.table import Row
from seg.models.build import build
from seg.process import SPINS

CROPS = (4, 1, 64, 64)
"""Small ones: many waits for little work, as in the first layers of any network."""
AWAKE = {"GOMP_SPINCOUNT": "300000"}
"""As GNU OpenMP has it."""


def step_ms(variables: Mapping[str, str]) -> float:
    """What a step takes in a process of its own with these variables and as many threads as cores."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.sharing"],
        env={**os.environ, "OMP_NUM_THREADS": str(count_cores()), **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measure_sharing(bench: Bench) -> Iterator[Row]:
    """Steps of threads that sleep soon against those of torch's own, on idle cores, then on busy ones."""
    contenders = {
        "ours": lambda: step_ms({"GOMP_SPINCOUNT": str(SPINS)}),
        "torch's": lambda: step_ms(AWAKE),
    }
    for jobs in (0, count_cores()):
        with busy_processes(jobs):
            found = bench.take_turns(contenders)
        yield Row(
            f"a step beside {jobs} busy processes",
            found["ours"],
            "torch's own waiting",
            found["torch's"],
            "times",
        )


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute while the block runs."""
    processes = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        pass


def main() -> None:
    """Print what a step of a small network takes here, in ms."""
    model = build("unet", backbone="mobilenet_v2", num_classes=2, channels=1)
    optimizer, crops = torch.optim.Adam(model.parameters()), torch.randn(CROPS)

    def step() -> None:
        optimizer.zero_grad()
        model(crops).mean().backward()
        optimizer.step()

    print(json.dumps(time_ms(step, least_s=2.0)))


if __name__ == "__main__":
    main()
