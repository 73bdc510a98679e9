"""Which objects an S3 server hands out, by the server's own log."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.s3 import BUCKET

_REQUEST = re.compile(rf"(GET|PUT) /{BUCKET}/([^? ]+)[? ]")


class _Reads(logging.Handler):
    def __init__(self, until: str) -> None:
        super().__init__()
        self.until, self.ended = until, False
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        request = _REQUEST.search(record.getMessage())
        if request is None or self.ended:
            return
        verb, name = request.groups()
        self.ended = (verb, name) == ("PUT", self.until)
        self.counts[name] += verb == "GET"


@contextmanager
def counting_reads(*, until: str) -> Iterator[Counter[str]]:
    """How often each object is read while the block runs, until one of that name is written."""
    logger, reads = logging.getLogger("werkzeug"), _Reads(until)
    level = logger.level
    logger.addHandler(reads)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield reads.counts
    finally:
        logger.removeHandler(reads)
        logger.setLevel(level)
        logger.propagate = True
