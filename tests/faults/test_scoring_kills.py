"""A scoring whose processes are killed at any moment counts each image once."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cluster.score import score
from cluster.session import Session
from tests.conftest import WriteArchive
from tests.faults.file_events import OPENED, Event, watching
from tests.faults.scoring_jobs import (
    Command,
    ask,
    check_alike,
    check_whole,
    commit_often,
    count_reads,
    finished_images,
)
from tests.forked import DieAt
from tests.small import archive_labels, own_processes, wait_until, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


# the driver


class Killer:
    """Kills a command at random moments, counted in files that it opens, and watches what it reads."""

    def __init__(self, command: Command, archive: Path, *, seed: int) -> None:
        self.command, self.archive = command, archive
        self.images, self.labels = archive / "images", archive_labels(archive)
        self.random = random.Random(seed)
        self.undisturbed = command.log.parent / "undisturbed"
        _, events, _ = self.run(self.undisturbed, None)
        self.length = len(events)
        check_whole(self.undisturbed, self.labels)
        reads = count_reads(events, self.images)
        assert reads == dict.fromkeys(self.labels, 1)  # or the count counts nothing

    def run(self, out: Path, moment: int | None) -> tuple[int | None, list[Event], bool]:
        """Run the command until so many events: its exit code, all events, whether it was killed."""
        out.mkdir(exist_ok=True)
        events: list[Event] = []
        with watching(self.archive) as kernel:
            kernel.watch(out, below=False)
            job = replace(self.command, out=out).start(disturb=commit_often)
            while job.is_alive and (moment is None or len(events) < moment):
                events += kernel.take(0.05)
            if killed := job.is_alive:
                job.kill()
            code = job.wait()
            wait_until(lambda: not own_processes("ray::MapWorker"), "the end of the workers")
            events += kernel.take_all()
        assert killed or code == 0, job.said
        return code, events, killed

    def kill(self, times: int) -> None:
        """Kill so many scorings, in as many folders as that takes, and check each folder at its end."""
        left, went_on = times, False
        for number in count():
            out = self.command.log.parent / f"out-{number}"
            killed = True
            while killed:
                finished = finished_images(out)
                went_on |= 0 < len(finished) < len(self.labels)
                moment = self.random.randrange(self.length) if left else None
                _, events, killed = self.run(out, moment)
                left -= killed
                reads = count_reads(events, self.images)
                assert not reads.keys() & finished  # nothing that was in the ledger is read again
                assert set(reads.values()) <= {1}
            assert check_whole(out, self.labels)
            check_alike(out, self.undisturbed)
            if not left:
                break
        assert went_on  # or no kill came between two commits


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_job_killed_at_random_moments_counts_each_image_once_and_reads_no_finished_one_again(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    archive = write_archive(sequences=3, frames=200, size=(32, 32))
    Killer(Command(archive, model, "", tmp_path / "log"), archive, seed=1).kill(20)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_job_killed_20_times_soon_after_its_start_sets_none_of_35_healthy_images_aside(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    """With the first images in work, each time."""
    archive, chance = write_archive(sequences=1, frames=35, size=(32, 32)), random.Random(1)
    command = Command(archive, model, tmp_path / "out", tmp_path / "log")
    kills = 0
    while kills < 20:
        opened, moment = 0, chance.randrange(1, 9)
        with watching(archive / "images") as kernel:
            job = command.start(disturb=commit_often)
            while job.is_alive and opened < moment:
                opened += sum(event.kind == OPENED for event in kernel.take(0.05))
            if not job.is_alive:
                break
            job.kill()
            kills += 1
    assert kills >= 12  # or the folder was finished too soon to tell
    assert command.finish().process.exitcode == 0
    assert check_whole(tmp_path / "out", archive_labels(archive))


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_driver_of_two_workers_killed_at_20_random_moments_leaves_what_an_undisturbed_one_does(
    write_archive: WriteArchive, model: Path, tmp_path: Path, session: Session
) -> None:
    import ray

    archive = write_archive(sequences=3, frames=100, size=(64, 64))
    variables = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"],
    }
    command = Command(archive, model, "", tmp_path / "log", ("--workers", 2, "--batch", 1), variables)
    Killer(command, archive, seed=2).kill(20)
    assert session.connected


# its workers


@contextmanager
def killing_workers(images: Path, moments: list[int], chance: random.Random) -> Iterator[list[int]]:
    """While the block runs, kill a worker each time that so many images have been opened; who was killed."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        opened = 0
        with watching(images) as kernel:
            started.set()
            for moment in moments:
                alive: list[int] = []
                while (opened < moment or not alive) and not ended.is_set():
                    opened += sum(event.kind == OPENED for event in kernel.take(0.05))
                    alive = [pid for pid in own_processes("ray::MapWorker") if pid not in killed]
                if ended.is_set():
                    return
                killed.append(chance.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)

    started = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    started.wait()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_lose_nothing_and_count_nothing_twice(
    write_archive: WriteArchive, model: Path, tmp_path: Path, session: Session, idle: Session, seed: int
) -> None:
    archive, chance = write_archive(sequences=3, frames=400, size=(64, 64)), random.Random(seed)
    score(ask(archive, model, tmp_path / "whole"), idle)
    moments = sorted(chance.sample(range(1200 * 3 // 4), 6))  # later a suspect may be alone, and is blamed
    with killing_workers(archive / "images", moments, chance) as killed:
        summary = score(ask(archive, model, tmp_path / "out", workers=2), session)
    assert len(killed) == 6
    assert summary.exit_code == 0
    assert check_whole(tmp_path / "out", archive_labels(archive))
    check_alike(tmp_path / "out", tmp_path / "whole")


# each boundary between two writes


@pytest.mark.long
def test_a_kill_between_any_two_writes_of_a_scoring_loses_nothing(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    """How many writes there are hangs on the clock, by which a job reports: so until one ends whole."""
    archive = write_archive(sequences=1, frames=4, size=(32, 32))
    (archive / "images" / "s0" / "bad.png").write_bytes(b"")
    run: Callable[[Path, int | None], int | None] = lambda out, boundary: (  # noqa: E731
        Command(archive, model, out, tmp_path / "log").finish(disturb=DieAt(boundary)).process.exitcode
    )
    assert run(tmp_path / "whole", None) == 3
    for boundary in count():
        out = tmp_path / str(boundary)
        first = run(out, boundary)
        assert first in (3, 77), boundary
        assert first == 3 or run(out, None) == 3, boundary
        check_alike(out, tmp_path / "whole")
        if first == 3:
            break
    assert boundary > 10
