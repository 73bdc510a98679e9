"""Files that are whole or absent: written under a temporary name, flushed, renamed."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".part"
"""Ending of a file that is still being written; whatever finds one later may remove it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; without an error it then becomes `path`, durably.

    After a crash at any moment `path` holds the old content or the new, never a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id: two containers that share the storage can have the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, readable by people too; what is no number becomes null (docs/formats.md)."""
    write_bytes(path, (json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Plain data of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def without_nan(value: Any) -> Any:
    """The same plain data with None where a float is NaN or infinite, since JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
