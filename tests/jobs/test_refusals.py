import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import WriteArchive
from tests.small import ROOT

SLOW = {"torch", "torchvision", "ray", "scipy", "matplotlib", "optuna"}
ALONE = """
import importlib, json, sys
from jobs.run import run_job
for words in json.loads(sys.argv[1]):
    try:
        code = importlib.import_module("jobs." + words[0]).main(words[1:])
    except SystemExit as usage:
        code = usage.code
    print(words[0], code, *(sys.modules.keys() & set(sys.argv[2].split())), file=sys.stderr, flush=True)
"""


@pytest.fixture
def answers(tmp_path: Path, write_archive: WriteArchive) -> Callable[..., list[str]]:
    """What jobs print on standard error, one after the other in a process of their own without a cluster."""

    def ask(*lines: str) -> list[str]:
        write_archive("archive", sequences=2, frames=2)
        (tmp_path / "empty").mkdir()
        environment = {name: value for name, value in os.environ.items() if name != "FRINGE_DATA"}
        done = subprocess.run(
            [sys.executable, "-c", ALONE, json.dumps([line.split() for line in lines]), " ".join(SLOW)],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr.splitlines()

    return ask


NO_MODEL = "model none.safetensors is not there; give the best.safetensors of a run"


def test_wrong_names_paths_and_folders_and_lists_are_answered_without_torch_and_ray(
    answers: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "there.safetensors").touch()
    model = "--model there.safetensors"
    asked = {
        "train --list": "",
        "tune --list models": "",
        "train --list modles": "unknown list 'modles'; did you mean models? known: recipes, models, ",
        "train interferogram-smal": "unknown recipe 'interferogram-smal'; did you mean interferogram-small",
        "train --data nowhere": "data nowhere is no folder; give the one that holds the data set",
        "train --data empty": "data ",
        "pack --data nowhere": "data nowhere is no folder; give the one that holds the data set",
        "tune --data nowhere --trials 2": "data nowhere is no folder; give the one that holds the data set",
        "train --data archive --out there.safetensors": f"--out {tmp_path}/there.safetensors is a file; give",
        "train --data archive --model unett": "unknown architecture 'unett'; did you mean unet",
        "train --data archive --backbone resnet1": "unknown backbone of unet 'resnet1'; did you mean resnet",
        "train --data archive --loss dice+foca(gamma=1e+1)": "unknown loss 'foca'; did you mean focal? ",
        "train --data archive --dataset plane": "unknown dataset 'plane'; did you mean plain? known: plain, ",
        "train --data archive --crops.size-px 33 64": "recipe: crops.size_px is (33, 64), not multiples",
        "train --data archive --limit 0": "--limit is 0; give 1 or more, or leave it out",
        f"score nowhere {model} --out out": f"archive {tmp_path}/nowhere is no folder; give the folder that",
        "score archive --model none.safetensors --out out": NO_MODEL,
        f"score archive {model} --out out --labels no": f"label folder {tmp_path}/no is no folder; give the ",
        f"predict archive/images/s0/7.png {model}": "archive/images/s0/7.png is no image: the nearest in ",
        "predict archive/images/s0/0.png --model none.safetensors": NO_MODEL,
        "label nowhere": "",
    }
    lines = answers(*asked)
    for line, sentence in asked.items():
        verb, code = line.split()[0], 2 if sentence or "nowhere" in line else 0
        said = lines.pop(0)
        if sentence:
            assert said.startswith(f"{verb}: {sentence}"), said
            said = lines.pop(0)
        elif code:
            said = lines.pop(0)
        assert said == f"{verb} {code}", line
    assert lines == []
