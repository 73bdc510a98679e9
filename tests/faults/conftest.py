"""Ray for these tests, with the one token of this process, as tests/cluster has it."""

from tests.cluster.conftest import idle, session

__all__ = ["idle", "session"]
