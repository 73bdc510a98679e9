"""How much memory a process has taken."""

from pathlib import Path

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process held so far: on a GPU of torch's tensors, else resident.

    Of Linux's figures VmHWM, in KiB: that of getrusage begins with what the process was forked from.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
