"""The lock of a folder on an object store, where nothing can be made only if it is not there: best effort.

Who wants the folder puts `ask-NUMBER-RANDOM.json`, waits for SETTLE_S, and gives way to everybody who asked
with a lower name or holds it; else puts `lock-NUMBER-RANDOM.json`. Two jobs may both hold a folder where a
request of one takes longer than SETTLE_S: pyarrow has no way to make an object only where there is none.
Numbers grow: who takes a lock over has the next.
"""

import logging
import re
import time

from seg.locks.holder import LostLock, describe_ourselves, refuse_living
from seg.storage import SECOND_NS, Place, refusing

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""Seconds between two signs of life; each is a request."""
SETTLE_S = 3.0
"""In this time a request that another job has sent is through."""

_NAME = re.compile(r"(?:ask|lock)-(\d+)-[0-9a-f]+\.json")


def try_to_take(place: Place, what: str) -> str:
    """Take a folder, and return the token.

    RequestError: another job holds it, or asked for it just now; the store refuses.
    """
    with refusing(place.uri):
        return _take(place, what)


def _take(place: Place, what: str) -> str:
    holder = describe_ourselves(max(map(_number, _locks(place)), default=0) + 1, what)
    ask, lock = f"ask-{holder.token}.json", f"lock-{holder.token}.json"
    place.write(ask, holder.to_json())
    try:
        _refuse_others(place, ask, "lock-")
        time.sleep(SETTLE_S)
        left_behind = _refuse_others(place, ask)
        place.write(lock, holder.to_json())
    finally:
        place.remove(ask)
    for name, whose in left_behind.items():
        place.remove(name)
        log.info(f"{place}: taken over from {whose}")
    return holder.token


def beat(place: Place, token: str) -> None:
    """Give a sign of life, unless the lock is gone."""
    name = f"lock-{token}.json"
    content = place.read(name)
    if content is not None:
        place.write(name, content)


def check(place: Place, token: str) -> None:
    """Make sure that the lock with this token holds a folder; errors as of `check_owner`."""
    held = [name for name in _locks(place) if name.startswith("lock-")]
    if not held:
        raise FileNotFoundError(f"{place} holds no lock any more")
    if f"lock-{token}.json" not in held or max(map(_number, held)) > int(token.partition("-")[0]):
        raise LostLock.of(place)


def release(place: Place, token: str) -> None:
    """Remove the lock with this token."""
    place.remove(f"lock-{token}.json")


def _locks(place: Place) -> list[str]:
    return [name for name in place.names() if _NAME.fullmatch(name)]


def _number(name: str) -> int:
    return int(name.split("-")[1])


def _refuse_others(place: Place, ask: str, kind: str = "") -> dict[str, str]:
    """What others left behind, by the name of its object, in words. RequestError: they live."""
    left_behind: dict[str, str] = {}
    for name in _locks(place):
        if name == ask or not name.startswith(kind) or _asks_after(name, ask):
            continue
        found, ours, content = place.stat(name), place.stat(ask), place.read(name)
        if ours is None:
            raise FileNotFoundError(f"somebody removed {ask}")
        if found is None or content is None:
            return _refuse_others(place, ask, kind)  # it went meanwhile; it may have become a lock before
        silent_s = (ours.mtime_ns - found.mtime_ns) / SECOND_NS
        left_behind[name] = refuse_living(place, content, silent_s)
    return left_behind


def _asks_after(name: str, ask: str) -> bool:
    return name.startswith("ask-") and (_number(name), name) > (_number(ask), ask)
