import sys
from pathlib import Path

import pytest

from seg.errors import DataWarning, RequestError
from seg.score.notify import parse_notify, run_notify
from tests.small import wait_until

SCRIPT = """#!/bin/sh
printf '%s\\n' "$@" "$FRINGE_SUMMARY" "$FRINGE_STOPPED_BY" "$FRINGE_EXIT_CODE" > "$(dirname "$0")/told"
"""


def write_script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_command_gets_its_words_the_summary_and_how_the_job_ended(tmp_path: Path) -> None:
    script = write_script(tmp_path / "tell me", SCRIPT)
    run_notify(f"'{script}' 'two words' $HOME;x", "s3://b/summary.json", stopped_by="deadline", exit_code=4)
    assert (tmp_path / "told").read_text().splitlines() == [
        "two words", "$HOME;x", "s3://b/summary.json", "s3://b/summary.json", "deadline", "4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nowhere/mail", "`notify=/nowhere/mail /x` could not be started: No such file or directory"),
        (f"{sys.executable} -c 'exit(3)'", "ended with exit code 3"),
    ],
)
def test_a_command_that_fails_is_a_warning(command: str, text: str) -> None:
    with pytest.warns(DataWarning, match=text):
        run_notify(command, "/x", stopped_by="finished", exit_code=0)


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = write_script(tmp_path / "hang", f"#!/bin/sh\nsleep 600 &\necho $! > {pid_file}\nwait\n")
    with pytest.warns(DataWarning, match=r"had not ended after 1 s and was killed"):
        run_notify(str(script), "/x", stopped_by="error", exit_code=1, patience_s=1)
    child = Path("/proc") / pid_file.read_text().strip()
    wait_until(lambda: not child.exists() or "\nState:\tZ" in (child / "status").read_text(), "sleep is dead")


@pytest.mark.parametrize(("command", "text"), [("mail 'x", "cannot be split"), ("  ", "`notify` is empty")])
def test_a_command_that_is_none_is_refused(command: str, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        parse_notify(command)
