import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs import simulate
from jobs.command import COMMANDS, describe_commands, list_commands, main
from tests.small import ROOT, read_tree

JOBS = {path.stem for path in (ROOT / "jobs").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
SLOW = {"torch", "numpy", "pyarrow", "tyro", "rich", "ray"}


@pytest.fixture(autouse=True)
def own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/fringe", "no", "words"])


def test_every_job_is_a_command_and_has_its_line() -> None:
    assert set(list_commands()) == JOBS
    lines = list(describe_commands())
    for name in JOBS:
        assert [line for line in lines if line.split()[:1] == [name]] == [f"  {name:9} {COMMANDS[name]}"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_and_for_help_it_lists_the_commands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in describe_commands()), "")


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fringe {project['version']}\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian", "unknown command 'trian'; did you mean train? known: "),
        ("scores", "unknown command 'scores'; did you mean score? known: "),
        ("--verson", "unknown command '--verson'; did you mean --version? known: "),
        ("run", "unknown command 'run'; known: "),
        ("jobs.train", "unknown command 'jobs.train'; "),
        ("a\x1b[2J", r"unknown command 'a\x1b[2J'; "),
    ],
)
def test_a_command_that_is_none_is_2_and_the_nearest_is_named(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "--out", "x"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"fringe: {said}")
    assert err.count("\n") == 1
    assert out == ""


def test_a_command_does_what_its_job_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sequences", "1", "--frames", "1", "--size", "64", "--workers", "1"]
    assert simulate.main([str(tmp_path / "job"), *words]) == 0
    assert main(["simulate", str(tmp_path / "command"), *words]) == 0
    assert len(read_tree(tmp_path / "job")) > 3
    assert read_tree(tmp_path / "job") == read_tree(tmp_path / "command")
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("status: ")


def test_usage_repeats_the_name_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith("usage: fringe train [")


def test_help_and_version_load_nothing_slow_and_a_command_its_job_alone() -> None:
    program = (
        "import sys\n"
        "from jobs.command import main\n"
        "main([]); main(['--version']); main(['nothing'])\n"
        "print(*sorted(sys.modules))\n"
        "main(['status', '/nowhere'])\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *_, before, after = done.stdout.splitlines()
    assert {"jobs.command", "seg.errors"} <= set(before.split())
    assert set(before.split()) & SLOW == set()
    assert {name for name in after.split() if name.startswith("jobs.")} == {
        *("jobs.command", "jobs.help", "jobs.run", "jobs.status")
    }
