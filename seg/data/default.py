"""The data a bare command trains on."""

import os
import sys
from pathlib import Path

from seg.progress import progress

FOLDER = Path("data/simulated")


def default_data() -> Path:
    """$FRINGE_DATA, else an archive simulated under data/simulated, once; which one is said on screen."""
    if given := os.environ.get("FRINGE_DATA"):
        print(f"data: {given} ($FRINGE_DATA)", file=sys.stderr)
        return Path(given)
    from seg.data.simulate import Simulation, simulate_archive

    simulation = Simulation()
    total = simulation.num_sequences * simulation.num_frames
    print(f"data: {FOLDER}, {total} simulated frames (no --data given)", file=sys.stderr)
    with progress("simulating", total) as advance:
        simulate_archive(FOLDER, simulation, workers=len(os.sched_getaffinity(0)), advance=advance)
    return FOLDER
