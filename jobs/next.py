"""What may come next: what there is to look at, and a command to paste, when a job has ended well."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seg.screen import say

if TYPE_CHECKING:
    from cluster.search import SearchSummary  # which loads torch and Ray
    from cluster.train import TrainSummary
    from seg.requests import DataRequest, LabelRequest, PredictRequest, ScoreRequest


def end_with(line: str, what: str, verb: str, *words: object) -> int:
    """Print a job's last line, then what may come next; returns the exit code, 0."""
    say(line, out=True)
    say_next(what, verb, *words)
    return 0


def say_next(what: str, verb: str = "", *words: object) -> None:
    """Say on standard error what may come next, and on a line of its own the command, ready for a shell.

    verb: of the job, without one there is no command. Words that are paths are shortened.
    """
    say(f"next: {what}")
    if verb:
        say(f"    {spell_command(verb, *words)}")


def spell_command(verb: str, *words: object) -> str:
    """The command line of a job, quoted for a shell, that starts it as the one that runs here was started."""
    shown = [short_path(word) if isinstance(word, Path) else str(word) for word in words]
    return shlex.join([*_start(verb), *shown])


def short_path(path: Path) -> str:
    """A path from the folder that the user is in, if it lies there, and never like an option."""
    here = Path.cwd()
    short = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f"./{short}" if short.startswith("-") else short


def _start(verb: str) -> list[str]:
    if sys.argv[0].startswith("fringe "):  # as jobs/command.py says it
        return [
            "fringe" if shutil.which("fringe") else short_path(Path(sys.executable).parent / "fringe"),
            verb,
        ]
    started = Path(sys.argv[0])
    python = "python" if shutil.which("python") == sys.executable else short_path(Path(sys.executable))
    folder = started.parent if started.parent.name == "jobs" else Path("jobs")
    return [python, short_path(folder / f"{verb}.py")]


def tell_after_training(summary: "TrainSummary", request: "DataRequest") -> None:
    """The pictures of a run, and how to score with its model."""
    folder = summary.folder
    names = ("curves.png", "confusion.png", "examples.png")
    pictures = ", ".join(name for name in names if (folder / name).is_file())
    _tell_scoring(f"see {pictures} in {short_path(folder)}", folder, summary.data, request)


def tell_after_search(summary: "SearchSummary", request: "DataRequest") -> None:
    """The page of a search, and how to score with its winner."""
    page = short_path(summary.folder / "search.html")
    _tell_scoring(f"open {page} in a browser", summary.folder, summary.data, request)


def _tell_scoring(look: str, folder: Path, data: Path, request: "DataRequest") -> None:
    """data: what was trained on, which scoring reads as training did where it is plain."""
    plain = request.recipe.dataset == "plain"
    archive, labels = (data, _label_words(request)) if plain else ("ARCHIVE", [])
    model, out = folder / "best.safetensors", Path("scores") / folder.name
    if model.is_file():
        say_next(f"{look}; score images:", "score", archive, *labels, "--model", model, "--out", out)


def _label_words(request: "DataRequest") -> list[object]:
    """The options that say where labels are and how they are written, as training was given them."""
    words: list[object] = []
    for option in ("labels", "label_suffix", "label_colours"):
        if value := getattr(request, option):
            words += [f"--{option.replace('_', '-')}", value]
    return [*words, "--follow-links"] if request.follow_links else words


def tell_after_scoring(request: "ScoreRequest") -> None:
    """The report, and how to label what the model is least sure of, where both are on this machine."""
    archive, out = request.archive, request.out
    if not (archive.is_local and out.is_local):
        say_next(f"open {out}/report.html in a browser")
        return
    folder = out.local()
    queue = ("--model", request.models[0], "--queue", folder / "review.csv")
    what = f"open {short_path(folder / 'report.html')} in a browser; label what review.csv names:"
    say_next(what, "label", archive.local(), *queue)


def tell_after_predicting(request: "PredictRequest", folder: str) -> None:
    """The pictures of predictions."""
    if request.overlays == "png":
        say_next(f"see the pictures in {short_path(Path(folder) / 'overlays')}")


def tell_after_labelling(request: "LabelRequest") -> None:
    """How to train on the labels, where there are some and a training finds them beside the images."""
    from seg.label.files import find_folders  # here: it loads NumPy

    images, root = find_folders(request.folder, request.out)
    saved = (path for name in ("masks", "boxes") for path in (root / name).rglob("*.*"))
    if images.parent == root and any(saved):
        say_next("train on these labels:", "train", "--data", root)
