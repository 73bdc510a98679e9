import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from seg.errors import RequestError
from seg.files import read_json
from seg.locks.claim import holding
from seg.locks.folder_lock import FolderLock, LostLock, check_owner
from tests.small import ROOT, read_tree, wait_until

HOLD = """
import sys
from pathlib import Path
from seg.locks.folder_lock import FolderLock
from seg.errors import RequestError
try:
    with FolderLock(Path(sys.argv[1]), what="training") as lock:
        print("held", lock.token, flush=True)
        sys.stdin.readline()
except RequestError as error:
    print("refused", error, flush=True)
"""

Job = subprocess.Popen[str]


def start(folder: Path, *around: str) -> Job:
    words = [*around, sys.executable, "-c", HOLD, str(folder)]
    return subprocess.Popen(
        words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@contextmanager
def job(folder: Path, *around: str) -> Iterator[tuple[Job, str]]:
    """A job that asks for a folder, and the line it answers with; killed at the end."""
    process = start(folder, *around)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "lock" in path.name)


def write_foreign_lock(folder: Path, *, silent_s: float) -> Path:
    """The lock of a job on a machine that we cannot look at."""
    file = folder / "lock-3.json"
    folder.mkdir(exist_ok=True)
    holder = {
        "token": "3-abc",
        "what": "scoring",
        "host": "far",
        "pid": 77,
        "since": "2026-11-21T03:00:00+00:00",
    }
    file.write_text(json.dumps(holder | {"pid_space": "elsewhere", "started": "1"}))
    os.utime(file, (time.time() - silent_s,) * 2)
    return file


def test_a_lock_says_who_holds_it_and_goes_with_its_block(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with FolderLock(folder, what="training") as lock:
        assert locks(folder) == ["lock-1.json"]
        holder = json.loads((folder / "lock-1.json").read_text())
        assert (holder["what"], holder["pid"], holder["token"]) == ("training", os.getpid(), lock.token)
        assert {"host", "since", "started", "pid_space"} <= holder.keys()
        check_owner(folder, lock.token)
    assert not list(folder.iterdir())


def test_a_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), FolderLock(tmp_path, what="training"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_second_job_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    with job(tmp_path) as (first, answer):
        assert answer.startswith("held 1-")
        with pytest.raises(RequestError) as refused, FolderLock(tmp_path, what="training"):
            pass
        who = rf"training on \S+, process {first.pid}, since 20\S+"
        mend = rf"wait for it, stop it \(kill {first.pid}\), or give another `out`"
        assert re.fullmatch(f"{tmp_path} is in use by {who}; {mend}", str(refused.value))
        assert locks(tmp_path) == ["lock-1.json"]
        first.communicate("\n")
        assert first.returncode == 0
    with FolderLock(tmp_path, what="training"):
        assert locks(tmp_path) == ["lock-1.json"]


def test_after_kill_9_the_same_command_works_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(tmp_path) as (first, answer):
        first.kill()
        first.wait()
    with FolderLock(tmp_path, what="training") as lock:
        assert locks(tmp_path) == ["lock-2.json"]
        check_owner(tmp_path, lock.token)
        with pytest.raises(LostLock, match=r"another job has taken .* over"):
            check_owner(tmp_path, answer.removeprefix("held "))
    assert f"process {first.pid}" in (said := capsys.readouterr().err)
    assert "its process is gone" in said
    assert not list(tmp_path.iterdir())


def test_a_killed_job_that_nobody_waited_for_is_gone(tmp_path: Path) -> None:
    with job(tmp_path) as (first, _):
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # a zombie: still listed, not alive
        assert Path(f"/proc/{first.pid}").exists()
        with FolderLock(tmp_path, what="training"):
            assert locks(tmp_path) == ["lock-2.json"]


def test_a_pid_that_was_given_out_again_holds_nothing(tmp_path: Path) -> None:
    with FolderLock(tmp_path, what="training"):
        file = tmp_path / "lock-1.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"started": "1"}))
        with FolderLock(tmp_path, what="training"):
            assert locks(tmp_path) == ["lock-2.json"]


def test_a_stopped_job_still_holds_its_folder(tmp_path: Path) -> None:
    with job(tmp_path) as (first, _):
        first.send_signal(signal.SIGSTOP)
        os.utime(tmp_path / "lock-1.json", (0, 0))
        with pytest.raises(RequestError, match="in use"), FolderLock(tmp_path, what="training"):
            pass


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_eight_jobs_at_once_exactly_one_gets_the_folder(left_behind: bool, tmp_path: Path) -> None:
    if left_behind:
        write_foreign_lock(tmp_path, silent_s=61)
    jobs = [start(tmp_path) for _ in range(8)]
    try:
        answers = [job.stdout.readline().split()[0] for job in jobs if job.stdout]
        assert sorted(answers) == ["held"] + ["refused"] * 7
        assert locks(tmp_path) == [f"lock-{4 if left_behind else 1}.json"]
    finally:
        for each in jobs:
            each.communicate("\n")
    assert not locks(tmp_path)


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_threads_that_ask_in_the_same_moment_exactly_one_gets_the_folder(
    left_behind: bool, tmp_path: Path
) -> None:
    """Closer together than processes start, and a hundred times."""
    threads, rounds = 4, 100
    together, won = threading.Barrier(threads, timeout=60), [[False] * threads for _ in range(rounds)]

    def ask(number: int) -> None:
        for turn in range(rounds):
            folder = tmp_path / str(turn)
            if left_behind and not number:
                write_foreign_lock(folder, silent_s=61)
            together.wait()
            with suppress(RequestError), FolderLock(folder, what="training"):
                won[turn][number] = True
                together.wait()
                continue
            together.wait()

    jobs = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join()
    assert [sum(winners) for winners in won] == [1] * rounds


@pytest.mark.parametrize("whole", [False, True])
def test_of_different_jobs_that_ask_for_a_new_folder_at_once_one_gets_it_with_its_own_identity(
    whole: bool, tmp_path: Path
) -> None:
    """whole: the first holds the folder until all have answered; else it is done in no time."""
    threads, rounds = 4, 100
    together = threading.Barrier(threads, timeout=60)
    answers = [["" for _ in range(threads)] for _ in range(rounds)]

    def ask(number: int) -> None:
        for turn in range(rounds):
            folder = tmp_path / str(turn)
            together.wait()
            try:
                with holding(folder, {"batch": number}, what="scoring"):
                    answers[turn][number] = (folder / "run.json").read_text()
                    if whole:
                        together.wait()
            except RequestError as error:
                answers[turn][number] = str(error)
                if whole:
                    together.wait()
            together.wait()

    jobs = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join()
    for turn, answered in enumerate(answers):
        (winner,) = [number for number, answer in enumerate(answered) if answer.startswith("{")]
        assert json.loads(answered[winner]) == {"batch": winner}
        assert [path.name for path in (tmp_path / str(turn)).iterdir()] == ["run.json"]
        assert read_json(tmp_path / str(turn) / "run.json") == {"batch": winner}
        lost = [answer for number, answer in enumerate(answered) if number != winner]
        why = rf"is in use by scoring on|holds another run, with batch {winner} instead of \d; give another"
        assert all(re.search(why, answer) for answer in lost), answered


def test_another_jobs_folder_is_refused_by_its_difference_also_while_it_works_there(tmp_path: Path) -> None:
    with holding(tmp_path / "x", {"batch": 1}, what="scoring"):
        before = read_tree(tmp_path)
        with (
            pytest.raises(RequestError, match="holds another run, with batch 1 instead of 2"),
            holding(tmp_path / "x", {"batch": 2}, what="scoring"),
        ):
            pass
        with (
            pytest.raises(RequestError, match="is in use by scoring on"),
            holding(tmp_path / "x", {"batch": 1}, what="scoring"),
        ):
            pass
        assert read_tree(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with (
        pytest.raises(RequestError, match="holds other files and no run"),
        holding(tmp_path / "mine", {"batch": 1}, what="scoring"),
    ):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_job_killed_between_its_lock_and_its_claim_leaves_a_folder_that_any_other_gets(
    tmp_path: Path,
) -> None:
    with job(tmp_path) as (first, _):
        first.kill()
        first.wait()
    with holding(tmp_path, {"batch": 2}, what="scoring"):
        assert read_json(tmp_path / "run.json") == {"batch": 2}


def test_a_job_elsewhere_holds_its_folder_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    write_foreign_lock(tmp_path, silent_s=20)
    with (
        pytest.raises(
            RequestError, match=r"scoring on far, process 77, since .*; wait.* try again in (39|40) s"
        ),
        FolderLock(tmp_path, what="scoring"),
    ):
        pass
    assert locks(tmp_path) == ["lock-3.json"]


def test_a_job_elsewhere_that_is_silent_for_a_minute_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_foreign_lock(tmp_path, silent_s=61)
    with FolderLock(tmp_path, what="scoring"):
        assert locks(tmp_path) == ["lock-4.json"]
    assert re.search(
        r"taken over from scoring on far, .*: it has given no sign of life for 6\d s", capsys.readouterr().err
    )


def test_a_lock_that_a_crash_emptied_is_left_behind_after_a_minute(tmp_path: Path) -> None:
    file = tmp_path / "lock-3.json"
    file.write_bytes(b"")
    with pytest.raises(RequestError, match="in use by a job"), FolderLock(tmp_path, what="training"):
        pass
    os.utime(file, (0, 0))
    with FolderLock(tmp_path, what="training"):
        assert locks(tmp_path) == ["lock-4.json"]


def test_a_job_in_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its pid means another process here, or none."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a namespace")
    with job(tmp_path, *container) as (_, answer):
        assert answer.startswith("held")
        assert json.loads((tmp_path / "lock-1.json").read_text())["pid"] < 10
        with pytest.raises(RequestError, match="try again in"), FolderLock(tmp_path, what="training"):
            pass
        os.utime(tmp_path / "lock-1.json", (0, 0))
        wait_until(lambda: (tmp_path / "lock-1.json").stat().st_mtime > 1e9, "a sign of life")


def make_it_look_dead(file: Path) -> None:
    """Of a job on another machine, silent since 1970."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid_space": "elsewhere"}))
    os.utime(file, (0, 0))


@pytest.mark.parametrize("others", [1, 2])
def test_a_job_that_was_taken_over_leaves_the_others_their_locks(others: int, tmp_path: Path) -> None:
    with ExitStack() as slow, ExitStack() as last:
        lost = slow.enter_context(FolderLock(tmp_path, what="training"))
        make_it_look_dead(tmp_path / "lock-1.json")
        for _ in range(others):  # the second finds no lock, and has the number of the lost one
            last.close()
            lock = last.enter_context(FolderLock(tmp_path, what="training"))
        with pytest.raises(LostLock):
            check_owner(tmp_path, lost.token)
        slow.close()
        check_owner(tmp_path, lock.token)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_lost_from_the_moment_that_another_has_the_next_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path, what="training") as lock:
        (tmp_path / "lock-2.json").write_text("{}")  # the old one has not been removed yet
        with pytest.raises(LostLock):
            check_owner(tmp_path, lock.token)


def test_an_orphan_is_told_apart_from_the_next_job_with_its_number(tmp_path: Path) -> None:
    with FolderLock(tmp_path, what="training") as first:
        pass
    with FolderLock(tmp_path, what="training"), pytest.raises(LostLock):
        check_owner(tmp_path, first.token)


def test_a_folder_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    """An OSError that may pass: the storage may come back, and the lock with it."""
    with FolderLock(tmp_path / "run", what="training") as lock:
        (tmp_path / "run").rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError):
            check_owner(tmp_path / "run", lock.token)
        (tmp_path / "away").rename(tmp_path / "run")
        check_owner(tmp_path / "run", lock.token)


def test_a_lock_whose_storage_is_gone_does_not_hide_why_a_job_ended(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), FolderLock(tmp_path / "run", what="training"):
        (tmp_path / "run").rename(tmp_path / "away").read_bytes()
