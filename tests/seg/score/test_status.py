import json
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.status import main
from seg.errors import DataWarning, RequestError, StoppedBy
from seg.locks.folder_lock import FolderLock
from seg.progress import live_view
from seg.score.progress import ScoringProgress
from seg.score.status import FILE, Held, ScoringStatus, StatusReader, StatusWriter, show_status
from seg.storage import as_place


@pytest.fixture
def progress() -> ScoringProgress:
    return ScoringProgress(8, ("background", "cell"), workers=2, title="scoring holograms")


def edit(folder: Path, **values: object) -> None:
    """Change fields of a status.json, as a scoring in another state wrote them."""
    file = folder / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")


def test_a_status_is_plain_values_and_comes_back_the_same(tmp_path: Path, progress: ScoringProgress) -> None:
    progress.begin()
    progress.hold([Held("a.png", "model", 1.5)])
    StatusWriter(as_place(tmp_path)).write(progress)
    content = (tmp_path / FILE).read_bytes()
    values = json.loads(content)
    assert values["state"] == "scoring"
    assert values["in_flight"] == [{"image": "a.png", "stage": "model", "seconds": 1.5}]
    assert (values["host"], values["pid"]) == (socket.gethostname(), os.getpid())
    assert abs(datetime.fromisoformat(values["updated"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert StatusReader(as_place(tmp_path)).status == replace(
        ScoringStatus(**values), in_flight=[Held("a.png", "model", 1.5)]
    )


def test_a_status_is_written_only_where_the_scoring_holds_the_folder(
    tmp_path: Path, progress: ScoringProgress
) -> None:
    with FolderLock(tmp_path / "out", what="scoring") as lock:
        writer = StatusWriter(as_place(tmp_path / "out"), lock.check)
        writer.write(progress, at_once=True)
        (tmp_path / "out").rename(tmp_path / "away")
        (tmp_path / "out").mkdir()  # a mount point without its mount
        with pytest.warns(DataWarning, match=r"status\.json cannot be written .*lock-1\.json"):
            writer.write(progress, at_once=True)
        assert not list((tmp_path / "out").iterdir())
        (tmp_path / "out").rmdir()
        (tmp_path / "away").rename(tmp_path / "out")
        (tmp_path / "out" / FILE).unlink()
        writer.write(progress, at_once=True)
        assert (tmp_path / "out" / FILE).is_file()


def test_a_mount_that_goes_away_while_a_status_is_written_takes_it_along(
    tmp_path: Path, progress: ScoringProgress
) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    with FolderLock(out, what="scoring") as lock:

        def check_before_it_goes() -> None:
            lock.check()
            out.rename(away)
            out.mkdir()

        with pytest.warns(DataWarning, match=r"status\.json cannot be written .*No such file"):
            StatusWriter(as_place(out).settled(), check_before_it_goes).write(progress)
        assert not list(out.iterdir())
        out.rmdir()
        away.rename(out)


def test_a_status_is_written_once_a_minute_and_when_it_matters(
    tmp_path: Path, progress: ScoringProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, writes = 0.0, []
    monkeypatch.setattr("seg.score.status.time.monotonic", lambda: now)
    writer = StatusWriter(as_place(tmp_path))
    for second in range(200):
        now = float(second)
        (tmp_path / FILE).unlink(missing_ok=True)
        writer.write(progress, at_once=second == 130)
        writes += [second] if (tmp_path / FILE).exists() else []
    assert writes == [0, 60, 120, 130, 190]


def test_storage_that_refuses_a_status_is_warned_of_once(tmp_path: Path, progress: ScoringProgress) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = StatusWriter(as_place(tmp_path / "file"))
    with pytest.warns(DataWarning, match=r"file/status.json cannot be written \(.*; it tells what was true"):
        writer.write(progress)
    writer.write(progress, at_once=True)  # a second warning would be an error here
    (tmp_path / "file").unlink()
    writer.write(progress, at_once=True)
    assert (tmp_path / "file" / FILE).exists()


@pytest.mark.parametrize(
    ("state", "quarantined", "minutes", "code"),
    [
        ("starting", 0, 0, 0),
        ("scoring", 3, 2, 0),
        ("scoring", 0, 12, 1),
        ("finishing", 0, 4, 1),
        ("finished", 0, 600, 0),
        ("finished", 1, 600, 3),
        ("deadline", 1, 600, 4),
        ("interrupt", 0, 600, 4),
        ("error", 1, 600, 1),
    ],
)
def test_the_exit_code_is_the_scorings_own_or_tells_that_it_is_silent(
    tmp_path: Path, progress: ScoringProgress, state: str, quarantined: int, minutes: float, code: int
) -> None:
    StatusWriter(as_place(tmp_path)).write(progress)
    edit(tmp_path, state=state, images_quarantined=quarantined, updated=ago(minutes))
    assert main([str(tmp_path), "--json"]) == code


def test_who_is_silent_is_said_to_be(
    tmp_path: Path, progress: ScoringProgress, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.begin()
    StatusWriter(as_place(tmp_path)).write(progress)
    assert main([str(tmp_path)]) == 0
    assert "alarm" not in capsys.readouterr().out
    edit(tmp_path, updated=ago(12), pid=77, host="node-3")
    assert main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "scoring holograms" in shown
    assert " silent" in shown
    assert "  end " not in shown
    assert "  alarm  no sign of life for 12 min; it ran as process 77 on node-3" in shown
    assert main([str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["silent_seconds"] == pytest.approx(720, abs=30)


def test_watching_ends_with_the_scoring_and_leaves_its_last_line(
    tmp_path: Path,
    progress: ScoringProgress,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = as_place(tmp_path)
    progress.begin()
    writer = StatusWriter(place)
    writer.write(progress)
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            progress.end(StoppedBy.FINISHED)
        writer.write(progress, at_once=True)

    monkeypatch.setattr("seg.score.status.time.sleep", pause)
    monkeypatch.setattr("seg.progress.QUICK_S", 0)
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", 0)
    assert show_status(place, watch=True) == 0
    assert len(waits) == 3
    assert capsys.readouterr().err == "scoring holograms: 0/8 in 0 s  0.0 MPix/s\n"


def test_ctrl_c_ends_the_watching_and_nothing_else(
    tmp_path: Path, progress: ScoringProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    StatusWriter(as_place(tmp_path)).write(progress)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seg.score.status.time.sleep", interrupt)
    assert main([str(tmp_path), "--watch"]) == 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "status.json is not there; give the folder that was `out` of a scoring"),
        ("{", "is no status of a scoring"),
        ("[]", "is no status of a scoring"),
        ('{"state": "scoring"}', "is no status of a scoring"),
    ],
)
def test_a_folder_without_a_status_is_refused(
    tmp_path: Path, content: str | None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert main([str(tmp_path)]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("state", "asleep"), ("updated", "noon"), ("new", 1)])
def test_a_field_that_does_not_fit_is_refused(
    tmp_path: Path, progress: ScoringProgress, name: str, value: object
) -> None:
    StatusWriter(as_place(tmp_path)).write(progress)
    edit(tmp_path, **{name: value})
    with pytest.raises(RequestError, match="is no status of a scoring"):
        StatusReader(as_place(tmp_path))


def test_a_scoring_is_a_line_a_minute_in_a_log(
    progress: ScoringProgress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("seg.progress.time.monotonic", lambda: now)
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", 0)
    with live_view(progress, line_every_s=60) as show:
        for _ in range(180):
            now += 1
            show()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" s")[0].split()[-1] for line in lines] == ["60", "120", "180"]


def test_a_deadline_is_missed_where_the_end_is_later(progress: ScoringProgress) -> None:
    status = replace(
        progress.status(), ends_at="2026-01-01T05:30:00+00:00", deadline="2026-01-01T07:00:00+02:00"
    )
    assert status.misses_deadline
    assert not replace(status, deadline="2026-01-01T07:00:00+01:00").misses_deadline
    assert not replace(status, deadline=None).misses_deadline
