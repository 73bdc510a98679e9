"""What a stage's process loads, and what it computes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.score import choose_workplace
from cluster.session import Session, has_gpu_driver
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.conftest import WriteArchive
from tests.small import ROOT, write_model

READ_AND_FINISH = """
import sys
from pathlib import Path
from cluster.score_stages import read_works, works_table
from seg.recipe import Preprocessing, Tiling
from seg.model_card import ModelCard
from seg.predict.counts import PixelCounts
from seg.score.parcels import Parcel, ParcelFinisher, ParcelReader, Round
from seg.score.queue import Order
from seg.score.read import ScorerSettings
from seg.score.work import Predicted
from seg.storage import as_place
import numpy as np

archive, out = map(Path, sys.argv[1:])
settings = ScorerSettings(
    archive=as_place(archive / "images"), labels=as_place(archive / "masks"), out=as_place(out),
    models=(out,), tiling=Tiling(crop_px=(64, 64), halo_px=16), batch=1, precision="float32", threads=1,
)
card = ModelCard(
    architecture="unet", backbone=None, classes=("a", "b"), label_map=(), statistics=None,
    preprocessing=Preprocessing(background_every=1, clahe_clip=2.0), tiling=settings.tiling,
)
round_ = Round(name="r", settings=settings, card=card, device="cpu", image_limit_s=None)
((name, works),) = ParcelReader(round_, "node").read(Parcel("1", (Order("s0/0.png", label="s0/0.png"),)))
((name, works),) = read_works(works_table(name, works))
shape = works[0].pixels.size
counts = PixelCounts((shape[0] * shape[1], 0), (1, 2, 3, 4), 0)
works[0].predicted = Predicted(np.zeros(shape, np.uint8), np.ones(shape, np.float32), 0.5, counts)
(answer,) = ParcelFinisher(round_, "node").finish(name, works)
print(type(answer.answer).__name__, *sys.modules.keys() & {"torch", "torchvision"})
"""


def test_reading_and_finishing_load_no_torch(write_archive: WriteArchive, tmp_path: Path) -> None:
    """It takes seconds and hundreds of MiB, and a CPU node has many such processes."""
    archive, out = write_archive(sequences=1, frames=1), tmp_path / "out"
    for folder in ("inflight", "masks", "backgrounds"):
        (out / folder).mkdir(parents=True)
    place = as_place(out / "backgrounds")
    from seg.score.read import sequence_file

    place.write_json(sequence_file(""), {"sequence": "", "frames": ["s0/0.png"]})
    command = [sys.executable, "-c", READ_AND_FINISH, archive, out]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "Scored\n"), found.stderr


BESIDE_WORKERS = """
import sys
from jobs.score import main
code = main(sys.argv[1:])
print(code, *sys.modules.keys() & {"torch", "torchvision", "ray"}, file=sys.stderr)
"""


@pytest.mark.ray
@pytest.mark.skipif(has_gpu_driver(), reason="torch is asked which GPUs this machine has")
def test_a_job_beside_its_workers_loads_no_torch(write_archive: WriteArchive, tmp_path: Path) -> None:
    """From the plan to the report: half of what it may hold with a million names would be torch."""
    model = write_model(tmp_path / "model.safetensors")
    archive = write_archive(sequences=1, frames=2)
    words = (archive, "--model", model, "--out", tmp_path / "out", "--workers", 1, "--precision", "float32")
    found = subprocess.run(
        [sys.executable, "-c", BESIDE_WORKERS, *map(str, words)],
        env=os.environ | {"RAY_ADDRESS": "local"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr.splitlines()[-1] == "0 ray", found.stderr
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("workers", "gpus_per_worker", "device"),
    [(2, None, "cuda"), (2, 0.5, "cuda"), (2, 0, "cpu"), (0, None, "cuda"), (0, 0, "cpu")],
)
def test_what_is_predicted_on_is_what_was_asked_for_and_not_what_torch_sees(
    workers: int, gpus_per_worker: float | None, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray no longer hides GPUs from who has none of them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    model = write_model(tmp_path / "model.safetensors")
    request = ScoreRequest(
        archive=as_place("a"),
        models=(model,),
        out=as_place("o"),
        workers=workers,
        gpus_per_worker=gpus_per_worker,
    )
    workplace = choose_workplace(request, Session(8, 2, 2, connected=True), images=4)
    assert workplace.device == device
    if device == "cpu":
        from seg.recipe import Tiling
        from seg.score.predict import ImagePredictor
        from seg.score.read import ScorerSettings

        settings = ScorerSettings(
            archive=as_place("a"),
            labels=None,
            out=as_place("o"),
            models=(model,),
            tiling=Tiling(crop_px=(64, 64), halo_px=16),
            batch=1,
            precision="float32",
            threads=1,
        )
        predictor = ImagePredictor(settings, workplace.device).predictor
        assert {parameter.device.type for parameter in predictor.passes.model.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "processes"),
    [
        ({"workers": 2}, 8, 0, {"model": 2}),
        ({"workers": 2}, 16, 2, {"read": 11, "model": 2, "write": 3}),
        ({"workers": 1, "stages": "apart"}, 2, 0, {"read": 1, "model": 1, "write": 1}),
        ({"workers": 2, "stages": "together"}, 16, 2, {"model": 2}),
        ({"workers": 2, "shard": "crops"}, 8, 0, {"read": 5, "model": 2, "write": 1}),
    ],
)
def test_stages_are_apart_where_there_are_gpus_or_it_was_asked_for(
    options: dict[str, object], cpus: int, gpus: int, processes: dict[str, int]
) -> None:
    request = ScoreRequest(archive=as_place("a"), models=(Path("m"),), out=as_place("o"), **options)  # type: ignore[arg-type]
    workplace = choose_workplace(request, Session(cpus, gpus, gpus, connected=True), images=4)
    found = workplace.power.lanes
    assert {stage: found[stage] for stage in processes} == (
        processes if len(processes) > 1 else {"model": processes["model"]}
    )
