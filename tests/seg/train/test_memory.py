import subprocess
import sys

COMMAND = """
import numpy as np
import torch
from seg.train.training import peak_memory_bytes
before = peak_memory_bytes(torch.device("cpu"))
np.ones(300_000_000, np.uint8).sum()
print(before, peak_memory_bytes(torch.device("cpu")))
"""


def test_the_peak_holds_what_was_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 290e6 < after - before < 310e6
