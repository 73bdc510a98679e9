"""How long an archive would take on 1, 8 or 64 GPUs, and what would bind (docs/explanation/scaling.md).

python -m bench.scaling [--cpu-ms 195] [--row-ms 1.46] [--cores-per-gpu 8] [--more-cores 0 16] ...
"""

from dataclasses import dataclass
from itertools import product

import tyro

from seg.data.preprocess import working_size
from seg.predict.tiling import place_grid
from seg.recipe import Recipe
from seg.recipes import RECIPES

FRAME_PX = 3072
PUBLISHED = {"interferogram-icnet": 42.1, "interferogram-resnet18": 30.7}
"""Megapixels a second of the same network on a V100: mmsegmentation's ICNet-R50 and FCN-R18 (model zoo)."""
GPUS = (1, 8, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What one frame takes, measured or looked up."""

    gpu_ms: float
    """Of a GPU, for the model."""
    cpu_ms: float
    """Of a core, to read and to finish it, and to hand it from stage to stage."""
    row_ms: float
    """Of the job's process."""
    frame_mb: float
    """Of storage, to read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a night runs on."""

    gpus: int
    cores_per_gpu: float
    """Beside each GPU; one of them has the process that predicts."""
    more_cores: float
    """For each GPU, on machines without one."""
    storage_gb_s: float


def find_rates(costs: Costs, cluster: Cluster) -> dict[str, float]:
    """Frames a second that each part could do, were it alone; the lowest binds."""
    return {
        "model": 1e3 * cluster.gpus / costs.gpu_ms,
        "cores": 1e3 * cluster.gpus * (cluster.cores_per_gpu - 1 + cluster.more_cores) / costs.cpu_ms,
        "storage": 1e3 * cluster.storage_gb_s / costs.frame_mb,
        "job": 1e3 / costs.row_ms,
    }


def model_ms(recipe: Recipe, megapixels_per_second: float) -> float:
    """Milliseconds that a network of that rate takes for all windows of a frame."""
    size = (FRAME_PX, FRAME_PX)
    grid = place_grid(working_size(*size, recipe.preprocessing), size, recipe.tiling)
    return len(grid.tiles) * grid.crop[0] * grid.crop[1] / 1e3 / megapixels_per_second


def main(
    frames: int = 100_000,
    cpu_ms: float = 195.0,
    row_ms: float = 1.46,
    frame_mb: float = 6.5,
    cores_per_gpu: float = 8.0,
    more_cores: tuple[float, ...] = (0.0, 16.0),
    storage_gb_s: tuple[float, ...] = (1.0, 10.0),
) -> None:
    """Print a table in Markdown: hours and what binds, by network, storage, cores and number of GPUs."""
    columns = " | ".join(f"GPUs: {gpus}" for gpus in GPUS)
    print(f"| network, its time a frame | storage | cores elsewhere, a GPU | {columns} |")
    print("| --- | --- | --- |" + " --- |" * len(GPUS))
    for name, rate in PUBLISHED.items():
        gpu_ms = model_ms(RECIPES[name], rate)
        costs = Costs(gpu_ms=gpu_ms, cpu_ms=cpu_ms, row_ms=row_ms, frame_mb=frame_mb)
        for bandwidth, more in product(storage_gb_s, more_cores):
            cells = []
            for gpus in GPUS:
                cluster = Cluster(
                    gpus=gpus, cores_per_gpu=cores_per_gpu, more_cores=more, storage_gb_s=bandwidth
                )
                rates = find_rates(costs, cluster)
                binds = min(rates, key=lambda part: rates[part])
                cells.append(f"{frames / rates[binds] / 3600:.2g} h, {binds}")
            print(f"| {name}, {gpu_ms:.0f} ms | {bandwidth:g} GB/s | {more:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    tyro.cli(main)
