"""--help: the options that most commands need, with two examples; --help-all: every option of a job.

The texts are the ones that stand under the fields in the source; tyro, which parses, knows their names.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, Suppress
from tyro.constructors import PrimitiveConstructorSpec

from seg.screen import open_console

WORDS = {int: "N", float: "X", str: "NAME", Path: "PATH"}
"""What stands for a value of a type."""
OPTION_COLUMNS = 26


@dataclass(frozen=True, slots=True)
class Option:
    """A field of what a job is asked for, as a line of help."""

    name: str
    """Dotted, as in what commonly is needed: optimizer.lr."""
    spelling: str
    """As it is typed, with a word for its value."""
    text: str
    group: str
    """What a dataclass within it says of its fields; empty: the job's own."""
    place: bool
    """Whether it is known by its place."""
    optional: bool


def print_help(kind: Any, default: Any = None, *, everything: bool = False) -> None:
    """Print what a dataclass can be asked for: the fields that its COMMON names, or all of them.

    default: an instance whose values are shown as the defaults. EXAMPLES of the class are words that follow
    the program's name.
    """
    options = list(list_options(kind, default))
    common = getattr(kind, "COMMON", None)
    shown = [one for one in options if everything or not common or one.place or one.name in common]
    if common and not everything:
        shown.sort(key=lambda one: -1 if one.place else common.index(one.name))
    places = " ".join(f"[{one.spelling}]" if one.optional else one.spelling for one in options if one.place)
    program = f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else sys.argv[0]
    console = open_console()
    console.print(f"usage: {' '.join(filter(None, (program, places, '[OPTIONS]')))}\n", soft_wrap=True)
    console.print(f"{inspect.cleandoc(kind.__doc__ or '')}\n")
    group = ""
    for option in shown:
        if everything and option.group != group:
            console.print(f"\n{option.group}")
            group = option.group
        _print_option(console, option.spelling, option.text)
    left = len(options) - len(shown)
    _print_option(console, "-h, --help", "This text.")
    if common:
        _print_option(console, "--help-all", f"{left} options more." if left else "All options.")
    examples = [f"\n  {program} {example}" for example in getattr(kind, "EXAMPLES", ())]
    if examples:
        console.print(f"\nexamples:{''.join(examples)}", soft_wrap=True)


def _print_option(console: Any, spelling: str, text: str) -> None:
    width = max(40, console.width - OPTION_COLUMNS)
    first, *rest = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    fits = len(spelling) <= OPTION_COLUMNS - 4
    if not fits:
        console.print(f"  {spelling}", soft_wrap=True)
    console.print(f"  {spelling if fits else '':<{OPTION_COLUMNS - 4}}  {first}", soft_wrap=True)
    for line in rest:
        console.print(" " * OPTION_COLUMNS + line, soft_wrap=True)


def list_options(kind: Any, default: Any = None, group: str = "", says: str = "") -> Iterator[Option]:
    """All fields, those of a dataclass within in its place; what is not asked for is left out."""
    texts, hints = read_texts(kind), get_type_hints(kind, include_extras=True)
    later: list[Iterator[Option]] = []
    for field in fields(kind):
        inner, notes = _unwrap(hints[field.name])
        if Suppress in notes:
            continue
        given = next((note.name for note in notes if getattr(note, "name", None) is not None), field.name)
        value = getattr(default, field.name) if default is not None else _default_of(field)
        if is_dataclass(inner):
            doc = inspect.cleandoc(inner.__doc__ or "").partition("\n")[0]
            within = f"{group}{given}." if given else group
            later.append(list_options(inner, value, within, doc if given else says))
            continue
        option, place = f"--{group}{given}".replace("_", "-"), Positional in notes
        word = "" if inner is bool else _word(hints[field.name])
        if inner is bool and value is True:
            spelling = f"{option} | --{group}no-{given}".replace("_", "-")
        else:
            spelling = word if place else f"{option} {word}".rstrip()
        yield Option(
            f"{group}{field.name}",
            spelling,
            _describe(texts[field.name], value),
            says,
            place,
            _has_default(field),
        )
    for options in later:
        yield from options


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """A type without what annotates it and without None, and the annotations, outermost first."""
    notes: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *found = get_args(hint)
            notes += found
        elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
            rest = [one for one in get_args(hint) if one is not NoneType]
            if len(rest) > 1:
                return Union[tuple(rest)], notes  # noqa: UP007  # of types that are known here alone
            hint = rest[0]
        else:
            return hint, notes


def _word(hint: Any) -> str:
    """What stands for a value: a metavar, else its choices, else the word of its type."""
    hint, notes = _unwrap(hint)
    notes.sort(key=lambda note: isinstance(note, PrimitiveConstructorSpec))  # what `arg` says comes before
    if given := [note.metavar for note in notes if getattr(note, "metavar", None)]:
        return given[0]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return "|".join(map(str, parts))
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_word, parts))
    if get_origin(hint) is tuple:
        return " ".join("..." if part is Ellipsis else _word(part) for part in parts)
    return WORDS[hint]


def _default_of(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _describe(text: str, value: Any) -> str:
    """A field's text and its default, unless that is nothing, of which the text tells where it matters."""
    if value is None or value is False or value in ("", ()):
        return text
    if value is True:
        return f"{text} (default: yes)"
    items = value if isinstance(value, tuple) else (value,)
    flat = [str(one) for item in items for one in (item if isinstance(item, tuple) else (item,))]
    return f"{text} (default: {' '.join(flat)})"


@cache
def read_texts(kind: Any) -> dict[str, str]:
    """The text under each field of a dataclass, or of one that it extends, in one line."""
    texts: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):  # but object
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for entry, below in pairwise([*body.body, ast.Pass()]):
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                said = below.value if isinstance(below, ast.Expr) else None
                text = said.value if isinstance(said, ast.Constant) else ""
                texts[entry.target.id] = " ".join(str(text).split())
    return texts
