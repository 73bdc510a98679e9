import io
import os
import platform
import subprocess
import sys
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.session import Session
from jobs.options import run_recipe_job
from jobs.train import Args
from seg.files import write_json
from seg.predict.passes import has_fast_bf16
from seg.recipe import Preprocessing
from tests.conftest import WriteArchive
from tests.small import ROOT, write_model

SIMULATED = "data: data/simulated, 32 simulated frames"
SAID = "precision: float32, as this CPU has no instructions for bf16, the recipe's\n"


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRINGE_DATA", raising=False)


@pytest.mark.parametrize(
    ("fast", "words", "precision", "said"),
    [
        (True, (), "bf16", ""),
        (False, (), "float32", SAID),
        (False, ("camvid-unet",), "float32", SAID),
        (False, ("--precision", "bf16"), "bf16", ""),
        (False, ("--precision", "float32"), "float32", ""),
        (False, ("--precision", "fp16"), "fp16", ""),
    ],
)
def test_a_cpu_without_bf16_computes_in_float32_unless_it_is_asked_for(
    fast: bool,
    words: tuple[str, ...],
    precision: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("seg.predict.passes.has_fast_bf16", lambda: fast)
    found: list[Args] = []

    def job(args: Args, session: Session) -> int:
        assert session.gpus_possible == 0
        found.append(args)
        return 0

    assert run_recipe_job("train", Args, [*words, "--workers", "0", "--batch", "6"], job) == 0
    (args,) = found
    assert (args.recipe.precision, args.recipe.batch) == (precision, 6)
    assert capfd.readouterr().err == f"{SIMULATED} (no --data given)\n{said}"


COLOUR = ("--preprocessing.channels", "3")
FOLLOWED = "normalisation: imagenet, as weights {} want it, not the recipe's per_image\n"
PERCENTILE = Preprocessing(normalisation="percentile", percentiles=(5.0, 90.0))
FOLLOWED_FILE = FOLLOWED.replace("imagenet", "percentile").format("m.safetensors")
FOLLOWED_GONE = FOLLOWED.replace("imagenet", "percentile").format("gone.safetensors")


@pytest.mark.parametrize(
    ("words", "normalisation", "said"),
    [
        ((*COLOUR, "--weights", "imagenet"), "imagenet", FOLLOWED.format("imagenet")),
        ((*COLOUR, "--weights", "w.pth"), "imagenet", FOLLOWED.format("w.pth")),
        ((*COLOUR, "--weights", "coco", "--out", "new"), "imagenet", FOLLOWED.format("coco")),
        ((*COLOUR, "--weights", "imagenet", "--preprocessing.normalisation", "per_image"), "per_image", ""),
        (
            (*COLOUR, "--weights", "imagenet", "--out", "begun"),
            "per_image",
            "",
        ),  # before weights were followed
        (("--weights", "m.safetensors"), "percentile", FOLLOWED_FILE),  # a model file's, with any channels
        (("--weights", "m.safetensors", "--out", "begun"), "per_image", ""),
        (("--weights", "m.safetensors", "--preprocessing.normalisation", "per_image"), "per_image", ""),
        (("--weights", "gone.safetensors", "--out", "followed"), "percentile", FOLLOWED_GONE),
        (("--weights", "gone.safetensors", "--out", "torn"), "per_image", ""),  # refused later, by name
        (("--weights", "colour.safetensors"), "per_image", ""),  # imagenet's is for 3 channels
        ((*COLOUR, "--weights", "colour.safetensors"), "imagenet", FOLLOWED.format("colour.safetensors")),
        ((*COLOUR, "--weights", "backbone.safetensors"), "per_image", ""),  # whose they are it does not say
        (COLOUR, "per_image", ""),
        (("--weights", "imagenet"), "per_image", ""),  # gray
        (("camvid-unet", "--weights", "imagenet"), "full_range", ""),  # the recipe does not leave it open
    ],
)
def test_normalisation_is_the_weights_where_the_recipe_leaves_it_open(
    words: tuple[str, ...],
    normalisation: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("seg.predict.passes.has_fast_bf16", lambda: True)
    monkeypatch.chdir(tmp_path)
    for folder, kind_of in (("begun", "per_image"), ("followed", "percentile"), ("torn", "none")):
        identity = {"recipe": {"preprocessing": {"normalisation": kind_of, "percentiles": [5, 90]}}}
        write_json(tmp_path / folder / "run.json", identity)
    write_model(tmp_path / "m.safetensors", preprocessing=PERCENTILE)
    colour = Preprocessing(channels=3, normalisation="imagenet")
    write_model(tmp_path / "colour.safetensors", preprocessing=colour)
    save_file({"weight": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    found: list[Args] = []

    def job(args: Args, session: Session) -> int:
        found.append(args)
        return 0

    assert run_recipe_job("train", Args, [*words, "--workers", "0"], job) == 0
    settings = found[0].recipe.preprocessing
    assert settings.normalisation == normalisation
    assert (settings.percentiles == PERCENTILE.percentiles) == (normalisation == "percentile")
    assert capfd.readouterr().err == f"{SIMULATED} (no --data given)\n{said}"


def test_bf16_is_fast_where_the_cpu_has_instructions_for_it() -> None:
    if platform.machine() != "x86_64":
        pytest.skip(f"{platform.machine()} has other instructions")
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    assert has_fast_bf16() == bool(flags & {"amx_bf16", "avx512_bf16", "avx_ne_convert"})


def say_first(
    words: list[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False
) -> tuple[int, str]:
    """The exit code of a training that then does nothing, and its first line."""
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    said = io.StringIO()
    with redirect_stderr(said):
        code = run_recipe_job("train", Args, [*words, "--workers", "0"], lambda args, session: 0)
    return code, said.getvalue().splitlines()[0]


def test_the_first_line_of_a_bare_training_says_what_data_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_archive: WriteArchive
) -> None:
    write_archive("mine", sequences=2, frames=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert say_first([], monkeypatch) == (0, f"{SIMULATED} (no --data given)")
    assert say_first(["--demo"], monkeypatch, terminal=True) == (0, f"{SIMULATED} (--demo)")
    code, line = say_first([], monkeypatch, terminal=True)
    assert (code, line.partition(";")[0]) == (
        2,
        "train: no --data is given, and there is neither $FRINGE_DATA nor data/simulated",
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    (tmp_path / "data/simulated").mkdir(parents=True)  # of an earlier command, maybe not all of it
    assert say_first([], monkeypatch, terminal=True) == (0, f"{SIMULATED} (no --data given)")
    (tmp_path / "data/simulated").rmdir()
    monkeypatch.setenv("FRINGE_DATA", "mine")
    assert say_first([], monkeypatch, terminal=True) == (0, "data: mine ($FRINGE_DATA)")
    assert say_first(["--demo"], monkeypatch) == (0, f"{SIMULATED} (--demo)")
    line = "train: --data mine and --demo are two archives; give one of them"
    assert say_first(["--demo", "--data", "mine"], monkeypatch) == (2, line)


def test_at_a_terminal_a_bare_training_asks_for_what_it_needs(tmp_path: Path) -> None:
    """A real one: the job has it as input, output and errors."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, ROOT / "jobs/train.py"],
        cwd=tmp_path,
        env=os.environ | {"RAY_ADDRESS": "local"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
    ) as job:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # how a terminal tells that nobody writes to it any more
            while part := os.read(ours, 4096):
                said += part
    os.close(ours)
    assert (job.returncode, said.decode()) == (
        2,
        "train: no --data is given, and there is neither $FRINGE_DATA nor data/simulated; give --data DIR, "
        "the folder of your images and labels, or --demo, to train on 32 simulated frames\r\n",
    )
    assert list(tmp_path.iterdir()) == []
