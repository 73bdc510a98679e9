import ast
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from jobs import pack, simulate, status, train, tune
from jobs.options import DatasetArgs, LabelsArgs
from jobs.run import FIELD, option_names, parse_words, run_job
from seg.errors import DamagedFile, DataWarning, RequestError
from seg.requests import LabelRequest, PredictRequest, ReportRequest, ScoreRequest
from tests.small import ROOT, wait_until

KINDS = (
    *(ScoreRequest, PredictRequest, ReportRequest, LabelRequest, DatasetArgs, LabelsArgs),
    *(job.Args for job in (pack, simulate, status, train, tune)),
)
WITH_OPTIONS = {
    "seg/requests.py": "its field texts are the --help",
    "seg/search/page.py": "shows the command that trains the best setting again",
    "seg/model_file.py": "runs git describe",
}


def fail(error: BaseException) -> int:
    raise error


@pytest.fixture(autouse=True)
def own_signals_and_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("code", [0, 3, 4])
def test_a_job_that_returns_keeps_its_exit_code(code: int, tmp_path: Path) -> None:
    assert run_job("score", lambda: code) == code
    assert not list(tmp_path.iterdir())


def test_a_wrong_request_is_2_and_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_job("score", lambda: fail(RequestError("archive x is no folder; give one"))) == 2
    assert capsys.readouterr().err == "score: archive x is no folder; give one\n"
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_ours_is_1_and_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_job("report", lambda: fail(DamagedFile("x.parquet is damaged (...); score again"))) == 1
    assert capsys.readouterr().err == "report: x.parquet is damaged (...); score again\n"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("train", lambda: fail(KeyboardInterrupt())) == 4
    assert capsys.readouterr().err == "train: stopped; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("long story\n  in lines\nCUDA out of memory\n"), "RuntimeError: CUDA out of memory"),
        (AssertionError(), "AssertionError: "),
    ],
)
def test_our_failure_is_1_one_line_on_screen_and_a_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception, cause: str
) -> None:
    assert run_job("tune", lambda: fail(error)) == 1
    (log,) = tmp_path.iterdir()
    assert capsys.readouterr().err == f"tune: failed: {cause} (traceback: {log})\n"
    assert "Traceback (most recent call last)" in log.read_text()
    assert "in fail" in log.read_text()


def test_an_error_s_log_repeats_no_name_raw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_job("score", lambda: fail(OSError(5, "cut", "a\x1b[2J\udcff.png"))) == 1
    (log,) = tmp_path.iterdir()
    for text in (log.read_text(), capsys.readouterr().err):
        assert r"a\x1b[2J\udcff.png" in text
        assert "\x1b" not in text


def test_a_usage_error_repeats_no_word_raw(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_words(ScoreRequest, ["a", "b\x1b[2J.png", "--modle\x9b"])
    text = capsys.readouterr().err
    assert r"b\x1b[2J.png" in text
    assert "\x1b" not in text
    assert "\x9b" not in text


def test_a_usage_error_keeps_its_own_exit() -> None:
    with pytest.raises(SystemExit, match="2"):
        run_job("score", lambda: fail(SystemExit(2)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_job_with_4_through_its_own_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import pathlib, signal, sys\n"
        "from jobs.run import run_job\n"
        "def work():\n"
        "    try:\n"
        "        pathlib.Path('begun').touch()\n"
        "        while True: signal.pause()\n"
        "    finally:\n"
        "        pathlib.Path('cleaned').touch()\n"
        "sys.exit(run_job('score', work))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as job:
        wait_until((tmp_path / "begun").exists, "the job")
        job.send_signal(number)
        _, errors = job.communicate()
    assert job.returncode == 4
    assert errors == "score: stopped; the same command goes on from here\n"
    assert (tmp_path / "cleaned").exists()


def test_fields_that_the_library_names_are_said_as_the_options_of_the_job(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> int:
        parse_words(ScoreRequest, ["a", "--model", "m", "--out", "o"])
        logging.getLogger("seg.score").info("`image_timeout_s` ends a worker, `rescore_changed` does not")
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.warn(DataWarning("`batch` matters"), stacklevel=1)
        raise RequestError("`out=s 3` has `halo_px=48`; `archive`, `no_field=1` and `out=print` stay `out`")

    assert run_job("score", refuse) == 2
    assert capsys.readouterr().err == (
        "--per-image-timeout ends a worker, --rescore-changed does not\n"
        "score: warning: --batch matters\n"
        "score: --out s 3 has --halo 48; `archive`, `no_field=1` and --out print stay --out\n"
    )
    assert run_job("score", lambda: fail(RequestError("`out=print` of no job stays"))) == 2
    assert capsys.readouterr().err == "score: `out=print` of no job stays\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_has_the_option_that_the_command_line_takes(
    kind: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(kind, args=["--help"], config=(tyro.conf.FlagCreatePairsOff,))
    shown = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    for option in option_names(kind).values():
        group, dot, name = option.removeprefix("--").rpartition(".")  # what is on by default has --no-NAME
        assert re.search(rf"--{re.escape(group + dot)}(no-)?{name}[ ,\n]", shown), option


def test_the_library_names_fields_and_no_options() -> None:
    """In seg/ and cluster/ no text has an option, and what stands in backticks is some job's field."""
    known = {field for kind in KINDS for field in option_names(kind)}
    texts = list(texts_of_the_library())
    assert len(texts) > 1000
    assert [text for text in texts if re.search(r"(?<![\w-])--[a-z]", text[1])] == []
    named = [(where, name) for where, text in texts for name, _ in FIELD.findall(text)]
    assert len(named) > 100
    assert [each for each in named if each[1] not in known] == []


def texts_of_the_library() -> Iterator[tuple[str, str]]:
    """Where and what, of each string that is no docstring, an f-string's values as {}."""
    for file in sorted([*ROOT.glob("seg/**/*.py"), *ROOT.glob("cluster/*.py")]):
        if file.relative_to(ROOT).as_posix() in WITH_OPTIONS:
            continue
        tree = ast.parse(file.read_text())
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        said |= {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            if id(node) in said or not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
            if isinstance(values[0], str):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", "".join(map(str, values))
