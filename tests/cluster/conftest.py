"""One Ray for all tests of a file, started and ended here."""

import os
import secrets
from collections.abc import Iterator

import pytest

from cluster.quiet import ENVIRONMENT
from cluster.session import Session


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A session whose own Ray runs, behind a token that is not the user's; it does not end between tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        session = Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)
        session.start()
        yield session
        import ray  # not before the mode is set, which it reads once

        ray.shutdown()


@pytest.fixture
def idle() -> Session:
    """A session without Ray: work that needs none leaves it so."""
    return Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)
