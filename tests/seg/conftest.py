"""An S3 server for the tests of a file."""

from collections.abc import Iterator

import pytest

from tests.s3 import S3, serve_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A server with an empty bucket."""
    with serve_s3() as server:
        yield server
