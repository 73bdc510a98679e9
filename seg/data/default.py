"""The data a bare command trains on."""

import os
from pathlib import Path

from seg.progress import progress
from seg.screen import say

FOLDER = Path("data/simulated")


def default_data() -> Path:
    """$FRINGE_DATA, else an archive simulated under data/simulated, once; which one is said on screen."""
    if given := os.environ.get("FRINGE_DATA"):
        say(f"data: {given} ($FRINGE_DATA)")
        return Path(given)
    from seg.data.simulate import Simulation, simulate_archive

    simulation = Simulation()
    total = simulation.num_sequences * simulation.num_frames
    say(f"data: {FOLDER}, {total} simulated frames (no --data given)")
    with progress("simulating", total) as advance:
        simulate_archive(FOLDER, simulation, workers=len(os.sched_getaffinity(0)), advance=advance)
    return FOLDER
