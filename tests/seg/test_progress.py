import pytest

from seg.progress import Wait, progress
from tests.seg.test_live_view import Terminal, open_terminal


@pytest.fixture
def nothing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.progress.QUICK_S", 0)


@pytest.mark.usefixtures("nothing_is_quick")
def test_a_log_gets_plain_lines_now_and_then_and_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("scoring", 5, line_every_s=0) as advance:
        advance(2, note="s1/a.png")
        advance()
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "scoring: 2/5 in 0 s  s1/a.png",
        "scoring: 3/5 in 0 s  s1/a.png",
    ]  # which is the last one, and stands once


def test_what_is_quick_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("packing", 3) as advance:
        advance()
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_quick")
def test_a_work_of_less_than_a_minute_is_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("packing", 3) as advance:
        for _ in range(3):
            advance()
    assert capsys.readouterr().err == "packing: 3/3 in 0 s\n"


def fail_after_one(total: int) -> None:
    with progress("packing", total) as advance:
        advance()
        raise KeyError


@pytest.mark.usefixtures("nothing_is_quick")
def test_an_error_still_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError):
        fail_after_one(3)
    assert capsys.readouterr().err == "packing: 1/3 in 0 s\n"


def draw_bar(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = open_terminal(monkeypatch)
    with progress("scoring", 5) as advance:
        advance(2, note="s1/a.png")
        advance()
    return terminal


def test_a_terminals_bar_shows_count_and_last_note_and_folds_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = draw_bar(monkeypatch)
    shown = terminal.getvalue().rsplit("scoring", 1)[1]
    assert "3/5" in shown
    assert "s1/a.png" in shown
    assert not any(terminal.screen())
    assert terminal.shows_cursor


@pytest.mark.usefixtures("nothing_is_quick")
def test_what_took_its_time_leaves_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line for line in draw_bar(monkeypatch).screen() if line] == ["scoring: 3/5 in 0 s  s1/a.png"]


def test_a_wait_for_workers_is_explained_once_when_it_lasts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter((100.0, 100.0, 100.0, 101.9, 102.0))
    monkeypatch.setattr("seg.progress.time.monotonic", lambda: next(moments))
    wait, alone = Wait(12, "imports torch"), Wait(1, "loads the model")
    wait.look()
    wait.look()
    assert capsys.readouterr().err == ""
    wait.look()
    wait.look()  # it is told already: no look at the clock
    monkeypatch.setattr("seg.progress.time.monotonic", lambda: 160.0)
    alone.look()
    assert capsys.readouterr().err.splitlines() == [
        "waiting for 12 workers: Ray starts their processes, each imports torch",
        "waiting for a worker: Ray starts its process, which loads the model",
    ]
    assert str(wait) == "waiting 60 s for 12 workers: Ray starts their processes, each imports torch"
    assert len(str(wait)) < 78  # a terminal's line, behind two blanks
