"""One name for all jobs: fringe COMMAND ..., as python jobs/COMMAND.py ...; alone it says which there are."""

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

from seg.errors import DONE, REFUSED, describe_unknown
from seg.screen import say
from seg.words import fringe_version

COMMANDS = {
    "check": "what a data set holds, what is wrong, the command that trains",
    "train": "train a segmentation model on images and masks",
    "tune": "search learning rate, loss, backbone and other fields of a recipe",
    "score": "predict an archive, count it against its labels, write a report",
    "predict": "mask, picture and objects of an image or a handful, at once",
    "label": "draw boxes in a window, helped by a model",
    "convert": "bring a data set, or labels of an old tool, into the plain layout",
    "simulate": "compute holograms of cells, with their masks and boxes",
    "pack": "prepare a training's data ahead of it",
    "report": "write a scoring's report again, or compare two scorings",
    "status": "how far a scoring is",
}
"""The jobs, in the order in which one meets them, and what each is for."""
HELP, VERSION = "--help", "--version"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job that the first word names on the others; nothing but that is imported. Its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", HELP):
        for line in describe_commands():
            say(line, out=True)
        return DONE
    if words[0] == VERSION:
        say(f"fringe {fringe_version()}", out=True)
        return DONE
    name, known = words[0], list_commands()
    if name not in known:
        say(f"fringe: {describe_unknown('command', name, (*known, HELP, VERSION))}")
        return REFUSED
    sys.argv[0] = f"fringe {name}"  # which the job's usage repeats
    return import_module(f"jobs.{name}").main(words[1:])


def list_commands() -> list[str]:
    """The commands whose job is there."""
    return [name for name in COMMANDS if find_spec(f"jobs.{name}")]


def describe_commands() -> Iterator[str]:
    """The lines of `fringe --help`, 80 columns at most."""
    yield "usage: fringe COMMAND ...   (fringe COMMAND --help tells its options)"
    yield ""
    for name in list_commands():
        yield f"  {name:9} {COMMANDS[name]}"
    yield ""
    yield f"fringe {VERSION} prints the version. From Python: import fringe."
