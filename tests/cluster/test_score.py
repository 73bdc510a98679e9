import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import jobs.report
import jobs.score
from cluster.score import look_only, score
from cluster.session import Session
from seg.errors import QUARANTINED, STOPPED_EARLY, DataWarning, RequestError
from seg.files import is_leftover, persistently
from seg.ledger.ledger import Ledger
from seg.requests import ScoreRequest
from seg.score.blame import InFlight
from seg.score.summary import ScoreSummary
from seg.storage import as_place
from tests.conftest import WriteArchive
from tests.seg.ledger.test_ledger import age
from tests.small import (
    archive_labels,
    count_by_hand,
    ledger_rows,
    own_processes,
    predict_alone,
    read_tree,
    start_job,
    sum_ledger,
    wait_until,
    write_model,
    write_odd_archive,
)

Score = Callable[..., ScoreSummary]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def ask(archive: Path, model: Path, out: Path, workers: int = 0) -> ScoreRequest:
    return ScoreRequest(archive=as_place(archive), models=(model,), out=as_place(out), workers=workers)


@pytest.fixture
def score_in_process(tmp_path: Path, model: Path, idle: Session) -> Score:
    """Scores an archive without Ray into tmp_path/out, or another folder."""

    def score_it(archive: Path, out: str = "out", **options: object) -> ScoreSummary:
        return score(replace(ask(archive, model, tmp_path / out), **options), idle)  # type: ignore[arg-type]

    return score_it


def parts(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in read_tree(folder).items() if name.endswith(".parquet")}


def check_whole(folder: Path, labels: dict[str, Path | None]) -> list[list[int]]:
    """Every image is in the ledger once and its matrices are those of the masks on disk; their sum."""
    assert [row["image"] for row in ledger_rows(folder)] == sorted(labels)
    total = sum_ledger(folder)
    assert total == count_by_hand(folder / "masks", labels)
    assert json.loads((folder / "summary.json").read_text())["confusion"] == total
    return total


@pytest.mark.long
@pytest.mark.ray
def test_no_worker_one_and_two_give_the_same_integers_and_masks(
    tmp_path: Path, session: Session, model: Path, score_in_process: Score
) -> None:
    labels = write_odd_archive(tmp_path / "archive")
    summaries = [score_in_process(tmp_path / "archive", "0")]
    for workers in (1, 2):
        summaries.append(score(ask(tmp_path / "archive", model, tmp_path / str(workers), workers), session))
    total = check_whole(tmp_path / "0", labels)
    assert min(map(sum, total)) > 0
    for workers in "12":
        assert check_whole(tmp_path / workers, labels) == total
        assert read_tree(tmp_path / workers / "masks") == read_tree(tmp_path / "0" / "masks")
        volatile = {"attempt", "finished_at", *(f"seconds_{s}" for s in ("read", "decode", "model", "write"))}
        rows, expected = (
            [{name: row[name] for name in row.keys() - volatile} for row in ledger_rows(tmp_path / out)]
            for out in (workers, "0")
        )
        assert rows == expected
    for summary in summaries:
        assert summary.exit_code == 0
        assert summary.values["images_scored"] == summary.values["images_found"] == len(labels)
        assert summary.values["labelled"] == sum(label is not None for label in labels.values())
        assert summary.values["images_ignored"] == {".md": 1}
        pixels = sum(row["height"] * row["width"] for row in ledger_rows(tmp_path / "0"))
        assert summary.values["pixels"] == pixels


@pytest.mark.ray
def test_a_job_keeps_its_own_handler_of_sigterm_once_ray_is_started(session: Session) -> None:
    assert session.connected
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # Ray's own would exit with 1 or 15


@pytest.mark.ray
@pytest.mark.long
def test_a_killed_worker_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, session: Session, model: Path, write_archive: WriteArchive, score_in_process: Score
) -> None:
    archive = write_archive(sequences=2, frames=100, size=(64, 64))
    score_in_process(archive, "whole")
    out = tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        killed.append(own_processes("MapWorker")[0])
        os.kill(killed[0], signal.SIGKILL)

    with when(lambda: len(list(out.rglob("masks/*/*.png"))) >= 5, kill_one):
        summary = score(ask(archive, model, out, workers=2), session)
    assert len(killed) == 1
    assert summary.exit_code == 0
    total = check_whole(out, archive_labels(archive))
    assert total == sum_ledger(tmp_path / "whole")
    files = read_tree(out / "masks")
    masks = {name: files[name] for name in files if not is_leftover(Path(name))}  # of who was killed
    assert masks == read_tree(tmp_path / "whole" / "masks")


@contextmanager
def when(condition: Callable[[], object], act: Callable[[], None]) -> Iterator[None]:
    """Act in another thread as soon as the condition holds, while the block runs."""

    def watch() -> None:
        wait_until(condition, "the moment to act")
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def test_scoring_again_does_nothing_and_starts_no_ray(
    write_archive: WriteArchive, score_in_process: Score, idle: Session, tmp_path: Path
) -> None:
    archive = write_archive()
    first = score_in_process(archive)
    before = parts(tmp_path / "out"), read_tree(tmp_path / "out" / "masks")
    again = score_in_process(archive, workers=1)  # a worker of Ray, had there been anything to do
    assert (parts(tmp_path / "out"), read_tree(tmp_path / "out" / "masks")) == before
    assert not idle.connected
    counts = [again.values[f"images_{kind}"] for kind in ("found", "scored", "skipped", "quarantined")]
    assert counts == [6, 0, 6, 0]
    assert (again.exit_code, again.values["stopped_by"]) == (0, "finished")
    assert again.values["confusion"] == first.values["confusion"]


def test_a_limit_then_the_rest_is_the_whole(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=2, frames=11)
    whole = score_in_process(archive, "whole")
    part = score_in_process(archive, limit=12)
    kinds = ("found", "scored", "skipped", "left")
    assert [part.values[f"images_{kind}"] for kind in kinds] == [22, 12, 0, 10]
    first = [f"s0/{k}.png" for k in range(11)] + ["s1/0.png"]  # natural order: 2 before 10
    assert {row["image"] for row in ledger_rows(tmp_path / "out")} == set(first)
    rest = score_in_process(archive)
    assert [rest.values[f"images_{kind}"] for kind in kinds] == [22, 10, 12, 0]
    assert check_whole(tmp_path / "out", archive_labels(archive)) == whole.values["confusion"]


def test_found_is_scored_and_skipped_and_quarantined_and_left(
    write_archive: WriteArchive, score_in_process: Score
) -> None:
    archive = write_archive(sequences=2, frames=4)
    (archive / "images/s0/1.png").write_bytes(b"")
    (archive / "images/s1/2.png").write_bytes(b"no image")
    for options in ({"limit": 3}, {}, {}):
        summary = score_in_process(archive, **options)
        values = summary.values
        kinds = [values[f"images_{kind}"] for kind in ("scored", "skipped", "quarantined", "left")]
        assert values["images_found"] == sum(kinds)
        assert summary.exit_code == QUARANTINED
        assert values["stopped_by"] == "finished"


def test_an_unlabelled_archive_has_no_ratios(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive()
    summary = score_in_process(archive / "images")
    assert (summary.values["labelled"], summary.exit_code) == (0, 0)
    saved = json.loads((tmp_path / "out/summary.json").read_text())
    assert (saved["miou"], saved["pixel_accuracy"]) == (None, None)
    assert sum(sum(row) for row in saved["confusion"]) == 0
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 6


def test_include_and_exclude_choose_images(write_archive: WriteArchive, score_in_process: Score) -> None:
    archive = write_archive()
    summary = score_in_process(archive, include=("s0/*", "s1/*"), exclude=("*/2.png",))
    assert (summary.values["images_found"], summary.values["images_ignored"]) == (4, {".png": 2})


def test_ctrl_c_keeps_what_has_arrived_and_the_same_request_finishes(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=3, frames=15, size=(64, 64))
    out = tmp_path / "out"
    with when(
        lambda: len(list(out.rglob("masks/*/*.png"))) >= 10, lambda: os.kill(os.getpid(), signal.SIGINT)
    ):
        stopped = score_in_process(archive)
    assert (stopped.exit_code, stopped.values["stopped_by"]) == (STOPPED_EARLY, "interrupt")
    assert 0 < stopped.values["images_scored"] < 45
    assert len(Ledger(out).finished_images()) == stopped.values["images_scored"]
    rest = score_in_process(archive)
    assert rest.values["images_skipped"] == stopped.values["images_scored"]
    whole = score_in_process(archive, "whole")
    assert check_whole(out, archive_labels(archive)) == whole.values["confusion"]


def score_words(tmp_path: Path, archive: Path, model: Path, workers: int) -> tuple[object, ...]:
    return (archive, "--model", model, "--out", tmp_path / "out", "--workers", workers)


@pytest.mark.ray
@pytest.mark.long
def test_sigterm_while_ray_scores_is_exit_code_4_and_the_token_is_the_owners_alone(
    write_archive: WriteArchive, score_in_process: Score, model: Path, tmp_path: Path
) -> None:
    archive = write_archive(sequences=2, frames=100, size=(64, 64))
    out = tmp_path / "out"
    (tmp_path / "home").mkdir()
    words = score_words(tmp_path, archive, model, workers=1)
    with start_job("score", *words, HOME=tmp_path / "home", RAY_ADDRESS="local", RAY_AUTH_TOKEN="") as job:
        begun = lambda: any(out.rglob("masks/*/*.png")) or job.poll() is not None  # noqa: E731
        wait_until(begun, "the first mask")
        job.terminate()
        _, errors = job.communicate()
    assert job.returncode == STOPPED_EARLY, errors
    assert json.loads((out / "summary.json").read_text())["stopped_by"] == "interrupt"
    assert (out / "report.html").is_file()
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    left = len(Ledger(out).finished_images())
    assert left < 200
    assert score_in_process(archive).values["images_skipped"] == left
    check_whole(out, archive_labels(archive))


@pytest.mark.ray
@pytest.mark.long
def test_a_killed_job_on_ray_goes_on_with_the_same_command(
    write_archive: WriteArchive, score_in_process: Score, model: Path, tmp_path: Path
) -> None:
    archive = write_archive(sequences=6, frames=100, size=(64, 64))
    out = tmp_path / "out"
    words = score_words(tmp_path, archive, model, workers=2)
    for masks in (1, 150, 300):
        with start_job("score", *words, RAY_ADDRESS="local") as job:
            wait_until(
                lambda masks=masks, job=job: (
                    len(list(out.rglob("masks/*/*.png"))) >= masks or job.poll() is not None
                ),
                "masks",
                within_s=120,
            )
            job.kill()
            job.communicate()
    with start_job("score", *words, RAY_ADDRESS="local") as job:
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    whole = score_in_process(archive, "whole")
    assert check_whole(out, archive_labels(archive)) == whole.values["confusion"]


def test_the_whole_identity_is_noted_and_another_one_refused(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=2)
    score_in_process(archive)
    identity = json.loads((tmp_path / "out/run.json").read_text())
    assert {"statistics", "blend", "min_object_px", "require_labels", "halo_px"} <= identity.keys()
    others = {"min_object_px": 5, "blend": "gaussian", "require_labels": True, "batch": 3, "masks": "none"}
    for name, value in others.items():
        with pytest.raises(RequestError, match=f"holds another run, with {name} "):
            score_in_process(archive, **{name: value})
    assert json.loads((tmp_path / "out/run.json").read_text()) == identity


def test_objects_add_up_over_the_archive(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    summary = score_in_process(write_archive(sequences=2, frames=4), min_object_px=9)
    rows = ledger_rows(tmp_path / "out")
    objects = summary.values["objects"]
    for kind in ("found", "missed", "invented"):
        assert objects[kind] == sum(sum(row[f"objects_{kind}"]) for row in rows)
    listed = sum(table.num_rows for table in Ledger(tmp_path / "out").objects())
    assert listed == objects["found"] + objects["invented"]


def test_images_that_changed_are_refused_by_name_and_scored_again_where_that_is_asked_for(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=4)
    score_in_process(archive)
    for name in ("images/s0/1.png", "masks/s0/2.png"):
        (archive / name).write_bytes((archive / name).read_bytes())
        os.utime(archive / name, ns=(1, 1))
    before = parts(tmp_path / "out")
    with pytest.raises(RequestError, match=r"1 image .*s0/1.png.* and 1 label .*s0/2.png.* changed"):
        score_in_process(archive)
    assert parts(tmp_path / "out") == before
    again = score_in_process(archive, rescore_changed=True)
    assert [again.values[f"images_{kind}"] for kind in ("scored", "skipped", "changed")] == [2, 2, 2]
    check_whole(tmp_path / "out", archive_labels(archive))
    (archive / "images/s0/3.png").write_bytes((archive / "images/s0/0.png").read_bytes())
    row = next(row for row in ledger_rows(tmp_path / "out") if row["image"] == "s0/3.png")
    os.truncate(archive / "images/s0/3.png", row["bytes"])
    os.utime(archive / "images/s0/3.png", ns=(row["mtime_ns"], row["mtime_ns"]))
    assert score_in_process(archive).values["images_scored"] == 0  # size and time are as they were
    with pytest.raises(RequestError, match=r"s0/3\.png"):
        score_in_process(archive, verify=True)


def test_missing_masks_are_made_again_and_changed_ones_are_refused_by_name(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, masks = write_archive(sequences=1, frames=4), tmp_path / "out/masks/s0"
    score_in_process(archive)
    whole = read_tree(masks)
    (masks / "2.png.png").unlink()
    again = score_in_process(archive)
    assert "1 mask is missing (s0/2.png); its image is scored again" in capsys.readouterr().err
    assert [again.values[f"images_{kind}"] for kind in ("scored", "skipped", "changed")] == [1, 3, 1]
    (masks / "1.png.png").write_bytes(whole["1.png.png"][:-1])
    (masks / "3.png.png").write_bytes(whole["3.png.png"].replace(b"IEND", b"iEND"))
    before = parts(tmp_path / "out")
    with pytest.raises(RequestError, match=r"^1 mask \(s0/1.png\) changed since"):
        score_in_process(archive)
    with pytest.raises(
        RequestError, match=r"^2 masks \(s0/1.png, s0/3.png\) changed since .*`rescore_changed`"
    ):
        score_in_process(archive, verify=True)
    assert parts(tmp_path / "out") == before
    again = score_in_process(archive, verify=True, rescore_changed=True)
    assert [again.values[f"images_{kind}"] for kind in ("scored", "skipped", "changed")] == [2, 2, 2]
    assert read_tree(masks) == whole
    check_whole(tmp_path / "out", archive_labels(archive))


def test_a_folder_without_masks_misses_none(write_archive: WriteArchive, score_in_process: Score) -> None:
    archive = write_archive(sequences=1, frames=2)
    score_in_process(archive, masks="none")
    again = score_in_process(archive, masks="none", verify=True)
    assert [again.values[f"images_{kind}"] for kind in ("scored", "skipped")] == [0, 2]


def test_a_flipped_bit_counts_no_image_twice(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=4)
    expected = score_in_process(archive).values["confusion"]
    age(tmp_path / "out")  # as issue S found it; with a hash in its name any flip does
    (part,) = (tmp_path / "out/ledger").iterdir()
    part.write_bytes(hide_names(part.read_bytes()))
    told = rf"kept as ledger/\.{part.name}\.damaged; its images are scored again"
    with pytest.warns(DataWarning, match=told) as said:
        again = score_in_process(archive)
    assert len(said) == 1
    assert (again.values["images_scored"], again.values["confusion"]) == (4, expected)
    check_whole(tmp_path / "out", archive_labels(archive))


def hide_names(part: bytes) -> bytes:
    """A part with one bit another, so that its column of names reads as empty, and its sums as they were."""
    for bit in range(8 * 100):
        flipped = bytearray(part)
        flipped[bit // 8] ^= 1 << bit % 8
        file = pa.BufferReader(bytes(flipped))
        with suppress(pa.ArrowException, OSError):
            names = pq.read_table(file, columns=["image"], page_checksum_verification=True)
            if not names.num_rows:
                return bytes(flipped)
    raise AssertionError("pyarrow refuses them all by now")


@pytest.mark.filterwarnings("ignore:NONE of the 1 images of the rehearsal")
def test_the_quarantine_is_tried_again_where_that_is_asked_for(
    write_archive: WriteArchive, score_in_process: Score
) -> None:
    archive = write_archive(sequences=1, frames=3)
    good = (archive / "images/s0/0.png").read_bytes()
    (archive / "images/s0/1.png").write_bytes(b"")
    assert score_in_process(archive).exit_code == QUARANTINED
    assert score_in_process(archive, retry_quarantined=True).exit_code == QUARANTINED
    (archive / "images/s0/1.png").write_bytes(good)
    mended = score_in_process(archive, rescore_changed=True)
    assert (mended.exit_code, mended.values["images_scored"]) == (0, 1)


def test_a_deadline_that_comes_too_soon_stops_at_once_and_keeps_the_promise_of_exit_code_4(
    write_archive: WriteArchive, score_in_process: Score
) -> None:
    archive = write_archive(sequences=2, frames=150)
    soon = (datetime.now().astimezone() + timedelta(seconds=1.5)).isoformat()
    stopped = score_in_process(archive, deadline=soon)
    assert (stopped.exit_code, stopped.values["stopped_by"]) == (STOPPED_EARLY, "deadline")
    assert stopped.values["images_left"] == 300 - stopped.values["images_scored"]


def test_images_in_flight_when_a_job_died_are_tried_last_and_alone(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=8)
    score_in_process(archive, limit=1)
    dead = InFlight(as_place(tmp_path / "out/inflight"), "dead")
    dead.begin("s0/2.png", 1, alone=True)
    dead.begin("s0/3.png", 1)
    score_in_process(archive)
    rows = sorted(ledger_rows(tmp_path / "out"), key=lambda row: row["finished_at"])
    assert [row["image"] for row in rows][-2:] == ["s0/3.png", "s0/2.png"]  # the fewest attempts first
    assert {row["image"]: row["attempt"] for row in rows if row["attempt"] > 1} == {"s0/2.png": 2}
    assert list((tmp_path / "out/inflight").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*status.json cannot be written")
def test_output_that_vanishes_is_made_anew_by_nobody_and_once_it_is_back_the_scoring_goes_on(
    write_archive: WriteArchive,
    score_in_process: Score,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    archive, out, away = write_archive(sequences=3, frames=20), tmp_path / "out", tmp_path / "away"
    monkeypatch.setattr("seg.score.status.EVERY_S", 0.0)  # not a minute: it is what made the folder
    looks: list[int] = []  # in place of commits that are due, which would wait and so keep it from that
    monkeypatch.setattr(Ledger, "commit_due", lambda ledger: looks.append(1))
    job = threading.Thread(target=score_in_process, args=(archive,))
    job.start()
    wait_until(lambda: len(list(out.rglob("masks/*/*.png"))) >= 5, "masks")
    out.rename(away)  # as a mount that is gone
    before, said = len(looks), capfd.readouterr().err
    wait_until(lambda: len(looks) >= before + 4 or out.exists() or not job.is_alive(), "statuses refused")
    assert not out.exists()
    assert job.is_alive()
    away.rename(out)
    job.join()
    said += capfd.readouterr().err
    assert "trying for 120 s" in said
    assert "goes on after" in said
    check_whole(out, archive_labels(archive))
    assert json.loads((out / "status.json").read_text())["state"] == "finished"


@pytest.mark.filterwarnings("ignore:.*status.json cannot be written")
def test_a_mount_point_without_its_mount_gets_nothing(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out, away = write_archive(sequences=2, frames=20), tmp_path / "out", tmp_path / "away"
    monkeypatch.setattr("seg.score.status.EVERY_S", 0.0)
    monkeypatch.setattr(persistently, "__kwdefaults__", {"patience_s": 1.0})

    def unmount() -> None:
        out.rename(away)
        out.mkdir()

    with (
        when(lambda: len(list(out.rglob("masks/*/*.png"))) >= 5, unmount),
        pytest.raises(OSError, match="refused for 1 s: No such file"),
    ):
        score_in_process(archive)
    assert not list(out.iterdir())
    out.rmdir()
    away.rename(out)
    (out / "lock-1.json").unlink()  # the end of a process of its own would free it
    assert score_in_process(archive).exit_code == 0
    check_whole(out, archive_labels(archive))


def test_a_torn_note_costs_a_warning_and_not_the_night(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=3)
    score_in_process(archive, limit=1)
    for name in ("worker-1.json", "suspects.json"):
        (tmp_path / "out/inflight" / name).write_bytes(b'{"host": "node-3", "images": {"s0/2.png": {"sta')
    with pytest.warns(DataWarning, match="is damaged") as warned:
        assert score_in_process(archive).exit_code == 0
    assert len(warned) == 2
    assert list((tmp_path / "out/inflight").iterdir()) == []
    check_whole(tmp_path / "out", archive_labels(archive))


def test_what_killed_five_jobs_is_set_aside(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=3)
    score_in_process(archive, limit=1)
    InFlight(as_place(tmp_path / "out/inflight"), "dead").begin("s0/2.png", 5, alone=True)
    summary = score_in_process(archive)
    assert summary.values["quarantine_reasons"] == {"killed_worker": 1}
    (rows,) = (table.to_pylist() for table in Ledger(tmp_path / "out").quarantine_rows())
    assert (rows[0]["image"], rows[0]["attempts"]) == ("s0/2.png", 5)
    assert rows[0]["bytes"] == (archive / "images/s0/2.png").stat().st_size
    assert summary.values["images_left"] == 0


def test_output_that_refuses_ends_the_job_with_the_cause_and_nothing_half_written_counts(
    write_archive: WriteArchive, score_in_process: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(sequences=2, frames=4)
    score_in_process(archive, limit=4)
    monkeypatch.setattr(persistently, "__kwdefaults__", {"patience_s": 0.0})
    (tmp_path / "out/masks/s1").write_text("a file where the folder will be")
    with pytest.raises(OSError, match="masks/s1"):
        score_in_process(archive)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["stopped_by"], summary["images_left"]) == ("error", 4)
    (tmp_path / "out/masks/s1").unlink()
    assert score_in_process(archive).values["images_left"] == 0
    check_whole(tmp_path / "out", archive_labels(archive))


@pytest.mark.parametrize("command", [score, look_only])
def test_images_that_carry_an_orientation_are_warned_of_once_and_scored_as_stored(
    write_archive: WriteArchive, command: Callable[..., object], model: Path, idle: Session, tmp_path: Path
) -> None:
    archive = write_archive(sequences=1, frames=4)
    exif = Image.Exif()
    exif[274] = 6
    for frame in (1, 3):
        file = archive / f"images/s0/{frame}.png"
        Image.open(file).save(file, exif=exif)
    (archive / "images/s0/9.jpg").write_bytes(b"\xff\xd8\xff")  # set aside: nobody looks how it was held
    request = ask(archive, model, tmp_path / "out")
    text = r"^2 images carry an orientation \(the first is s0/1.png\), which viewers apply and we do not"
    with pytest.warns(DataWarning, match=text) as said:
        command(request, idle)
    assert len(said) == 1
    assert {(row["height"], row["width"]) for row in ledger_rows(tmp_path / "out")} <= {(64, 96)}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_model_that_predicts_one_class_alone_is_said_on_the_screen_in_the_summary_and_in_the_report(
    tmp_path: Path,
    model: Path,
    write_archive: WriteArchive,
    labelled: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = write_archive(sequences=1, frames=2)
    predict_alone(model, 1, class_shares=(0.93, 0.07))
    where, lines = archive, ["the model predicts no pixel of: background"]
    if not labelled:
        where, lines = archive / "images", ["the model predicts nothing but disc"]
    lines.append("100 % of pixels are disc, 7 % in training; 0 % are background, 93 % in training")
    words = (str(where), "--model", str(model), "--out", str(tmp_path / "out"), "--workers", "0")
    assert jobs.score.main(words) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["class_shares_trained"] == {"background": 0.93, "disc": 0.07}
    for line, alarm in zip(lines, summary["alarms"], strict=True):
        assert alarm.startswith(line)
    screen = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert screen == [f"score: warning: {alarm}" for alarm in summary["alarms"]]
    page = (tmp_path / "out/report.html").read_text()
    for alarm in summary["alarms"]:
        assert f'<p class="alert alarm"><b>Look at this first:</b> {alarm}.</p>' in page[: page.index("<dt>")]
    assert jobs.report.main([str(tmp_path / "out")]) == 0
    again = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert again == [f"report: warning: {alarm}" for alarm in summary["alarms"]]


def test_a_model_file_without_shares_raises_no_alarm_of_them(
    tmp_path: Path, write_archive: WriteArchive, score_in_process: Score
) -> None:
    values = score_in_process(write_archive(sequences=1, frames=1)).values
    assert (values["alarms"], values["class_shares_trained"]) == ([], None)
