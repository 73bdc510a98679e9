"""What leaves for a terminal: lines and tables in which nothing that a name holds acts on it."""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unicodedata import category

if TYPE_CHECKING:
    from rich.console import Console


def visible(text: str) -> str:
    r"""A text with `\x1b` for an escape character, and so on for whatever else does something unseen.

    So are controls of ASCII and of C1, line breaks and tabs, formats such as those that turn the direction of
    writing, halves of surrogate pairs (bytes of a name that are no UTF-8), and what Unicode has not assigned.
    Blanks of all widths stay.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_visible(letter) else _escape(letter) for letter in text)


def say(line: str, *, out: bool = False) -> None:
    """Print one line, whatever it holds, on standard error; out: on standard output."""
    print(visible(line), file=sys.stdout if out else sys.stderr, flush=True)


def show_log(reword: Callable[[str], str] = str) -> None:
    """Say what seg and cluster log in this process, from here on; reword: how this screen says a text."""
    handler = _ScreenHandler(reword)
    for name in ("seg", "cluster"):
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        log.handlers, log.propagate = [handler], False


class _ScreenHandler(logging.Handler):
    def __init__(self, reword: Callable[[str], str]) -> None:
        super().__init__()
        self.reword = reword

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        say(self.reword(record.getMessage()))


def open_console(**options: Any) -> "Console":
    """A rich console for texts that hold names: no markup in them, and nothing but line breaks acts.

    options: of `rich.console.Console`.
    """
    from rich.console import Console  # here, as a job that prints lines alone needs none
    from rich.segment import Segment

    class VisibleConsole(Console):
        def render_str(self, text: str, **words: Any) -> Any:
            return super().render_str(_visible_lines(text), **words)

        def render(self, *words: Any, **named: Any) -> Any:
            for segment in super().render(*words, **named):
                shown = segment.text if segment.control else _visible_lines(segment.text)
                yield segment if shown == segment.text else Segment(shown, segment.style)

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return VisibleConsole(**plain | options)


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def _is_visible(letter: str) -> bool:
    return letter.isprintable() or category(letter) == "Zs"


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
