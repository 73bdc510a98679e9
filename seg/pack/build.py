"""Packs on disk: found, checked, built by one process of a machine while the others wait."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from seg.errors import DataWarning, RequestError
from seg.files import TEMPORARY, replacing
from seg.pack.pack import SCHEMA, Pack, PackPlan, estimate_bytes, rows_by_threads
from seg.plain_data import from_plain
from seg.progress import progress

log = logging.getLogger(__name__)

PrepareRows = Callable[[PackPlan], Generator[pa.RecordBatch, None, None]]
"""Prepares a plan's rows in order: by threads, or by tasks on a cluster."""

BLOCK_BYTES = 2**24
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def ensure_pack(plan: PackPlan, prepare: PrepareRows = rows_by_threads) -> Path:
    """The path of a sound pack, built if there is none: one that was cut or damaged is built again.

    A lock lets one process build while others wait for what it builds. RequestError: an image or label is
    bad; the folder has no room or cannot be written.
    """
    path = plan.path
    if is_sealed(path):
        return path
    with _locked(path):
        if is_sealed(path) or _is_sound(path):
            return path
        if path.exists():
            warnings.warn(f"{path} is not the pack that was written: built again", DataWarning, stacklevel=2)
        _remove_leftovers(path)
        _build(plan, path, prepare)
    return path


def seal_file(path: Path) -> Path:
    """The file beside a pack that says what was written there; its lock is the pack's."""
    return path.with_suffix(".seal")


@dataclass(frozen=True, slots=True)
class Seal:
    """A pack's file as it was last written or checked."""

    bytes: int
    mtime_ns: int
    inode: int
    sha256: str
    """As of `digest_file`."""
    arrays: tuple[tuple[int, int], ...]
    """First byte and number of bytes of each array, in the file's order."""
    frame_crc32: int
    """Over all that is in no array: Arrow's own, and small values. The arrays have checksums among these."""


def is_sealed(path: Path) -> bool:
    """Whether a pack is the very file that was last written or checked, and Arrow may open it.

    Its size, time and inode say so, and what is in no array is as it was written.
    """
    seal = _read_seal(path)
    if seal is None or not path.is_file():
        return False
    is_same = _stamp(path) == (seal.bytes, seal.mtime_ns, seal.inode)
    return is_same and frame_crc32(path, seal.arrays) == seal.frame_crc32


def _is_sound(path: Path) -> bool:
    """Whether a pack's bytes are those that were written, whatever became of its time; then it is sealed."""
    seal = _read_seal(path)
    if seal is None or not path.is_file() or digest_file(path) != seal.sha256:
        return False
    _seal(path, path, seal.sha256)
    return True


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino


def frame_crc32(path: Path, arrays: Iterable[tuple[int, int]]) -> int:
    """CRC-32 over the bytes of a file that lie outside of some spans of it."""
    content = memoryview(pa.memory_map(str(path)).read_buffer())
    crc = at = 0
    for start, length in arrays:
        crc = zlib.crc32(content[at:start], crc)
        at = start + length
    return zlib.crc32(content[at:], crc)


def _read_seal(path: Path) -> Seal | None:
    """What a pack's seal says; None where it is missing, cut, or not ours to read."""
    try:
        return from_plain(Seal, json.loads(seal_file(path).read_bytes()))
    except (OSError, ValueError):
        return None


def _seal(path: Path, file: Path, digest: str) -> None:
    """Say what was written for a pack: in place, since its lock is on the seal; one cut short says nothing.

    file: where the pack's bytes are as yet; they are known to be sound.
    """
    arrays = tuple(Pack(file).array_spans())
    seal = Seal(*_stamp(file), digest, arrays, frame_crc32(file, arrays))
    seal_file(path).write_text(json.dumps(asdict(seal)), encoding="utf-8")


def digest_file(path: Path) -> str:
    """Sha256 over the sha256 of each block of 16 MiB, by as many threads as there are cores."""
    starts = range(0, path.stat().st_size, BLOCK_BYTES)
    with (
        path.open("rb") as file,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        progress("checking a pack, blocks", len(starts)) as advance,
    ):
        total = hashlib.sha256()
        blocks = pool.map(lambda start: hashlib.sha256(os.pread(file.fileno(), BLOCK_BYTES, start)), starts)
        for block in blocks:
            total.update(block.digest())
            advance()
    return total.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a pack's lock, which the kernel frees when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = seal_file(path).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"waiting for another process, which builds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise RequestError(
            f"packs {path.parent}: {error.strerror}; set FRINGE_CACHE to a folder where this user may write "
            "and lock files"
        ) from None
    with file:
        yield


def _is_free(path: Path) -> bool:
    """Whether nobody holds a pack's lock."""
    try:
        with seal_file(path).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # whoever locks makes it first
        pass
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove what killed builders of any pack left, while we hold the lock of `path`."""
    for part in path.parent.glob(f".*.arrow.*{TEMPORARY}"):
        pack = path.with_name(part.name[1:].rsplit(".", 2)[0])
        if pack == path or _is_free(pack):
            part.unlink(missing_ok=True)


def _build(plan: PackPlan, path: Path, prepare: PrepareRows) -> None:
    needed = estimate_bytes(plan)
    if needed > shutil.disk_usage(path.parent).free:
        raise _no_room(path.parent, needed)
    try:
        with replacing(path) as temporary:
            _write_rows(plan, temporary, prepare)
            # before the rename, which keeps size, time and inode: a kill in between leaves a seal of nothing
            _seal(path, temporary, digest_file(temporary))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _no_room(path.parent, needed) from None
        raise


def _write_rows(plan: PackPlan, file: Path, prepare: PrepareRows) -> None:
    with (
        closing(prepare(plan)) as rows,
        pa.OSFile(str(file), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
        progress("packing images", len(plan.samples)) as advance,
    ):
        for row in rows:
            writer.write_batch(row)
            advance()


def _no_room(folder: Path, needed: int) -> RequestError:
    size = f"about {needed:,}" if needed else "an unknown number of"  # none of the headers could be read
    free = shutil.disk_usage(folder).free
    return RequestError(
        f"packs {folder}: no room for a pack of {size} bytes, {free:,} are free; free some, or set "
        "FRINGE_CACHE to a folder on another disk"
    )
