"""What a process, and all that it starts, is told before torch computes there; what the user set stays."""

import ctypes
import os

SPINS = 10_000
"""How often a thread of torch's asks whether the others are done before it sleeps.

GNU OpenMP's own 300,000 take milliseconds; where others use the cores too, the thread that is waited for
does not get one meanwhile: a small training's epoch took 2.3 to 4.7 s beside two busy processes, up to 63 s
beside more, and so 1.0 to 1.7 s. On idle cores a step of crops of 64 px takes up to a tenth longer, one of
256 px the same (bench/sharing.py).
"""

KEPT_BYTES = 2**30
"""What malloc keeps for the next array at most, and the size from which an array is a mapping of its own."""
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": (-3, KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": (-1, KEPT_BYTES),
    "MALLOC_ARENA_MAX": (-8, 1),  # a thread's own arena holds 64 MiB: less than an activation
}
"""Variables that glibc's malloc reads as a process starts: their number in mallopt(3), and what we set."""


def set_up_process() -> None:
    """Have threads of torch spin briefly and malloc keep its memory, here and in all processes begun here.

    To be called before torch is loaded and threads are started: what runs already stays as it is.
    """
    _spin_briefly()
    _keep_memory()


def _spin_briefly() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _keep_memory() -> None:
    """Keep what arrays of up to 1 GiB leave, where glibc gives back all of 32 MiB and more.

    A network's activations are tens to hundreds of MiB: each pass had the system map and clear all of their
    pages again, a sixth of the time of interferogram-small's passes with a thread, a quarter with two, a
    tenth of its training step, a quarter of camvid-fpn-mobilenet's (measured).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have none and read no variable
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    for name, (number, value) in MALLOC.items():
        os.environ[name] = str(value)
        mallopt(number, value)
