"""Folders that a URI names, on any filesystem that pyarrow knows: local, S3, Google Cloud, Azure, HDFS."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from seg.errors import RequestError
from seg.files import replacing, write_bytes

COPY_BYTES = 1 << 24
FORMS = "give s3://BUCKET/PATH, gs://BUCKET/PATH, another URI that pyarrow knows, or an absolute path"
GOOGLE_PATIENCE_S = 30
"""Its client tries for 15 minutes by default, where no server answers, before it says so."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder on some filesystem; names in it are relative, with `/`.

    A file appears whole: locally by renaming, on object stores since one comes into being when its upload
    ends. HDFS shows a file while it is written.
    """

    uri: str
    """For people: as the user gave it, without what follows a question mark."""
    filesystem: FileSystem
    path: str

    def below(self, name: str) -> "Place":
        """A folder in this one."""
        return Place(f"{self.uri.rstrip('/')}/{name}", self.filesystem, f"{self.path.rstrip('/')}/{name}")

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted; none where there is no such folder."""
        selector = FileSelector(self._path(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == FileType.File)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        if self._is_local:
            write_bytes(Path(self._path(name)), content)
        else:
            self._put(name, pa.py_buffer(content))

    def upload(self, name: str, source: Path) -> None:
        """Write a file from one on this machine."""
        if self._is_local:
            with replacing(Path(self._path(name))) as temporary:
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

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}".rstrip("/")

    def _put(self, name: str, content: pa.Buffer) -> None:
        """Write all in one call: closing makes the object, also when we failed between two calls."""
        with self.filesystem.open_output_stream(self._path(name), compression=None) as stream:
            stream.write(content)


def open_place(uri: str) -> Place:
    """The folder that a URI or an absolute path names; it need not be there yet, and nothing is written.

    RequestError: not a URI that pyarrow knows, or one with a password.
    """
    parts = urlsplit(uri)
    if parts.password:
        shown = uri.replace(f":{parts.password}@", ":...@")
        raise RequestError(
            f"{shown} holds a password, which lists of processes show; "
            "give it as AWS_SECRET_ACCESS_KEY or in ~/.aws/credentials"
        )
    if parts.scheme == "gs" and "retry_limit_seconds" not in parts.query:
        query = "&".join(filter(None, (parts.query, f"retry_limit_seconds={GOOGLE_PATIENCE_S}")))
        parts = parts._replace(query=query)
    try:
        filesystem, path = FileSystem.from_uri(uri if parts.scheme != "gs" else parts.geturl())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(f"{uri} cannot be opened ({_first_line(error)}); {FORMS}") from None
    if not path:
        raise RequestError(f"{uri} names no bucket; {FORMS}")
    return Place(uri.partition("?")[0], filesystem, path)


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
