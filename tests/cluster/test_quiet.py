import contextlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.session import ENVIRONMENT, quiet_loggers, quiet_ray


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "as the user set it")


def test_native_lines_go_to_a_file_and_ours_to_the_screen(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with quiet_ray():
        os.write(2, b"from C++\n")
        print("from Python", file=sys.stderr)
        (log,) = tmp_path.iterdir()
        assert log.read_bytes() == b"from C++\n"
        assert log.stat().st_mode & 0o077 == 0  # it may hold another's data
    os.write(2, b"native again\n")
    print("Python again", file=sys.stderr)
    assert capfd.readouterr().err == "from Python\nnative again\nPython again\n"
    assert not list(tmp_path.iterdir())  # a block that ends well takes its file along


def test_what_stands_for_standard_error_has_our_lines_and_no_native_one() -> None:
    """As in a notebook, whose cells are no file."""
    cell = io.StringIO()
    with contextlib.redirect_stderr(cell), quiet_ray():
        os.write(2, b"from C++\n")
        print("from Python", file=sys.stderr)
    assert cell.getvalue() == "from Python\n"


def test_a_block_that_fails_keeps_the_file_and_gives_the_screen_back(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python_stderr = sys.stderr

    def fail() -> None:
        with quiet_ray():
            os.write(2, b"the cause\n")
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        fail()
    assert sys.stderr is python_stderr
    os.write(2, b"native again\n")
    assert capfd.readouterr().err == "native again\n"
    (log,) = tmp_path.iterdir()
    assert log.read_bytes() == b"the cause\n"


def test_a_block_that_fails_without_a_native_line_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ours"), quiet_ray():
        raise RuntimeError("ours")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cleared_away_meanwhile_is_no_failure(tmp_path: Path) -> None:
    with quiet_ray():
        (log,) = tmp_path.iterdir()
        log.unlink()


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    with quiet_ray():
        pass
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with quiet_ray():
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_the_user_set_in_the_environment_stays() -> None:
    with quiet_ray():
        assert {os.environ[name] for name in ENVIRONMENT} == {"as the user set it"}


def test_loggers_show_errors_alone_and_their_files_keep_all(tmp_path: Path) -> None:
    screen, file = logging.StreamHandler(), logging.FileHandler(tmp_path / "ray.log")
    screen.setLevel(logging.INFO)
    file.setLevel(logging.INFO)
    logger = logging.getLogger("ray.tune")
    try:
        for handler in (screen, file):
            logger.addHandler(handler)
        quiet_loggers()
        assert (screen.level, file.level) == (logging.ERROR, logging.INFO)
    finally:
        for handler in (screen, file):
            logger.removeHandler(handler)
            handler.close()
