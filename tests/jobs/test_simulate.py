import signal
from pathlib import Path

import pytest

from jobs.simulate import main
from seg.simulate.archive import frame_paths
from tests.small import start_job, wait_until

SMALL = ["--sequences", "1", "--frames", "2", "--size", "96", "--difficulty", "easy", "--workers", "1"]


def test_the_job_writes_the_archive_then_says_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *SMALL]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 1 x 2 frames, 2 of them new\n"
    assert all(path.exists() for frame in range(2) for path in frame_paths(tmp_path, 0, frame))
    assert main([str(tmp_path), *SMALL]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 1 x 2 frames, 0 of them new\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--size", "5"), "--size is 5 px; give 64 to 8192 (a cell is 90 to 220 px across)"),
        (("--sequences", "0"), "--sequences is 0; give 1 or more"),
        (("--workers", "-1"), "--workers is -1; give 1 or more"),
    ],
)
def test_nonsense_is_one_sentence_and_exit_code_2_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    assert main([str(tmp_path / "out"), *SMALL, *change]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"simulate: {message}"
    assert not (tmp_path / "out").exists()


def test_the_command_runs_from_any_folder_with_several_processes(tmp_path: Path) -> None:
    words = "out --sequences 1 --frames 2 --size 96 --bits 16 --seed 7 --difficulty hard --first-sequence 3"
    with start_job("simulate", *words.split(), "--workers", 2, cwd=tmp_path) as job:
        output, errors = job.communicate()
    assert (job.returncode, output) == (0, "out: 1 x 2 frames, 2 of them new\n"), errors
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["seq-003"]


def test_an_unknown_difficulty_is_exit_code_2(tmp_path: Path) -> None:
    with start_job("simulate", "out", "--difficulty", "brutal", cwd=tmp_path) as job:
        assert "--difficulty" in "".join(job.communicate())
    assert job.returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_is_exit_code_4_and_the_same_command_goes_on(tmp_path: Path, workers: int) -> None:
    words = ("out", "--sequences", 1, "--frames", 200, "--size", 64, "--workers", workers)
    with start_job("simulate", *words, cwd=tmp_path) as job:
        first = frame_paths(tmp_path / "out", 0, 0)[2]
        wait_until(lambda: first.exists() or job.poll() is not None, "the first frame")
        assert job.poll() is None
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate()
    assert job.returncode == 4, errors
    assert errors.splitlines()[-1] == "simulate: stopped; the same command goes on from here"
    assert not list(tmp_path.rglob(".*"))  # no halves left behind
    made = len(list(tmp_path.rglob("images/*/*.png")))
    assert 0 < made < 200
    with start_job("simulate", *words, cwd=tmp_path) as job:
        output, errors = job.communicate()
    assert (job.returncode, output) == (0, f"out: 1 x 200 frames, {200 - made} of them new\n"), errors
