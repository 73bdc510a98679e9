"""The lock of a folder on this machine or a mounted one: a numbered file, which one job alone can make."""

import errno
import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from seg.errors import RequestError
from seg.files import TEMPORARY
from seg.locks.holder import Holder, LostLock, describe_ourselves, refuse_living
from seg.storage import Place

log = logging.getLogger(__name__)

BEAT_S = 2.0
"""Seconds between two signs of life."""

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_NAME = re.compile(r"lock-(\d+)\.json")


def try_to_take(place: Place, what: str) -> str:
    """Put a lock of ours after the newest in a folder and return its token; empty: others came between.

    Locks are numbered: who takes one over makes the next number, in which one alone succeeds, and only then
    removes the old one.
    """
    folder = place.local()
    folder.mkdir(parents=True, exist_ok=True)
    before = max(_numbers(folder), default=0)
    holder = describe_ourselves(before + 1, what)
    ours = _lock_file(folder, holder.token)
    left_behind = _link(ours, holder, folder / f"lock-{before}.json")
    if left_behind is None:
        return ""
    there = _numbers(folder)
    if max(there, default=0) != before + 1 or (before and before not in there):
        ours.unlink(missing_ok=True)  # we were so slow that the old one has had another successor
        return ""
    for number in there - {before + 1}:
        (folder / f"lock-{number}.json").unlink(missing_ok=True)
    if left_behind:
        log.info(f"{folder}: taken over from {left_behind}")
    return holder.token


def _link(ours: Path, holder: Holder, before: Path) -> str | None:
    """Make a lock's file, whole and only if it is not there: None if it is; else whose lock was before it.

    By a hard link, as that is one step on network file systems too. RequestError: the one before is in use.
    """
    offer = ours.with_name(f".{ours.name}.{holder.token}{TEMPORARY}")
    try:
        offer.write_bytes(holder.to_json())
        left_behind = _refuse_living(before, now_s=offer.stat().st_mtime)
        os.link(offer, ours)
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise RequestError(
            f"{ours.parent} is on storage without hard links, by which jobs keep apart; give another `out`"
        ) from None
    finally:
        offer.unlink(missing_ok=True)
    return left_behind


def beat(place: Place, token: str) -> None:
    """Give a sign of life."""
    os.utime(_lock_file(place.local(), token))


def check(place: Place, token: str) -> None:
    """Make sure that the lock with this token holds a folder; errors as of `check_owner`."""
    file = _lock_file(place.local(), token)
    try:
        held = json.loads(file.read_bytes())["token"] == token and not _next_file(file).exists()
    except FileNotFoundError:
        if not _next_file(file).exists():
            raise
        held = False
    if not held:
        raise LostLock.of(place)


def release(place: Place, token: str) -> None:
    """Remove the lock with this token, if it still holds the folder."""
    with suppress(LostLock):
        check(place, token)
        _lock_file(place.local(), token).unlink()


def _refuse_living(file: Path, now_s: float) -> str:
    """Whose lock a file was and why it is left behind, in words; empty without a file.

    now_s: by the clock of the storage. RequestError: it is in use.
    """
    try:
        with file.open("rb") as opened:  # opened first: that is when a network file system looks again
            silent_s = now_s - os.fstat(opened.fileno()).st_mtime
            content = opened.read()
    except FileNotFoundError:
        return ""
    return refuse_living(file.parent, content, silent_s)


def _lock_file(folder: Path, token: str) -> Path:
    return folder / f"lock-{token.partition('-')[0]}.json"


def _next_file(file: Path) -> Path:
    (number,) = _numbers_of([file.name])
    return file.with_name(f"lock-{number + 1}.json")


def _numbers(folder: Path) -> set[int]:
    return _numbers_of([path.name for path in folder.iterdir()])


def _numbers_of(names: list[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
