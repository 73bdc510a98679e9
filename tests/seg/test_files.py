import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from seg.files import TEMPORARY, read_json, replacing, without_nan, write_bytes, write_json


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
