import subprocess
import sys
from pathlib import Path

import pytest

from seg.recipes import RECIPES
from tests.small import ROOT

JOBS = [
    path.stem for path in sorted((ROOT / "jobs").glob("*.py")) if '__name__ == "__main__"' in path.read_text()
]
SLOW = {"torch", "torchvision", "ray", "cv2", "numpy", "scipy", "matplotlib", "pyarrow", "optuna"}


def run(verb: str, *words: str, cwd: Path) -> tuple[str, set[str]]:
    """What a job prints in a fresh process, and the packages that it imported."""
    command = [sys.executable, "-X", "importtime", ROOT / "jobs" / f"{verb}.py", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    return done.stdout, {module.partition(".")[0] for module in modules}


def test_there_are_these_jobs() -> None:
    assert JOBS == ["convert", "label", "pack", "report", "score", "simulate", "status", "train", "tune"]


@pytest.mark.parametrize("verb", JOBS)
def test_help_answers_without_loading_what_is_slow(verb: str, tmp_path: Path) -> None:
    output, packages = run(verb, "--help", cwd=tmp_path)
    assert output.startswith("usage: ")
    assert "tyro" in packages  # or this would see nothing
    assert packages & SLOW == set()
    assert list(tmp_path.iterdir()) == []


OPTIONS = {
    "simulate": "OUT --sequences --frames --size --bits --seed --difficulty",
    "train": "RECIPE --data --out --workers --epochs --limit --seed --list --optimizer.lr --crops.size-px "
    "--gpus-per-worker --cpus-per-worker --wait --restarts --stall-minutes --checkpoints --keep-best "
    "--mlflow",
    "tune": "RECIPE --data --out --trials --epochs --limit --seed --list --optimizer.lr --search "
    "--gpus-per-trial --cpus-per-trial --workers-per-trial",
    "pack": "RECIPE --data --limit --seed --workers --list",
    "label": "FOLDER --out --classes --model --min-object-px --queue --window-px",
    "report": "DIR --out",
    "status": "DIR --watch --json",
    "score": "ARCHIVE --model --out --labels --masks --workers --limit --halo",
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_names_what_scripts_rely_on(verb: str, tmp_path: Path) -> None:
    output, _ = run(verb, "--help", cwd=tmp_path)
    words = output.replace("[", " ").replace("]", " ").replace(",", " ").split()
    assert [option for option in OPTIONS[verb].split() if option not in words] == []


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_recipes_off_a_terminal_are_a_line_each_name_first_tab_separated(verb: str, tmp_path: Path) -> None:
    output, _ = run(verb, "--list", cwd=tmp_path)
    lines = output.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(RECIPES)
    assert {len(line.split("\t")) for line in lines} == {5}
