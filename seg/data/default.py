"""The data a bare command trains on."""

import os
import sys
from pathlib import Path

from seg.progress import progress

FOLDER = Path("data/simulated")
SEQUENCES, FRAMES, SIZE_PX = 4, 8, 3072


def default_data() -> Path:
    """$FRINGE_DATA, else an archive simulated under data/simulated, once; which one is said on screen."""
    if given := os.environ.get("FRINGE_DATA"):
        print(f"data: {given} ($FRINGE_DATA)", file=sys.stderr)
        return Path(given)
    from seg.data.simulate import simulate_archive

    print(
        f"data: {FOLDER}, {SEQUENCES} simulated sequences of {FRAMES} frames (no --data given)",
        file=sys.stderr,
    )
    with progress("simulating", SEQUENCES * FRAMES) as advance:
        simulate_archive(
            FOLDER,
            num_sequences=SEQUENCES,
            num_frames=FRAMES,
            size_px=SIZE_PX,
            bits=8,
            seed=0,
            difficulty="standard",
            workers=os.cpu_count() or 1,
            advance=advance,
        )
    return FOLDER
