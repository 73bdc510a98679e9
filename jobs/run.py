"""Exit codes of every job, and the one place where an error becomes a line on the screen."""

import io
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro

from jobs.help import print_help
from seg.errors import DamagedFile, DataWarning, RequestError
from seg.process import set_up_process
from seg.screen import say, show_log, visible

FIELD = re.compile("`([a-z_.]+)(?:=([^`]*))?`")
"""How seg and cluster name a field of what a job is asked for: `workers`, or with a value `workers=2`."""

OPTIONS: dict[str, str] = {}
"""The option of each field of the job that runs: {"halo_px": "--halo"}."""


def run_job(name: str, job: Callable[[], int]) -> int:
    """Run a job and return its exit code: its own, 2 where the request is wrong, 1 where we failed.

    SIGTERM becomes Ctrl-C: a job that can stop half-way ends with 4 itself; here, before it began, 4 as well.
    The traceback of a failure goes to a file, whose name is printed beside the cause.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without the letters of a name
    show_log(in_options)
    set_up_process()
    warnings.showwarning = partial(_show_warning, name, warnings.showwarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with `&`
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return job()
    except RequestError as error:
        say(in_options(f"{name}: {error}"))
        return 2
    except DamagedFile as error:
        say(in_options(f"{name}: {error}"))
        return 1
    except KeyboardInterrupt:
        say(f"{name}: stopped; the same command goes on from here")
        return 4
    except Exception as error:
        log = Path(tempfile.mkstemp(prefix=f"fringe-{name}-", suffix=".log")[1])
        lines = traceback.format_exc().splitlines()  # of a name that holds a line break, two
        log.write_text("".join(f"{visible(line)}\n" for line in lines), encoding="utf-8")
        cause = (str(error).strip().splitlines() or [""])[-1]
        say(f"{name}: failed: {type(error).__name__}: {cause} (traceback: {log})")
        return 1
    finally:
        OPTIONS.clear()


def parse_words(kind: Any, argv: Sequence[str] | None, **options: Any) -> Any:
    """The options of a command line, as a `kind`; options: of `tyro.cli`. SystemExit: they are wrong.

    What tyro then says repeats words, which a shell may have made of the names in a folder. From here on, the
    fields of a `kind` are said as its options.
    """
    for one in get_args(kind) or (kind,):
        OPTIONS.update(option_names(one))
    words = list(sys.argv[1:] if argv is None else argv)
    asked = {"-h", "--help", "--help-all"}.intersection(words)
    if asked and not get_args(kind):  # of subcommands, which are few, tyro tells
        print_help(kind, options.get("default"), everything="--help-all" in asked)
        raise SystemExit(0)
    if all(visible(word) == word for word in words):
        return tyro.cli(kind, args=words, **options)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=words, **options)
    except SystemExit:
        for line in said.getvalue().splitlines():
            say(line)
        raise


def in_options(text: str) -> str:
    """A text of the library with the fields it names as options: `halo_px=64` is said as --halo 64."""

    def spell(field: re.Match[str]) -> str:
        name, value = field.groups()
        words = [OPTIONS.get(name, ""), value]
        return " ".join(filter(None, words)) if name in OPTIONS else field[0]

    return FIELD.sub(spell, text)


def option_names(kind: Any, group: str = "") -> dict[str, str]:
    """The option of each field of a job's dataclass, or of one that `Annotated` holds: {"halo_px": "--halo"}.

    A place in the line is none, nor what is not asked for. Of a dataclass within, all begin with its own
    option and a dot, {"tiling.halo_px": "--tiling.halo-px"}, unless that has no name, as the recipe.
    """
    options: dict[str, str] = {}
    kind = get_args(kind)[0] if get_args(kind) else kind
    for name, hint in get_type_hints(kind, include_extras=True).items() if is_dataclass(kind) else ():
        inner, *notes = get_args(hint) or (hint,)
        if tyro.conf.Positional in notes or tyro.conf.Suppress in notes:
            continue
        given = next((note.name for note in notes if getattr(note, "name", None) is not None), name)
        if is_dataclass(inner):
            options |= option_names(inner, f"{group}{given}." if given else group)
        else:
            options[f"{group}{name}"] = "--" + f"{group}{given}".replace("_", "-")
    return options


def _show_warning(
    name: str, show: Callable[..., None], message: Warning | str, kind: type[Warning], *where: Any
) -> None:
    """A warning about data as a line on the screen; others, which are about code, as Python shows them."""
    if issubclass(kind, DataWarning):
        say(in_options(f"{name}: warning: {message}"))
    else:
        show(visible(str(message)), kind, *where)
