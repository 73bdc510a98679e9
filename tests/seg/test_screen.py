import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table

from seg.screen import open_console, say, visible

ACTING = {
    "\x1b]0;owned\x07": r"\x1b]0;owned\x07",
    "two\nlines\rover\ttab": r"two\nlines\rover\ttab",
    "\x9b31mC1\x85": r"\x9b31mC1\x85",
    "gnp\u202eexe.png": r"gnp\u202eexe.png",
    "isolate\u2066\u2069zero\u200bjoin\u200d": r"isolate\u2066\u2069zero\u200bjoin\u200d",
    "lines\u2028\u2029bom\ufeff": r"lines\u2028\u2029bom\ufeff",
    "no UTF-8 \udcff": r"no UTF-8 \udcff",
    "tag\U000e0041": r"tag\U000e0041",
}
PLAIN = [
    "aufnahme 7.tif#3",
    "ünïcödé",
    "画像　一",
    "صورة",
    "98\u202f%",
    "▁▂▃…→",
    r"back\slash",
    "[red]name[/red]",
]


@pytest.mark.parametrize(("text", "shown"), ACTING.items(), ids=map(ascii, ACTING))
def test_what_acts_on_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_people_write_stays(text: str) -> None:
    assert visible(text) == text


@given(st.text(st.characters()))
def test_nothing_visible_acts_and_showing_it_again_changes_nothing(text: str) -> None:
    shown = visible(text)
    assert not re.search(
        "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]", shown
    )
    assert visible(shown) == shown
    shown.encode()


def test_a_line_is_one_line_on_the_stream_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb")
    say("c\x1b[2J", out=True)
    assert capsys.readouterr() == ("c\\x1b[2J\n", "a\\nb\n")


def remove_own_sequences(text: str) -> str:
    """What rich draws with: colours, and the cursor's movements."""
    return re.sub(r"\x1b\[[?0-9;]*[mKAhl]", "", text).replace("\r", "").replace("\n", "")


@pytest.mark.parametrize("text", ACTING, ids=map(ascii, ACTING))
def test_no_name_acts_in_a_table_a_panel_or_a_bar_on_a_terminal(text: str) -> None:
    screen = io.StringIO()
    console = open_console(file=screen, force_terminal=True, width=300)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table, Panel(text), text, f"[bold]{text}[/wrong]")
    with Progress(TextColumn("{task.description}"), console=console, auto_refresh=False) as bar:
        bar.add_task(text, total=1)
    shown = remove_own_sequences(screen.getvalue())
    assert visible(shown) == shown
    pieces = [visible(piece) for piece in text.split("\n")]
    assert all(piece in shown for piece in pieces)


def test_a_name_that_looks_like_markup_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    open_console().print("[/b] :smile: [red]x")
    assert capsys.readouterr().out == "[/b] :smile: [red]x\n"


def test_a_cell_is_measured_as_it_is_shown() -> None:
    table = Table(box=None)
    table.add_column()
    table.add_column()
    table.add_row("\x1b[2J", "|")
    table.add_row("x", "|")
    screen = io.StringIO()
    open_console(file=screen, width=80).print(table)
    columns = {line.index("|") for line in screen.getvalue().splitlines() if "|" in line}
    assert len(columns) == 1
