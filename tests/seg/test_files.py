import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seg.files import (
    TEMPORARY,
    first_difference,
    persistently,
    read_json,
    replacing,
    without_nan,
    write_bytes,
    write_json,
)

ROOT = Path(__file__).parents[2]


def test_a_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"content")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(TEMPORARY)
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def fail_while_writing(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError


def test_an_error_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(KeyError):
        fail_while_writing(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_who_may_not_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    written = []

    def refuse() -> None:
        written.extend(file.read_bytes() for file in tmp_path.iterdir())
        raise PermissionError("another's")

    with pytest.raises(PermissionError, match="another's"):
        write_bytes(path, b"content", may_write=refuse)
    assert written == [b"content"]  # asked last of all
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with replacing(path) as one, replacing(path) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # left last


def kill_while_writing(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    process = multiprocessing.get_context("spawn").Process(target=kill_while_writing, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_json_has_null_where_python_has_no_number(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [1, float("inf"), (2.5, float("-inf"))], "c": {"ä": "text", "d": None}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"a": None, "b": [1, None, [2.5, None]], "c": {"ä": "text", "d": None}}
    assert read_json(tmp_path / "a.json") == strict == without_nan(value)
    assert "ä" in text


class Refused:
    """A write that notes when storage has refused it, so that a thread can mend the storage."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen, self.errors = path, threading.Event(), []

    def __call__(self) -> str:
        try:
            self.path.write_bytes(b"content")
        except OSError as error:
            self.errors.append(error.errno)
            self.seen.set()
            raise
        return "written"

    def then(self, mend: Callable[[], object]) -> None:
        threading.Thread(target=lambda: self.seen.wait(60) and mend(), daemon=True).start()


def take_away(folder: Path, away: Path) -> Callable[[], object]:
    folder.rename(away)
    return lambda: away.rename(folder)


def put_file_in_place(folder: Path, away: Path) -> Callable[[], object]:
    folder.rename(away)
    folder.write_text("a file")

    def mend() -> None:
        folder.unlink()
        away.rename(folder)

    return mend


def fill_up(folder: Path, away: Path) -> Callable[[], object]:
    (folder / "a.bin").symlink_to("/dev/full")
    return (folder / "a.bin").unlink


@pytest.mark.parametrize(
    ("spoil", "number"),
    [(take_away, errno.ENOENT), (put_file_in_place, errno.ENOTDIR), (fill_up, errno.ENOSPC)],
)
def test_a_write_waits_for_storage_that_comes_back(
    spoil: Callable[[Path, Path], Callable[[], object]],
    number: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write = Refused(folder / "a.bin")
    write.then(spoil(folder, tmp_path / "away"))
    assert persistently(write, "state of run") == "written"
    assert set(write.errors) == {number}
    assert (folder / "a.bin").read_bytes() == b"content"
    begin, end = capsys.readouterr().err.splitlines()
    assert begin.startswith("state of run: [Errno ")
    assert begin.endswith("; trying for 120 s")
    assert re.fullmatch(r"state of run: goes on after \d+ s", end)


def test_a_write_that_is_never_taken_fails_with_its_name_and_reason(tmp_path: Path) -> None:
    (tmp_path / "a.bin").symlink_to("/dev/full")
    write = Refused(tmp_path / "a.bin")
    with pytest.raises(OSError, match=r"state of run: refused for 0 s: No space left on device") as caught:
        persistently(write, "state of run", patience_s=0)
    assert caught.value.errno == errno.ENOSPC
    assert write.errors == [errno.ENOSPC]


def test_a_write_is_not_tried_again_where_waiting_cannot_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Refused(tmp_path / ("a" * 300))
    with pytest.raises(OSError, match="File name too long"):
        persistently(write, "state of run")
    assert write.errors == [errno.ENAMETOOLONG]
    assert not capsys.readouterr().err


WAITING = """
from pathlib import Path
from seg.files import persistently
from seg.screen import show_log
show_log()
persistently(lambda: Path("/dev/full").write_bytes(b"content"), "state")
"""


def test_ctrl_c_ends_the_waiting() -> None:
    job = subprocess.Popen([sys.executable, "-c", WAITING], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert job.stderr is not None
    assert "trying for 120 s" in job.stderr.readline()
    job.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in job.communicate(timeout=60)[1]


REAL_DISK = """
import subprocess, sys, threading
from functools import partial
from pathlib import Path
from seg.files import persistently, write_bytes
from seg.screen import show_log

show_log()
disk = Path(sys.argv[1])
mount = ["mount", "-t", "tmpfs", "-o"]
subprocess.run([*mount, "size=64k", "tmpfs", disk], check=True)

def write(name, mend):
    def mended():
        try:
            write_bytes(disk / name, b"x" * 20_000)
        except OSError as error:
            print(error.errno, flush=True)
            mend()
            raise
    persistently(mended, name)
    assert (disk / name).read_bytes() == b"x" * 20_000

(disk / "filler").write_bytes(b"x" * 60_000)
write("full", (disk / "filler").unlink)
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
write("read-only", partial(subprocess.run, ["mount", "-o", "remount,rw", disk], check=True))
assert sorted(path.name for path in disk.iterdir()) == ["full", "read-only"]
"""


def test_a_full_disk_that_is_cleared_and_a_read_only_remount_cost_nothing(tmp_path: Path) -> None:
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own_mounts, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    words = [*own_mounts, sys.executable, "-c", REAL_DISK, str(tmp_path)]
    job = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert job.returncode == 0, job.stderr
    assert job.stdout.split() == [str(errno.ENOSPC), str(errno.EROFS)]
    assert job.stderr.count("trying for") == job.stderr.count("goes on after") == 2


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}, "b.d 3 instead of 4"),
        ({"a": 1}, {"a": 1, "b": "x"}, "b None instead of x"),
        ({"a": [1, 2]}, {"a": [1]}, "other values of a"),
    ],
)
def test_the_first_difference_is_named_by_its_field(found: object, wanted: object, words: str) -> None:
    assert first_difference(found, wanted) == words


@pytest.mark.parametrize("name", ["n" * 255, "µ" * 127])
def test_a_name_as_long_as_file_systems_take_is_written(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / name, b"content")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"content"}
