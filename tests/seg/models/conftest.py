"""What every test of a network has: weights that are the same in each run."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights come from torch's default generator, which is left as it was found."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
