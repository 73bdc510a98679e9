"""Small files that were damaged or edited, through the jobs that read them: a sentence, no traceback."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import convert, report, score, status, train
from tests.conftest import write_discs
from tests.small import TINY_WORDS, read_tree, write_model

WHOLE: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(64),
    "cut": b'{"archive": "/a',
    "no UTF-8": b'{"archive": "\xff"}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "deep": b"[" * 99_999,
}
WRONG = (None, -1.5, "x", [7], {"x": [7]}, True)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scores folder beside its archive and model."""
    root = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("RAY_ADDRESS", "local")
        write_discs(root / "archive", sequences=1, frames=2)
        write_model(root / "m.safetensors")
        assert score.main(words(root)) == 0
        yield root


def words(root: Path) -> list[str]:
    return [
        str(root / "archive"),
        "--model",
        str(root / "m.safetensors"),
        "--out",
        str(root / "out"),
        "--workers",
        "0",
    ]


JOBS: dict[str, Callable[[Path], int]] = {
    "score": lambda root: score.main(words(root)),
    "status": lambda root: status.main([str(root / "out")]),
    "status --json": lambda root: status.main([str(root / "out"), "--json"]),
    "report": lambda root: report.main([str(root / "out")]),
    "report of two": lambda root: report.main([str(root / "out"), str(root / "out")]),
}
READS = {
    "run.json": ("score", "report of two", "report"),
    "summary.json": ("report of two", "report"),
    "status.json": ("status --json", "status"),
}


def check(
    root: Path, file: str, content: bytes, screen: pytest.CaptureFixture[str], jobs: tuple[str, ...]
) -> set[int]:
    """Exit codes of jobs that read a file of such content."""
    path = root / "out" / file
    before, codes = path.read_bytes(), set()
    try:
        for job in jobs:
            path.write_bytes(content)
            screen.readouterr()
            code, said = JOBS[job](root), screen.readouterr().err
            assert code in (0, 2), (job, content, said)
            assert code == 0 or (said.count("\n") == 1 and str(path.parent) in said), (job, content, said)
            assert len(said) < 600, said
            codes.add(code)
    finally:
        path.write_bytes(before)
    return codes


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("file", READS)
def test_a_file_that_is_no_object_of_ours_is_refused_by_name(
    scored: Path, file: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = READS[file] if kind in ("cut", "null") else READS[file][-1:]  # score takes half a second
    assert check(scored, file, WHOLE[kind], capsys, jobs) == {2}


@pytest.mark.long
@pytest.mark.parametrize("file", READS)
def test_any_field_that_is_gone_or_of_another_type_is_refused_or_without_effect(
    scored: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = json.loads((scored / "out" / file).read_bytes())
    for name in values:
        rest = {other: value for other, value in values.items() if other != name}
        for changed in (rest, *(values | {name: wrong} for wrong in WRONG)):
            check(scored, file, json.dumps(changed).encode(), capsys, READS[file])


def test_a_list_of_classes_in_another_encoding_is_refused_by_every_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.chdir(tmp_path)
    write_discs(tmp_path / "archive", sequences=2, frames=2)
    write_model(tmp_path / "m.safetensors")
    (tmp_path / "archive/classes.txt").write_bytes("Hintergrund\nZelle für\n".encode("latin-1"))
    before = read_tree(tmp_path)
    tiny = [*TINY_WORDS, "--data", "archive", "--out", "run", "--workers", "0"]
    jobs = {
        "score": lambda: score.main(words(tmp_path)),
        "train": lambda: train.main(tiny),
        "convert": lambda: convert.main(["dataset", "plain", "archive", "converted", "--split", "test"]),
    }
    for verb, job in jobs.items():
        assert job() == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"{verb}: ")
        assert "classes.txt is no UTF-8 (its byte 19); save it as UTF-8, one class name a line" in line
    assert read_tree(tmp_path) == before
    shutil.rmtree(tmp_path / "archive")
