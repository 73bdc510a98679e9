import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest

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
    "train": "RECIPE --data --out --workers --epochs --limit --seed --list --optimizer.lr --crops.size-px "
    "--gpus-per-worker --cpus-per-worker --wait --restarts --stall-minutes --checkpoints --keep-best "
    "--mlflow --dry-run",
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


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_names_what_scripts_rely_on(ask_help: Help, verb: str) -> None:
    output, _ = ask_help(verb)
    words = output.replace("[", " ").replace("]", " ").replace(",", " ").split()
    assert [option for option in OPTIONS[verb].split() if option not in words] == []
