import io
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group, RenderableType

from seg.errors import StoppedBy
from seg.progress import BLOCKS, Line, heading, live_view, sparkline, watch_here, watch_thread

ODD = (float("nan"), float("inf"), float("-inf"))


class Counted:
    """Work of five parts, of which each look finds one more over."""

    title, total = "counting", 5

    def __init__(self) -> None:
        self.done = 0

    @property
    def note(self) -> str:
        return f"part {self.done}"

    def look(self) -> None:
        self.done += 1

    def picture(self, height: int) -> RenderableType:
        return Group(heading(self.title, self.done / 5, f"{self.done}/5", ""), Line(f"  part {self.done}"))


class Terminal(io.StringIO):
    """What a terminal's screen holds after what was written to it: as much of VT100 as rich speaks."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for control, count, what, text in re.findall(
            r"(\x1b\[([?\d;]*)([A-Za-z]))|([^\x1b])", self.getvalue()
        ):
            if what == "A":
                row -= int(count or 1)
            elif what == "K":
                rows[row] = ""
            elif text == "\r":
                column = 0
            elif text == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif text:
                rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + 1 :]
                column += 1
            else:
                assert what in "mhl", control
        return [line.rstrip() for line in rows]

    @property
    def shows_cursor(self) -> bool:
        return re.findall(r"\x1b\[\?25[hl]", self.getvalue())[-1].endswith("h")


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on standard error; not a fixture, since pytest sets it again when the test begins."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", 0)
    for name, value in {"TERM": "xterm", "COLUMNS": "60", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return terminal


def speak_between(show: Callable[[], None]) -> None:
    show()
    print("a line of somebody else", file=sys.stderr)
    show()


def test_a_terminal_keeps_one_picture_the_last_and_lines_of_others_stay_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    assert watch_here(Counted(), speak_between) is StoppedBy.FINISHED
    first, bar, part, *rest = terminal.screen()
    assert first == "a line of somebody else"
    assert bar.startswith("counting  ━")
    assert bar.endswith("4/5")
    assert part == "  part 4"
    assert not any(rest)
    assert terminal.shows_cursor
    assert sys.stderr is terminal


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_terminal_is_left_clean_by_what_stops_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    terminal = open_terminal(monkeypatch)

    def stop(show: Callable[[], None]) -> None:
        show()
        raise error

    if error is KeyboardInterrupt:
        assert watch_here(Counted(), stop) is StoppedBy.INTERRUPT
    else:
        with pytest.raises(error):
            watch_here(Counted(), stop)
    assert [line for line in terminal.screen() if line][1:] == ["  part 3"]
    assert terminal.shows_cursor
    assert sys.stderr is terminal


def test_work_in_a_thread_is_shown_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert watch_thread(Counted(), lambda: None) is StoppedBy.FINISHED
    assert "part" in terminal.screen()[1]


def test_a_terminal_that_cannot_go_back_gets_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("seg.progress.QUICK_S", 0)
    watch_here(Counted(), lambda show: show())
    assert terminal.getvalue() == "counting: 3/5 in 0 s  part 3\n"


def test_a_log_gets_plain_lines_that_count_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.progress.QUICK_S", 0)
    resumed = Counted()
    resumed.done = 1
    watch_here(resumed, lambda show: None)
    assert capsys.readouterr().err == "counting: 3/5 in 0 s  part 3\n"


def test_the_folder_is_looked_at_now_and_then_however_often_news_are_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seg.progress.LOOK_EVERY_S", float("inf"))
    counted = Counted()
    with live_view(counted) as show:
        for _ in range(100):
            show()
    assert counted.done == 2  # at the beginning and at the end


@given(st.lists(st.none() | st.floats(-1e100, 1e100) | st.sampled_from(ODD)), st.integers(1, 40))
def test_a_curve_has_a_block_for_each_number_and_rises_with_it(
    values: list[float | None], width: int
) -> None:
    drawn = sparkline(values, width)
    shown = [value if value is not None and abs(value) < float("inf") else None for value in values[-width:]]
    known = [
        (value, BLOCKS.index(block)) for value, block in zip(shown, drawn, strict=False) if value is not None
    ]
    if not known:
        assert drawn == ""
        return
    assert [block == " " for block in drawn] == [value is None for value in shown]
    assert [height for _, height in sorted(known)] == sorted(height for _, height in known)
    assert min(height for _, height in known) == 0


def test_a_curve_goes_from_the_lowest_block_to_the_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == BLOCKS
    assert sparkline([9, 9, 0.5, None, 1], 3) == "▁ █"
    assert sparkline([0.25, 0.25], 8) == "▁▁"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "  loss ▁█ ab…"), ("latin-1", "  loss  abcde")])
def test_a_line_is_cut_not_wrapped_and_fits_the_terminals_letters(encoding: str, shown: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, force_terminal=True, color_system=None, width=13).print(Line("  loss ▁█ abcdefgh"))
    file.flush()
    assert file.buffer.getvalue().decode(encoding) == shown + "\n"
