"""Scorings one after another on one Ray, to see that none of them stands still.

python -m tests.faults.many_scorings [--runs 50] [--frames 64] [--stages apart]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import tyro

from cluster.score import score
from cluster.session import compute_session
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.conftest import write_discs
from tests.small import write_model


def main(runs: int = 50, frames: int = 64, stages: Literal["together", "apart"] = "apart") -> None:
    """Score small frames so many times; a line each, with its seconds. A watchdog ends what stands still."""
    with tempfile.TemporaryDirectory() as folder, compute_session() as session:
        root = Path(folder)
        archive = write_discs(root / "archive", sequences=1, frames=frames, size=(64, 64))
        model = write_model(root / "model.safetensors")
        took = []
        for number in range(runs):
            request = ScoreRequest(
                archive=as_place(archive),
                models=(model,),
                out=as_place(root / f"out-{number}"),
                workers=1 if stages == "apart" else 2,
                stages=stages,
                stall_minutes=1.0,
            )
            started = time.monotonic()
            summary = score(request, session)
            took.append(time.monotonic() - started)
            if summary.exit_code or summary.values["images_scored"] != frames:
                raise SystemExit(f"run {number}: {summary.values['images_scored']} of {frames} images")
            print(f"{stages} {number}: {took[-1]:.1f} s", file=sys.stderr, flush=True)
        print(f"{stages}: {runs} scorings of {frames} frames, {min(took):.1f} to {max(took):.1f} s each")


if __name__ == "__main__":
    tyro.cli(main)
