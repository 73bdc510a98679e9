"""What an archive and its storage do to a scoring: bad images cost themselves alone, and nothing is lost."""

import io
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster import score_stages
from cluster.score import score
from cluster.session import Session
from seg.ledger.ledger import Ledger
from seg.score.pipeline import ImageScorer
from seg.storage import as_place
from tests.conftest import WriteArchive, draw_disc
from tests.faults.bad_images import Bad, write_archive_with_bad_images
from tests.faults.poison import PoisonedPredictor, PoisonedStage, poison_this_process
from tests.faults.s3_reads import counting_reads
from tests.faults.scoring_jobs import (
    Command,
    ask,
    be_impatient,
    check_alike,
    check_whole,
    finished_images,
    obey_modes_impatiently,
    read_masks,
)
from tests.s3 import BUCKET, S3
from tests.small import (
    archive_labels,
    count_by_hand,
    ledger_rows,
    read_tree,
    sum_ledger,
    wait_until,
    write_image,
    write_model,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def quarantine(folder: Path) -> list[dict[str, object]]:
    return [row for rows in Ledger(folder).quarantine_rows() for row in rows.to_pylist()]


def masks(folder: Path) -> int:
    return len(list((folder / "masks").rglob("[!.]*.png")))


# bad images


def check_bad_images(folder: Path, images: dict[str, Bad | None], archive: Path) -> None:
    """Good images are scored, each once, and each bad one is set aside once for its reason."""
    good = sorted(name for name, bad in images.items() if bad is None)
    assert [row["image"] for row in ledger_rows(folder)] == good
    labels: dict[str, Path | None] = {name: archive / "masks" / f"{name}.png" for name in good}
    assert sum_ledger(folder) == count_by_hand(folder / "masks", labels)
    rows = quarantine(folder)
    assert Counter(row["image"] for row in rows) == {name: 1 for name, bad in images.items() if bad}
    for row in rows:
        bad = images[str(row["image"])]
        assert bad is not None
        assert row["reason"] == bad.reason, row
        assert bad.says in str(row["detail"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["quarantine_reasons"] == Counter(bad.reason for bad in images.values() if bad)


@pytest.mark.filterwarnings("ignore:NONE of the 3 images of the rehearsal")
def test_sixty_images_bad_in_twelve_ways_cost_themselves_alone(
    model: Path, tmp_path: Path, idle: Session
) -> None:
    archive = tmp_path / "archive"
    images = write_archive_with_bad_images(archive, good=90, of_each=5)
    request = ask(archive, model, tmp_path / "out")
    summary = score(request, idle)
    counts = summary.values["images_scored"], summary.values["images_quarantined"]
    assert (len(images), counts) == (150, (90, 60))
    assert summary.exit_code == 3
    check_bad_images(tmp_path / "out", images, archive)


@pytest.mark.ray
@pytest.mark.long
def test_sixty_bad_images_cost_themselves_alone_on_ray(model: Path, tmp_path: Path, session: Session) -> None:
    archive = tmp_path / "archive"
    images = write_archive_with_bad_images(archive, good=340, of_each=5)
    request = ask(archive, model, tmp_path / "out", workers=2)
    assert score(request, session).exit_code == 3
    check_bad_images(tmp_path / "out", images, archive)


# images that end their process


def poison(archive: Path, *names: str) -> list[str]:
    """Add images of these names, which PoisonedScorer knows, between the others."""
    for name in names:
        image, mask = draw_disc((32, 32), np.random.default_rng(0))
        write_image(archive / "images" / "s0" / f"{name}.png", image)
        write_image(archive / "masks" / "s0" / f"{name}.png", mask)
    return [f"s0/{name}.png" for name in names]


def check_poisoned(folder: Path, archive: Path, poisoned: list[str], *, reason: str, attempts: int) -> None:
    """The poisoned images are set aside, each once, and all others scored, each once."""
    labels = {image: label for image, label in archive_labels(archive).items() if image not in poisoned}
    assert [row["image"] for row in ledger_rows(folder)] == sorted(labels)
    assert sum_ledger(folder) == count_by_hand(folder / "masks", labels)
    rows = sorted((row["image"], row["reason"], row["attempts"]) for row in quarantine(folder))
    assert rows == [(image, reason, attempts) for image in sorted(poisoned)]


def test_a_memory_limit_sets_aside_the_image_that_hits_it_alone(
    write_archive: WriteArchive, model: Path, tmp_path: Path, idle: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageScorer, "open_predictor", staticmethod(PoisonedPredictor))
    archive = write_archive(sequences=2, frames=10, size=(32, 32))
    poisoned = poison(archive, "memory")
    summary = score(ask(archive, model, tmp_path / "out"), idle)
    assert summary.exit_code == 3
    check_poisoned(tmp_path / "out", archive, poisoned, reason="killed_worker", attempts=2)
    detail = str(quarantine(tmp_path / "out")[0]["detail"])
    assert "in stage model: " in detail
    assert "can't allocate memory" in detail


@pytest.mark.long
@pytest.mark.parametrize(("frames", "deaths"), [(10, 5), (14, 6)])
def test_an_image_that_ends_the_job_s_own_process_is_set_aside_after_five_deaths_alone(
    write_archive: WriteArchive, model: Path, tmp_path: Path, frames: int, deaths: int
) -> None:
    """With 10 frames it is rehearsed, alone; else it first dies in company, which is nobody's attempt."""
    archive = write_archive(sequences=2, frames=frames, size=(32, 32))
    if frames == 14:
        (archive / "images" / "s0" / "5.png").unlink()
        (archive / "masks" / "s0" / "5.png").unlink()
    poisoned = poison(archive, "exit")
    command = Command(archive, model, tmp_path / "out", tmp_path / "log")
    codes = [command.finish(disturb=poison_this_process).process.exitcode for _ in range(deaths + 1)]
    assert codes == [1] * deaths + [3]
    check_poisoned(tmp_path / "out", archive, poisoned, reason="killed_worker", attempts=5)


@pytest.mark.ray
@pytest.mark.long
def test_images_that_crash_exit_or_take_all_memory_are_set_aside_alone_after_two_deaths(
    write_archive: WriteArchive,
    model: Path,
    tmp_path: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_stages, "STAGES", {"score": PoisonedStage})
    archive = write_archive(sequences=2, frames=100)
    poisoned = poison(archive, "exit", "crash", "memory")
    summary = score(ask(archive, model, tmp_path / "out", workers=2), session)
    assert summary.exit_code == 3
    check_poisoned(tmp_path / "out", archive, poisoned, reason="killed_worker", attempts=2)


@pytest.mark.ray
@pytest.mark.long
def test_an_image_that_takes_too_long_is_set_aside_after_two_attempts(
    write_archive: WriteArchive,
    model: Path,
    tmp_path: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_stages, "STAGES", {"score": PoisonedStage})
    archive = write_archive(sequences=2, frames=40)
    poisoned = poison(archive, "stuck")
    request = ask(archive, model, tmp_path / "out", workers=2, image_timeout_s=5.0)
    assert score(request, session).exit_code == 3
    check_poisoned(tmp_path / "out", archive, poisoned, reason="timeout", attempts=2)


@pytest.mark.ray
@pytest.mark.long
def test_an_image_that_stalls_is_named_and_after_one_restart_the_job_ends(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    archive = write_archive(sequences=2, frames=40)
    (stuck,) = poison(archive, "stuck")
    command = Command(
        archive,
        model,
        tmp_path / "out",
        tmp_path / "log",
        # without a limit for an image, which by default is as long, and sets it aside
        ("--workers", 1, "--batch", 1, "--stall-minutes", 0.2, "--per-image-timeout", 0),
    )
    job = command.finish(disturb=poison_this_process)
    assert job.process.exitcode == 1
    assert f"nothing has moved for 0.2 min; in work: {stuck} (model, " in job.said
    assert "starting all workers again" in job.said
    assert "did not help" in job.said.splitlines()[-1]
    assert "raylet" not in job.said  # nor anything else of Ray's
    assert finished_images(tmp_path / "out") == archive_labels(archive).keys() - {stuck}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["stopped_by"] == "error"


# storage


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def check_sound(folder: Path, undisturbed: Path) -> set[str]:
    """What a stopped scoring has committed is what an undisturbed one has; its images."""
    expected = {row["image"]: row["confusion"] for row in ledger_rows(undisturbed)}
    rows = ledger_rows(folder)
    for row in rows:
        assert row["confusion"] == expected[row["image"]]
        name = f"masks/{row['image']}.png"
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert len({row["image"] for row in rows}) == len(rows)
    return {row["image"] for row in rows}


@pytest.mark.long
def test_a_full_disk_ends_the_job_with_its_cause_and_once_there_is_room_it_goes_on(
    write_archive: WriteArchive, model: Path, tmp_path: Path, small_disk: Path
) -> None:
    archive = write_archive(sequences=2, frames=100, size=(32, 32))
    whole = Command(archive, model, tmp_path / "whole", tmp_path / "log")
    assert whole.finish().process.exitcode == 0
    command = Command(archive, model, small_disk / "out", tmp_path / "log")
    job = command.finish(disturb=be_impatient)
    assert job.process.exitcode == 1
    assert "No space left on device" in job.said.splitlines()[-1]
    assert check_sound(small_disk / "out", tmp_path / "whole") < archive_labels(archive).keys()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    job = command.finish()
    assert job.process.exitcode == 0, job.said
    assert check_whole(small_disk / "out", archive_labels(archive))
    check_alike(small_disk / "out", tmp_path / "whole")


@pytest.mark.long
def test_output_that_becomes_read_only_ends_the_job_with_its_cause_and_then_it_goes_on(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    archive, out = write_archive(sequences=2, frames=40, size=(32, 32)), tmp_path / "out"
    whole = Command(archive, model, tmp_path / "whole", tmp_path / "log")
    assert whole.finish().process.exitcode == 0
    command = Command(archive, model, out, tmp_path / "log")
    (out / "masks" / "s1").mkdir(parents=True)
    (out / "masks" / "s1").chmod(0o500)
    shutil.copy(tmp_path / "whole" / "run.json", out)
    job = command.finish(disturb=obey_modes_impatiently)
    assert job.process.exitcode == 1
    last = job.said.splitlines()[-1]
    assert "Permission denied" in last
    assert "masks/s1/" in last
    left = check_sound(out, tmp_path / "whole")
    assert left == finished_images(out)
    (out / "masks" / "s1").chmod(0o700)
    job = command.finish()
    assert job.process.exitcode == 0, job.said
    check_alike(out, tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_done(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    archive = write_archive()
    (tmp_path / "mine").mkdir(mode=0o500)
    command = Command(archive, model, tmp_path / "mine" / "out", tmp_path / "log")
    job = command.finish(disturb=obey_modes_impatiently)
    assert job.process.exitcode == 1
    assert "Permission denied" in job.said.splitlines()[-1]
    assert not any((tmp_path / "mine").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("where", ["archive", "out"])
def test_storage_that_is_away_for_a_while_is_waited_for(
    write_archive: WriteArchive, model: Path, tmp_path: Path, where: str
) -> None:
    archive, out = write_archive(sequences=2, frames=100, size=(32, 32)), tmp_path / "out"
    folder = {"archive": archive / "images", "out": out}[where]
    job = Command(archive, model, out, tmp_path / "log").start()
    wait_until(lambda: masks(out) >= 20 or not job.is_alive, "images")
    folder.rename(tmp_path / "away")  # as a mount that is gone
    wait_until(lambda: "trying for" in job.said or not job.is_alive, "a refusal")
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    assert job.wait() == 0, job.said
    assert "goes on after" in job.said
    assert check_whole(out, archive_labels(archive))


# object stores


@pytest.mark.long
def test_on_an_object_store_a_job_waits_while_it_is_refused_and_goes_on_after_a_kill(
    write_archive: WriteArchive, model: Path, tmp_path: Path, s3: S3
) -> None:
    archive, bucket = write_archive(sequences=2, frames=150, size=(32, 32)), as_place(f"s3://{BUCKET}")
    for file in sorted(path for path in archive.rglob("*") if path.is_file()):
        bucket.upload(file.relative_to(tmp_path).as_posix(), file)
    out = bucket.below("out")
    command = Command(
        f"s3://{BUCKET}/archive",
        model,
        f"s3://{BUCKET}/out",
        tmp_path / "log",
        ("--workers", 0, "--batch", 1),
        {name: value for name, value in os.environ.items() if name.startswith("AWS_")},
    )
    job = command.start()
    wait_until(lambda: out.names("masks/s0") or not job.is_alive, "a mask")
    with s3.refusing():
        wait_until(lambda: "trying for" in job.said or not job.is_alive, "a refusal")
    wait_until(lambda: out.names("ledger") or not job.is_alive, "a commit")
    assert job.is_alive, job.said
    assert "goes on after" in job.said
    job.kill()
    finished = Ledger(out).finished_images()
    assert 0 < len(finished) < 300
    with counting_reads(until="out/summary.json") as reads:
        job = command.finish()
    assert job.process.exitcode == 0, job.said
    left = archive_labels(archive).keys() - finished
    images = {name: times for name, times in reads.items() if name.startswith("archive/images/")}
    assert images == {f"archive/images/{image}": 1 for image in left}
    local = Command(archive, model, tmp_path / "local", tmp_path / "log")
    assert local.finish().process.exitcode == 0
    rows = [row for part in Ledger(out).rows() for row in part.to_pylist()]
    assert sorted((row["image"], row["confusion"]) for row in rows) == [
        (row["image"], row["confusion"]) for row in ledger_rows(tmp_path / "local")
    ]
    for name, mask in read_tree(tmp_path / "local" / "masks").items():
        assert out.read(f"masks/{name}") == mask


# time


def many_links(archive: Path, number: int) -> None:
    """Add images and labels that are links to the first ones."""
    for folder in ("images", "masks"):
        (archive / folder / "s9").mkdir()
        for k in range(number):
            os.link(archive / folder / "s0" / "0.png", archive / folder / "s9" / f"{k}.png")


def test_a_job_stops_at_its_deadline_and_goes_on(
    write_archive: WriteArchive, model: Path, tmp_path: Path, idle: Session
) -> None:
    archive = write_archive(sequences=1, frames=1)
    many_links(archive, 5000)
    deadline = datetime.now(UTC) + timedelta(seconds=2)
    request = ask(archive, model, tmp_path / "out")
    summary = score(replace(request, deadline=deadline.isoformat()), idle)
    assert (summary.exit_code, summary.values["stopped_by"]) == (4, "deadline")
    finished = finished_images(tmp_path / "out")
    assert 0 < len(finished) == summary.values["images_scored"] < 5001
    assert not Ledger(tmp_path / "out").quarantined_images()
    summary = score(replace(request, limit=len(finished) + 20), idle)
    assert summary.exit_code == 0
    assert len(finished_images(tmp_path / "out")) == len(finished) + summary.values["images_scored"]
    assert summary.values["images_scored"] >= 20


def test_what_was_scored_when_a_job_is_asked_to_end_survives_its_kill_three_seconds_later(
    write_archive: WriteArchive, model: Path, tmp_path: Path
) -> None:
    archive, out = write_archive(sequences=3, frames=10, size=(32, 32)), tmp_path / "out"
    poison(archive, "stuck")  # so that it cannot end by itself
    command = Command(archive, model, out, tmp_path / "log")
    job = command.start(disturb=poison_this_process)
    before = {f"s0/{k}.png" for k in range(10)}  # those before it
    written = [out / "masks" / f"{image}.png" for image in before]
    wait_until(
        lambda: all(mask.is_file() for mask in written) or not job.is_alive, "the images before the stuck one"
    )
    job.process.terminate()  # as `ray job stop` does, which kills 3 s later
    with suppress(AssertionError):
        wait_until(lambda: not job.is_alive, "its end", within_s=3)
    assert job.is_alive
    job.kill()
    assert finished_images(out) >= before
    job = command.finish()
    assert job.process.exitcode == 0, job.said
    assert check_whole(out, archive_labels(archive))


# batches


@pytest.mark.long
def test_three_batches_differ_in_at_most_one_pixel_of_a_million(
    model: Path, tmp_path: Path, idle: Session
) -> None:
    """Convolutions of another batch are split into other blocks, whose float32 sums round in another order.

    Logits then differ in their last bits, by 1e-8 of 4e-3 here, and a pixel whose two best classes are that
    close changes sides. The images are noise, for which the model is undecided everywhere.
    """
    archive, chance = tmp_path / "archive", np.random.default_rng(0)
    for number in range(4):
        write_image(archive / f"{number}.png", chance.integers(0, 256, (1024, 1024), np.uint8))
    masks = []
    for batch in (1, 4, 7):
        out = tmp_path / str(batch)
        assert score(ask(archive, model, out, batch=batch, halo_px=0), idle).exit_code == 0
        files = read_masks(out)
        masks.append([np.asarray(Image.open(io.BytesIO(data))) for _, data in sorted(files.items())])
    stacked = np.array(masks)
    assert stacked.mean() == pytest.approx(0.5, abs=0.1)
    for one, other in combinations(stacked, 2):
        assert np.count_nonzero(one != other) <= one.size / 1e6
