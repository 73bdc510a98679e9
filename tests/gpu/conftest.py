"""The device that these tests are for."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first CUDA device; without one the test is skipped, visibly.

    $GPU_STAND_IN names another (cpu), so that tests which rarely meet a GPU follow the code that they test.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if stand_in := os.environ.get("GPU_STAND_IN"):
        return torch.device(stand_in)
    pytest.skip("no CUDA device is here")
