"""The device that these tests are for."""

import pytest
import torch


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first CUDA device; without one the test is skipped, visibly."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    return torch.device("cuda")
