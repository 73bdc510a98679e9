import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.score import score
from cluster.session import Session
from seg.errors import DataWarning, RequestError
from seg.model_file import load_model, read_model, save_model
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.score.plan import plan_scoring
from seg.storage import as_place
from tests.conftest import WriteArchive
from tests.small import write_model


def test_the_job_s_own_process_loads_no_network_library() -> None:
    """They take 5 s and 140 MiB, and a listing of a million names has 1 GiB."""
    code = (
        "import sys, cluster.score, seg.score.summary;"
        "print(*sys.modules.keys() & {'torchvision', 'torch._dynamo'})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "\n"), found.stderr


@pytest.mark.parametrize("place", ["masks/classes.txt", "classes.txt"])
def test_class_names_behind_a_link_out_of_their_folder_are_not_shown(
    tmp_path: Path, write_archive: WriteArchive, place: str
) -> None:
    root, model = write_archive(), write_model(tmp_path / "model.safetensors")
    (root / place).unlink(missing_ok=True)
    (tmp_path / "secret").write_text("root:x:0\n")
    (root / place).symlink_to(tmp_path / "secret")
    request = ScoreRequest(archive=as_place(root), models=(model,), out=as_place(tmp_path / "out"), workers=0)
    with pytest.raises(
        RequestError, match=rf"{place} is a link out of its folder; put the file itself there$"
    ):
        plan_scoring(request)


def test_labels_that_are_links_out_of_their_folder_are_counted_as_left_out(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root, model = write_archive(sequences=1, frames=2), write_model(tmp_path / "model.safetensors")
    (root / "masks/s0/1.png").rename(tmp_path / "1.png")
    (root / "masks/s0/1.png").symlink_to(tmp_path / "1.png")
    request = ScoreRequest(archive=as_place(root), models=(model,), out=as_place(tmp_path / "out"), workers=0)
    with pytest.warns(
        DataWarning, match="labels .*masks: left out: s0/1.png, a link out of the label folder"
    ):
        plan = plan_scoring(request)
    assert (list(plan.labels.names), plan.labels.links) == (["s0/0.png"], 1)


def test_a_runs_folder_stands_for_its_best_model_file(tmp_path: Path, write_archive: WriteArchive) -> None:
    root, model = write_archive(), write_model(tmp_path / "run" / "best.safetensors")
    request = ScoreRequest(archive=as_place(root), models=(model,), out=as_place(tmp_path / "out"), workers=0)
    assert plan_scoring(replace(request, models=(model.parent,))).identity == plan_scoring(request).identity


def test_what_averages_is_part_of_a_scoring_and_has_to_be_alike(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    archive = write_archive(sequences=1, frames=2)
    models = [write_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(2)]

    def plan(*chosen: Path, **options: Any) -> dict[str, Any]:
        where = {"archive": as_place(archive), "out": as_place(tmp_path / "out"), "workers": 1}
        return dict(plan_scoring(ScoreRequest(**where, models=chosen, **options)).identity)

    hashes = [read_model(model)[1].provenance.weights_sha256 for model in models]
    assert plan(models[0])["model_sha256"] == hashes[0]
    assert "tta" not in plan(models[0])
    assert plan(*models)["model_sha256"] == hashes
    assert plan(*reversed(models), tta="d4") == plan(*models) | {"model_sha256": hashes[::-1], "tta": "d4"}
    with pytest.raises(RequestError, match="`models`: two files hold the same weights"):
        plan(*models, models[0])
    for name, other in (("classes", ("background", "cell")), ("preprocessing", Preprocessing(shrink=2))):
        unlike = write_model(tmp_path / "unlike.safetensors", **{name: other})
        with pytest.raises(
            RequestError, match=rf"unlike\.safetensors: its {name} are not those of .*0\.safe"
        ):
            plan(models[0], unlike)


@pytest.mark.ray
def test_a_model_file_of_another_network_is_refused_by_the_first_worker(
    tmp_path: Path, session: Session, write_archive: WriteArchive
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    network, card = load_model(model)
    save_model(model, network, replace(card, backbone="resnet34"))
    request = ScoreRequest(
        archive=as_place(write_archive()), models=(model,), out=as_place(tmp_path / "out"), workers=1
    )
    text = r"has the unknown tensor features\..* it is of another architecture"
    with pytest.raises(RequestError, match=text):
        score(request, session)
