import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from seg.process import MALLOC, SPINS


def spins_of(first: str, **variables: str) -> int:
    """How often threads of torch's OpenMP ask before they sleep, after some code: as it says itself."""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.submodule_search_locations
    library = next((Path(torch.submodule_search_locations[0]) / "lib").glob("libgomp*"))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", f"{first}; import ctypes; ctypes.CDLL({str(library)!r})"],
        env=environment | variables | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert said, done.stderr
    return int(said[1])


JOB = "from jobs.run import run_job; run_job('job', int)"


@pytest.mark.parametrize("first", [JOB, "import fringe"])
def test_threads_of_torch_that_wait_for_another_soon_leave_it_their_core(first: str) -> None:
    assert spins_of("pass") > 10 * SPINS
    assert spins_of(first) == SPINS


@pytest.mark.parametrize("variables", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_how_the_user_has_them_wait_stays(variables: dict[str, str]) -> None:
    assert spins_of(JOB, **variables) == spins_of("pass", **variables) != SPINS


FAULTS = """
import resource, threading
import numpy as np
def work():
    global faults
    for turn in range(8):
        first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.empty(100 * 2**20, np.uint8).fill(1)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first
thread = threading.Thread(target=work); thread.start(); thread.join(); print(faults)
"""
"""Prints for how many pages of an array the system was asked once seven as large had been let go."""


def faults_after(first: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{FAULTS}"],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("first", [JOB, "import fringe"])
def test_the_memory_of_an_array_serves_the_next(first: str) -> None:
    assert faults_after("pass") > 40 >= faults_after(first)
    assert faults_after("pass", **{name: str(value) for name, (_, value) in MALLOC.items()}) <= 40


def test_how_the_user_has_memory_kept_stays() -> None:
    assert faults_after(JOB, MALLOC_MMAP_THRESHOLD_="65536") > 40
