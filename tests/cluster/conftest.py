"""One Ray for all tests of a file, started and ended here."""

import os
import secrets
from collections.abc import Iterator

import pytest

from cluster.session import ENVIRONMENT, Session

# Ray reads these once a process, and some modules load it when they are imported; no token of the user's
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A session whose own Ray runs and does not end between tests."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        session = Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)
        session.start()
        yield session
        ray.shutdown()


@pytest.fixture
def idle() -> Session:
    """A session without Ray: work that needs none leaves it so."""
    return Session(len(os.sched_getaffinity(0)), 0, 0, connected=False)
