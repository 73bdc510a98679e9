"""How fast is scoring? The whole job against plain loops and MONAI; its limits; what each stage costs.

python -m bench.scoring [--rows pipeline monai ...] [--precision bf16] [--repeat 2] [--quick] [--folder DIR]
                        [--pool DIR]

Everything runs on CPU cores, as a user starts it: jobs are processes, with a Ray of their own. Contenders
take turns, so that they share a busy machine's noise. docs/explanation/scaling.md goes on from it.
"""

import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
import tyro

from bench.monai_contender import measure_monai
from bench.scoring_limits import measure_listing, measure_memory, measure_resume
from bench.scoring_loops import measure_pipeline, measure_small
from bench.scoring_rows import measure_rows
from bench.scoring_stages import measure_stages
from bench.setup import CPU_RECIPE, Bench, bench_folder, count_cores
from bench.table import Row, print_table
from bench.values import Value

MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Row | Value]]] = {
    "pipeline": measure_pipeline,
    "small": measure_small,
    "monai": measure_monai,
    "resume": measure_resume,
    "memory": measure_memory,
    "listing": measure_listing,
    "stages": measure_stages,
    "rows": measure_rows,
}


def reason_to_skip(bench: Bench, name: str) -> str | None:
    """Why a measurement is left out; None: it can be made."""
    if name == "small" and bench.pool is None:
        return "no checkout of the engine before was given (--pool)"
    if name == "monai" and find_spec("monai") is None:
        return "monai is not installed (pip install --no-deps monai)"
    return None


def describe(bench: Bench) -> str:
    """What the numbers belong to."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "opencv-python"))
    return (
        f"{platform.machine()}, {count_cores()} cores, Python {platform.python_version()}, {versions}\n"
        f"{CPU_RECIPE}, {bench.precision}; {bench.repeat} turns"
    )


def main(
    rows: tuple[str, ...] = tuple(MEASUREMENTS),
    precision: Literal["float32", "bf16"] = "bf16",
    repeat: int = 2,
    quick: bool = False,
    folder: Path | None = None,
    pool: Path | None = None,
) -> None:
    """Print a line a row, then one JSON line.

    rows: what to measure, keys of MEASUREMENTS. precision: of the model; in bf16 it is fast, and all the rest
    counts for more. repeat: turns of each contender. quick: small frames, one turn and no Ray, to see in a
    minute whether all works. folder: where frames, model and results go, and frames and model are found
    again; None: a temporary one. pool: a checkout of the last commit whose scoring was a pool of workers
    (06315da), to be measured beside.
    """
    with bench_folder(folder) as place:
        bench = Bench(
            quick=quick, repeat=1 if quick else repeat, precision=precision, folder=place, pool=pool
        )
        bench.simulate()
        bench.train_model()
        torch.set_num_threads(count_cores())
        measurements = ((name, partial(MEASUREMENTS[name], bench)) for name in rows)
        print_table(describe(bench), measurements, partial(reason_to_skip, bench))


if __name__ == "__main__":
    tyro.cli(main)
