import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache

import pytest
import tyro

from jobs import pack, simulate, status, train, tune
from jobs.options import RecipeArgs, parse
from jobs.run import option_names
from seg.catalogue import DATASETS, LOSSES, NETWORKS
from seg.requests import LabelRequest, PredictRequest, ReportRequest, ScoreRequest
from tests.small import ROOT

JOBS = [
    path.stem for path in sorted((ROOT / "jobs").glob("*.py")) if '__name__ == "__main__"' in path.read_text()
]
SLOW = {"torch", "torchvision", "ray", "cv2", "numpy", "scipy", "matplotlib", "pyarrow", "optuna"}


Help = Callable[[str], tuple[str, set[str]]]


@pytest.fixture(scope="module")
def ask_help(tmp_path_factory: pytest.TempPathFactory) -> Help:
    """What a job's --help prints in a fresh process, and the packages that it imported; asked once each."""

    @cache
    def ask(verb: str) -> tuple[str, set[str]]:
        command = [sys.executable, "-X", "importtime", ROOT / "jobs" / f"{verb}.py", "--help"]
        cwd = tmp_path_factory.mktemp(verb)
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert list(cwd.iterdir()) == []
        modules = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
        return done.stdout, {module.partition(".")[0] for module in modules}

    return ask


def test_there_are_these_jobs() -> None:
    verbs = "check convert label pack predict report score simulate status train tune"
    assert verbs.split() == JOBS


@pytest.mark.parametrize("verb", JOBS)
def test_help_answers_without_loading_what_is_slow_and_writes_nothing(ask_help: Help, verb: str) -> None:
    output, packages = ask_help(verb)
    assert output.startswith("usage: ")
    assert "tyro" in packages  # or this would see nothing
    assert packages & SLOW == set()


OPTIONS = {
    "simulate": "OUT --sequences --frames --size --bits --seed --difficulty",
    "check": "DIR --labels --label-suffix --foreground --label-colours --classes --out --seed",
    "train": "RECIPE --data --demo --out --workers --epochs --limit --seed --list --optimizer.lr "
    "--crops.size-px --gpus-per-worker --cpus-per-worker --wait --restarts --stall-minutes --checkpoints "
    "--keep-best --mlflow --dry-run",
    "tune": "RECIPE --data --out --trials --epochs --limit --seed --list --optimizer.lr --search "
    "--gpus-per-trial --cpus-per-trial --workers-per-trial",
    "pack": "RECIPE --data --limit --seed --workers --list",
    "label": "FOLDER --out --classes --model --min-object-px --queue --window-px",
    "predict": "IMAGE --model --out --archive --background --overlays --device --halo --blend --batch "
    "--precision --threads --min-object",
    "report": "DIR --out --figures --seed --images",
    "status": "DIR --watch --json",
    "score": "ARCHIVE --model --out --labels --masks --workers --limit --halo",
}


KINDS = {
    "train": train.Args,
    "tune": tune.Args,
    "pack": pack.Args,
    "simulate": simulate.Args,
    "status": status.Args,
    "score": ScoreRequest,
    "predict": PredictRequest,
    "report": ReportRequest,
    "label": LabelRequest,
}
EXAMPLES = [(kind, example) for kind in KINDS.values() for example in getattr(kind, "EXAMPLES", ())]
OPTION = re.compile(r"^  (--[a-z][a-z.-]*)(?: \| (--[a-z.-]+))?", re.MULTILINE)


@pytest.fixture(scope="module")
def all_help() -> Callable[..., str]:
    """What --help-all, or --help, of a job prints at 80 columns; asked once each."""

    @cache
    def ask(verb: str, word: str = "--help-all") -> str:
        said = io.StringIO()
        main = importlib.import_module(f"jobs.{verb}").main
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.setenv("COLUMNS", "80")
            with pytest.raises(SystemExit, match="0"):
                main([word])
        return said.getvalue()

    return ask


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_all_names_what_scripts_rely_on(all_help: Callable[..., str], verb: str) -> None:
    words = all_help(verb).replace("[", " ").replace("]", " ").replace(",", " ").split()
    assert [option for option in OPTIONS[verb].split() if option not in words] == []


@pytest.mark.parametrize("verb", KINDS)
def test_help_all_names_every_option_and_none_that_the_command_line_does_not_take(
    all_help: Callable[..., str], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [name for found in OPTION.findall(all_help(verb)) for name in found if name]
    ours = set(shown) - {"--help-all"}
    assert len(ours) == len(shown) - ("--help-all" in shown)
    assert set(option_names(KINDS[verb]).values()) <= ours
    with pytest.raises(SystemExit):
        tyro.cli(KINDS[verb], args=["--help"])
    assert ours <= set(re.findall(r"--[a-z][a-z.-]*", re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)))


@pytest.mark.parametrize("verb", KINDS)
@pytest.mark.parametrize("word", ["--help", "--help-all"])
def test_help_says_what_an_option_does_in_words_of_its_user(
    all_help: Callable[..., str], verb: str, word: str
) -> None:
    text = all_help(verb, word)
    assert re.findall(r"seg\.|cluster\.|\bkey in|\(default: (?:None|False|\)|'')", text) == []
    _, *lines = text.partition("examples:")[0].splitlines()  # the program's name is as long as it is
    assert max(map(len, lines)) <= 80
    for name, other in OPTION.findall(text):
        assert "no-" not in name
        assert not other or other.replace("no-", "") == name


@pytest.mark.parametrize("verb", ["train", "tune", "pack"])
def test_real_choices_stand_where_a_field_names_one_of_a_set(all_help: Callable[..., str], verb: str) -> None:
    text = all_help(verb)
    assert "  --crops.flip-columns | --crops.no-flip-columns\n" in text
    words = set(re.split(r"[\s,;:|.]+", text))
    backbones = {name for network in NETWORKS.values() for name in network.parameters}
    assert (NETWORKS.keys() | LOSSES.keys() | DATASETS.keys() | backbones) - words == set()


@pytest.mark.parametrize("verb", ["train", "tune", "pack", "score", "predict"])
def test_help_shows_a_dozen_options_and_two_examples(all_help: Callable[..., str], verb: str) -> None:
    short, whole = all_help(verb, "--help"), all_help(verb)
    common, every = ([name for name, _ in OPTION.findall(text)] for text in (short, whole))
    assert 7 <= len(common) - 1 <= 13
    assert set(common) <= set(every)
    assert f"--help-all              {len(every) - len(common)} options more." in short
    assert len(short.partition("examples:\n")[2].splitlines()) == 2


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_an_example_is_a_command_line(kind: type, example: str) -> None:
    words = shlex.split(example)
    assert parse(kind, words) if issubclass(kind, RecipeArgs) else tyro.cli(kind, args=words)


def test_a_flag_is_taken_both_ways_whatever_the_recipe_says() -> None:
    for words, flips in (
        (["--crops.flip-columns"], (True, True)),
        (["--crops.no-flip-rows"], (False, True)),
        (["camvid-unet"], (False, False)),
        (["camvid-unet", "--crops.flip-rows", "--crops.flip-columns"], (True, True)),
    ):
        crops = parse(train.Args, words).recipe.crops
        assert (crops.flip_rows, crops.flip_columns) == flips
