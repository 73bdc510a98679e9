"""Folders that a URI names, on any filesystem that pyarrow knows: local, S3, Google Cloud, Azure, HDFS."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from seg.errors import RequestError
from seg.files import json_bytes, permit, replacing, write_bytes
from seg.plain_data import FROM_A_COPY, parse_json

COPY_BYTES, HASH_BYTES = 1 << 24, 1 << 20
FORMS = "give s3://BUCKET/PATH, gs://BUCKET/PATH, another URI that pyarrow knows, or an absolute path"
GOOGLE_PATIENCE_S = 30
"""Its client tries for 15 minutes by default, where no server answers, before it says so."""
SECOND_NS = 10**9
HARMLESS = frozenset({"region", "scheme", "endpoint_override", "retry_limit_seconds"})
"""Options of a URI that are no secrets."""

_HOST = re.compile(r"(\[.*|[^:]*)(?::(.*))?", re.DOTALL)


class FileStat(NamedTuple):
    """What tells a file from the one it was before: its size, and when it was changed.

    On object stores the time is of whole seconds, since they list it finer than they give it for one object.
    """

    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder on some filesystem; names in it are relative, with `/`. It pickles, without keys of its own.

    A file appears whole: locally by renaming, on object stores since one comes into being when its upload
    ends. HDFS shows a file while it is written.
    """

    uri: str
    """For people: an absolute path, or a URI without what follows a question mark."""
    filesystem: FileSystem
    path: str
    makes_folders: bool = field(default=True, compare=False)
    """Whether writing makes the folders that are not there, on a disk; see `settled`."""

    def __str__(self) -> str:
        return self.uri

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, as the mounted ones are."""
        return isinstance(self.filesystem, LocalFileSystem)

    def local(self, name: str = "") -> Path:
        """Path of a file in a local place, or of the place itself."""
        assert self.is_local, f"{self.uri} is no folder of this machine"
        return Path(self._path(name))

    def below(self, name: str) -> "Place":
        """A folder in this one."""
        return replace(self, uri=f"{self.uri.rstrip('/')}/{name}", path=f"{self.path.rstrip('/')}/{name}")

    def settled(self) -> "Place":
        """The same folder, which is there and is not made again: not when its mount is gone, say.

        Of it, and of those that `below` gives, writing needs a folder that is there, else FileNotFoundError.
        """
        return replace(self, makes_folders=False)

    def make_folders(self, name: str) -> None:
        """Make folders below this one, level by level; none on object stores.

        FileNotFoundError: this one is not there, and is not made.
        """
        if self.is_local:
            folder = self.local()
            for level in name.split("/"):
                folder /= level
                folder.mkdir(exist_ok=True)

    @property
    def above(self) -> "Place":
        """The folder that this one is in; a bucket is in none, and is its own."""
        if "/" not in self.path.strip("/"):
            return self
        uri, path = (where.rstrip("/").rpartition("/")[0] for where in (self.uri, self.path))
        return replace(self, uri=uri, path=path)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted; none where there is no such folder."""
        infos = self._infos(self._path(folder), recursive=False)
        return sorted(info.base_name for info in infos if info.type == FileType.File)

    def entries(self) -> list[str]:
        """Names of the files and folders right in this one, sorted; none where there is no such folder."""
        return sorted(info.base_name for info in self._infos(self.path, recursive=False))

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Name, size and `mtime_ns` of every file in this folder and those below it, in no order.

        Linked folders are not entered. None where there is no such folder. OSError: one cannot be listed.
        """
        return _walk_local(self.local()) if self.is_local else self._walk_store()

    def exists(self) -> bool:
        """Whether there is such a folder; on an object store, whether anything is in it."""
        return self.filesystem.get_file_info(self.path).type == FileType.Directory

    def stat(self, name: str) -> FileStat | None:
        """Size and time of change of a file; None where there is none."""
        if self.is_local:
            try:
                found = self.local(name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return FileStat(found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None
        info = self.filesystem.get_file_info(self._path(name))
        return _stat_of(info) if info.type == FileType.File else None

    def open(self, name: str) -> pa.NativeFile:
        """A file to read here and there in. FileNotFoundError: there is none."""
        return self.filesystem.open_input_file(self._path(name))

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError:
            if self.is_local or self.stat(name) is not None:
                raise
            return None  # removed between the two requests that reading is

    def sha256(self, name: str) -> str:
        """Hash of a file's content, in hexadecimal, in little memory. FileNotFoundError: there is none."""
        total = hashlib.sha256()
        with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
            while content := stream.read(HASH_BYTES):
                total.update(content)
        return total.hexdigest()

    def read_json(self, name: str) -> Any:
        """Plain data of a JSON file; None where there is no such file. RequestError, naming it: damaged."""
        content = self.read(name)
        if content is None:
            return None
        value = parse_json(content, f"{self}/{name}")
        if value is None:  # which would say that there is no file
            raise RequestError(f"{self}/{name} is damaged: it holds null; {FROM_A_COPY}")
        return value

    def write(self, name: str, content: bytes, *, may_write: Callable[[], object] = permit) -> None:
        """Write a file.

        may_write: called right before it appears: locally when all is written, on an object store before the
        request that makes it. What it raises goes through, and nothing appears.
        """
        if self.is_local:
            path = self.local(name)
            write_bytes(path, content, make_folder=self.makes_folders, may_write=may_write)
        else:
            may_write()
            self._put(name, pa.py_buffer(content))

    def write_below(self, name: str, content: bytes) -> None:
        """Write a file, and make the folders that its name goes through, but not this one."""
        try:
            self.write(name, content)
        except FileNotFoundError:
            if "/" not in name:
                raise
            self.make_folders(name.rpartition("/")[0])
            self.write(name, content)

    def write_json(self, name: str, value: Any, *, may_write: Callable[[], object] = permit) -> None:
        """Write plain data as JSON, as `seg.files.write_json` does; may_write: as of `write`."""
        self.write(name, json_bytes(value), may_write=may_write)

    def upload(self, name: str, source: Path) -> None:
        """Write a file from one on this machine."""
        if self.is_local:
            with replacing(Path(self._path(name)), make_folder=self.makes_folders) as temporary:
                shutil.copyfile(source, temporary)
        else:
            with pa.memory_map(str(source)) as file:
                self._put(name, file.read_buffer())

    def download(self, name: str, target: Path) -> None:
        """Copy a file to this machine. FileNotFoundError: there is none."""
        with (
            self.filesystem.open_input_stream(self._path(name), compression=None) as stream,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, COPY_BYTES)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self.filesystem.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _infos(self, path: str, *, recursive: bool) -> list[FileInfo]:
        selector = FileSelector(path, recursive=recursive, allow_not_found=True)
        try:
            return self.filesystem.get_file_info(selector)
        except FileNotFoundError:  # pyarrow opened no folder, and found one when it looked why: it is new
            return self.filesystem.get_file_info(selector)

    def _walk_store(self) -> Iterator[tuple[str, int, int]]:
        """A request lists a thousand objects, of all folders below; one folder of ours at a time is held."""
        top, start = self._infos(self.path, recursive=False), len(self.path.rstrip("/")) + 1
        folders = [info.path for info in top if info.type == FileType.Directory]
        for infos in (top, *(self._infos(folder, recursive=True) for folder in folders)):
            for info in infos:
                if info.type == FileType.File:
                    found = _stat_of(info)
                    yield info.path[start:], found.bytes, found.mtime_ns

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}".rstrip("/")

    def _put(self, name: str, content: pa.Buffer) -> None:
        """Write all in one call: closing makes the object, also when we failed between two calls."""
        with self.filesystem.open_output_stream(self._path(name), compression=None) as stream:
            stream.write(content)


def as_place(where: str | Path | Place) -> Place:
    """The folder that a user's words name: a URI, or a path, relative to where this process works.

    RequestError: as of `open_place`.
    """
    if isinstance(where, Place):
        return where
    if isinstance(where, str) and "://" in where:
        place = open_place(where)
        return as_place(Path(place.path)) if place.is_local else place
    path = str(Path(where).resolve())
    return Place(path, LocalFileSystem(), path)


def open_place(uri: str) -> Place:
    """The folder that a URI or an absolute path names; it need not be there yet, and nothing is written.

    RequestError: not a URI that pyarrow knows, or one with a password.
    """
    shown = shown_uri(uri)
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # half an IPv6 address
        raise RequestError(f"{shown} cannot be opened ({error}); {FORMS}") from None
    if parts.password:
        raise RequestError(
            f"{shown}, as given, holds a password, which lists of processes show; "
            "give it as AWS_SECRET_ACCESS_KEY or in ~/.aws/credentials"
        )
    if parts.scheme == "gs" and "retry_limit_seconds" not in parts.query:
        query = "&".join(filter(None, (parts.query, f"retry_limit_seconds={GOOGLE_PATIENCE_S}")))
        parts = parts._replace(query=query)
    try:
        filesystem, path = FileSystem.from_uri(uri if parts.scheme != "gs" else parts.geturl())
    except (pa.ArrowException, OSError, ValueError) as error:
        why = without_secrets(_first_line(error), uri)
        raise RequestError(f"{shown} cannot be opened ({why}); {FORMS}") from None
    if not path:
        raise RequestError(f"{shown} names no bucket; {FORMS}")
    # a user stays, who is somebody else's folder on HDFS; of S3 it is the name of a key
    return Place(shown if parts.scheme == "s3" else uri.partition("?")[0], filesystem, path)


def shown_uri(uri: str) -> str:
    """A URI for people: without user, password and what follows a question mark or hash: maybe keys."""
    scheme, mark, rest = re.split("[?#]", uri, maxsplit=1)[0].partition("://")
    server, slash, path = rest.partition("/")
    found = _HOST.fullmatch(server.rpartition("@")[2])
    assert found is not None, "the expression fits all"
    host, port = found.groups()
    if port and not port.isdecimal():  # a key with a slash in it, before an @ that comes later
        return f"{scheme}{mark}..."
    return f"{scheme}{mark}{host}{f':{port}' if port else ''}{slash}{path}"


def without_secrets(text: str, uri: str) -> str:
    """What somebody else says of a URI, without what `shown_uri` leaves out of it but harmless options."""
    before, _, after = uri.partition("://")[2].replace("#", "?").partition("?")
    options = (option.partition("=") for option in after.split("&"))
    hidden = [value or name for name, _, value in options if name not in HARMLESS]
    hidden += [before.rpartition("@")[0], *before.rpartition("@")[0].split(":")]
    text = text.replace(uri, shown_uri(uri))
    for secret in sorted({*hidden, *map(unquote, hidden)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "...")
    return text


@contextmanager
def refusing(uri: str) -> Iterator[None]:
    """Turn what storage refuses inside the block into a RequestError that names the URI."""
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{uri} cannot be used ({_first_line(error)}); check the bucket or folder, your rights to it "
            "and, for a server of your own, AWS_ENDPOINT_URL"
        ) from None


@contextmanager
def refuse_unlisted(place: Place) -> Iterator[None]:
    """Turn what listing a place in the block meets into a RequestError: nothing is left out in silence."""
    try:
        with nullcontext() if place.is_local else refusing(place.uri):
            yield
    except OSError as error:
        mend = "shorten its path" if error.errno == errno.ENAMETOOLONG else "mend its permissions"
        raise RequestError(f"folder {error.filename} cannot be listed: {error.strerror}; {mend}") from None


def require_archive(place: Place) -> None:
    """RequestError: there is no such folder."""
    if not place.exists():
        raise RequestError(f"archive {place} is no folder; give the folder that holds the images")


def require_label_folder(place: Place) -> None:
    """RequestError: there is no such folder."""
    if not place.exists():
        raise RequestError(
            f"label folder {place} is no folder; give the folder that holds the masks or boxes"
        )


def scan_folder(
    root: Path, *, hidden: bool = True, follow_links: bool = False
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Name, relative to `root`, and entry of all below it that is no folder.

    In no order; nothing where there is no such folder. hidden: whether folders count whose names begin with a
    dot. follow_links: linked folders are entered; else they are among the entries. OSError: a folder cannot
    be listed. RequestError: links go in a circle.
    """
    folders: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))] if root.is_dir() else []
    while folders:
        folder, above = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not hidden and entry.is_dir():
                    continue
                if not entry.is_dir(follow_symlinks=follow_links):
                    yield f"{folder}{entry.name}", entry
                    continue
                inside = _enter(entry, above) if follow_links else above
                folders.append((f"{folder}{entry.name}/", inside))


def _enter(folder: os.DirEntry[str], above: tuple[str, ...]) -> tuple[str, ...]:
    """The real paths of the folders that one is in, and its own. RequestError: that is one of these."""
    real = os.path.realpath(folder) if folder.is_symlink() else f"{above[-1].rstrip('/')}/{folder.name}"
    if real in above:
        raise RequestError(
            f"folder {folder.path} leads by a link back to {real}, in which it lies; remove the link, or "
            "leave out `follow_links`"
        )
    return (*above, real)


def _walk_local(root: Path) -> Iterator[tuple[str, int, int]]:
    for name, entry in scan_folder(root):
        if entry.is_file():
            found = entry.stat()
            yield name, found.st_size, found.st_mtime_ns


def _stat_of(info: FileInfo) -> FileStat:
    return FileStat(info.size, (info.mtime_ns or 0) // SECOND_NS * SECOND_NS)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
