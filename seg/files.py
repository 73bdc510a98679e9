"""Files that are whole or absent: written under a temporary name, flushed, renamed; writing that waits."""

import errno
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from seg.errors import RequestError
from seg.plain_data import FROM_A_COPY, parse_json, without_nan

log = logging.getLogger(__name__)

TEMPORARY = ".part"
"""Ending of a file that is still being written; whatever finds one later may remove it."""

PATIENCE_S, LONGEST_PAUSE_S = 120.0, 15.0

PASSING = {
    errno.EIO: "a soft-mounted server, or a cable",
    errno.ENOSPC: "a full disk that somebody clears",
    errno.EDQUOT: "the same, of one user",
    errno.EROFS: "remounted read-only after an error, until it is checked",
    errno.ESTALE: "the server forgot the folder; a new look-up finds it",
    errno.ETIMEDOUT: "a server that does not answer",
    errno.EHOSTDOWN: "the same",
    errno.EHOSTUNREACH: "the same",
    errno.ENETUNREACH: "the same",
    errno.ENETDOWN: "the same",
    errno.ECONNREFUSED: "a server that starts again",
    errno.ECONNRESET: "the same",
    errno.ECONNABORTED: "the same",
    errno.ENOTCONN: "a file system in user space whose process is gone",
    errno.EAGAIN: "a busy server or no memory for it",
    errno.EINTR: "a signal in the middle of a call to a server",
    errno.EBUSY: "another machine has the file open",
    errno.ENOLCK: "a server without room for locks",
    errno.EACCES: "a ticket that ran out and is renewed, or rights that somebody gives back",
    errno.EPERM: "the same, as some servers say it",
    errno.ENOENT: "a mount that is gone, and with it the folder",
    errno.ENOTDIR: "the same, a file in its place",
    None: "an object store: pyarrow gives its words and no number",
}
"""Why a write may be refused now and not in a minute, by error number; others (a name too long) stay."""

Result = TypeVar("Result")


def require_data_folder(root: Path) -> None:
    """RequestError: the folder of a data set is not there."""
    if not root.is_dir():
        raise RequestError(f"data {root} is no folder; give the one that holds the data set")


def require_model_file(path: Path) -> None:
    """RequestError: a model file is not there."""
    if not path.is_file():
        raise RequestError(f"model {path} is not there; give the best.safetensors of a run")


def is_leftover(path: Path) -> bool:
    """Whether a file is what `replacing` left behind when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def permit() -> None:
    """Whoever may write anywhere asks nobody."""


@contextmanager
def replacing(
    path: Path, *, make_folder: bool = True, may_write: Callable[[], object] = permit
) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; without an error it then becomes `path`, durably.

    After a crash at any moment `path` holds the old content or the new, never a mixture. make_folder: whether
    its folder is made where it is not there; else writing raises FileNotFoundError. may_write: called once
    all is written, before the renaming; where it raises, nothing is left.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id: two containers that share the storage can have the same
    temporary = path.with_name(f".{_shorten(path.name)}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        may_write()  # not before: a mount that is gone since then took the temporary file along
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _shorten(name: str) -> str:
    """A file's name cut to 200 bytes, so that with our endings it stays within the 255 of file systems."""
    return os.fsdecode(os.fsencode(name)[:200])


def write_bytes(
    path: Path, content: bytes, *, make_folder: bool = True, may_write: Callable[[], object] = permit
) -> None:
    """Write a file whole (see `replacing`)."""
    with replacing(path, make_folder=make_folder, may_write=may_write) as temporary:
        temporary.write_bytes(content)


def show_text(path: Path, text: str) -> None:
    """Replace a small file that is for the eye alone: not flushed, since it is written every second.

    OSError: also where its folder is not there; none is made, so that nothing comes below a vanished mount.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def persistently(write: Callable[[], Result], what: str, *, patience_s: float = PATIENCE_S) -> Result:
    """What `write` returns, called again and again while storage refuses for a reason of PASSING.

    write: may be called again after it failed anywhere inside. what: the file or folder, for people; the log
    says when waiting begins and ends. OSError, naming `what`: refused for longer than `patience_s`, counted
    from the first refusal. Ctrl-C ends the waiting.
    """
    refused_at: float | None = None
    pause_s = 1.0
    while True:
        try:
            result = write()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            now = time.monotonic()
            if refused_at is None:
                refused_at = now
                log.info(f"{what}: {error}; trying for {patience_s:g} s")
            left_s = refused_at + patience_s - now
            if left_s <= 0:
                raise _given_up(error, what, patience_s) from error
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            if refused_at is not None:
                waited_s = time.monotonic() - refused_at
                log.info(f"{what}: goes on after {waited_s:.0f} s")
            return result


def _given_up(error: OSError, what: str, patience_s: float) -> OSError:
    text = f"{what}: refused for {patience_s:g} s: {error.strerror or error}"
    return OSError(error.errno, text) if error.errno is not None else OSError(text)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, readable by people too; what is no number becomes null."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Plain data as the text of a JSON file."""
    return (json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path, mend: str = FROM_A_COPY) -> Any:
    """Plain data of a JSON file. RequestError, naming it: it is damaged; mend: what to do about that."""
    return parse_json(path.read_bytes(), str(path), mend)


def first_difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first field in which two plain values differ, with both; of lists the name alone."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(set(found) | set(wanted)):
            if found.get(key) != wanted.get(key):
                return first_difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
        if odd := sorted(set(found) ^ set(wanted)):  # of which the other has none, and this one null
            return f"{'no' if odd[0] in wanted else 'the unknown'} {f'{where}.' if where else ''}{odd[0]}"
    if isinstance(found, list):
        return f"other values of {where}"
    return f"{where} {found} instead of {wanted}"
