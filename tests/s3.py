"""An S3 server on this machine's loopback, for tests of what lies on object stores."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

BUCKET = "fringe"


@dataclass(frozen=True)
class S3:
    """A server with one bucket, which the environment names and has the keys of."""

    endpoint: str

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """For the length of a block nobody has any rights."""
        from moto import settings

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
            yield


@contextmanager
def serve_s3() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True).create_dir(BUCKET)
        yield S3(f"http://{host}:{port}")
    server.stop()
