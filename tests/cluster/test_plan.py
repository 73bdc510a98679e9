import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.score import score
from cluster.session import Session
from seg.data.colours import ColourMask
from seg.data.labels import map_foreground
from seg.errors import DataWarning, RequestError
from seg.model_file import load_model, read_model, save_model
from seg.plain_data import to_plain
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.score.plan import ScorePlan, plan_scoring
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


@pytest.mark.long
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


def plan_of(archive: Path, tmp_path: Path, **changes: Any) -> ScorePlan:
    model = tmp_path / "model.safetensors"
    if not model.is_file():
        write_model(model)
    request = ScoreRequest(
        archive=as_place(archive), models=(model,), out=as_place(tmp_path / "out"), workers=0
    )
    return plan_scoring(replace(request, **changes))


def test_images_and_masks_need_no_list_of_classes_to_be_scored(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root = write_archive(sequences=1, frames=2)
    (root / "classes.txt").unlink()
    plan = plan_of(root, tmp_path)
    assert (plan.listing.images, dict(plan.labels.names)) == (
        ["s0/0.png", "s0/1.png"],
        {"s0/0.png": "s0/0.png", "s0/1.png": "s0/1.png"},
    )
    assert (plan.identity["archive"], plan.identity["layout"]) == (f"{root}/images", 2)


def test_a_folder_begun_before_finds_what_it_found_before(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    """Without classes.txt, masks were images, and TIFF no label."""
    root = write_archive(sequences=1, frames=2)
    (root / "classes.txt").unlink()
    (root / "masks/s0/1.png").rename(root / "masks/s0/1.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{}")
    plan = plan_of(root, tmp_path)
    assert plan.listing.images == ["images/s0/0.png", "images/s0/1.png", "masks/s0/0.png", "masks/s0/1.tif"]
    assert plan.identity["archive"] == str(root)
    assert "layout" not in plan.identity
    with pytest.raises(RequestError, match="no file in it is the label of an image of the archive"):
        plan_of(root / "images", tmp_path, labels=as_place(root / "masks/s0"))


def test_labels_with_a_suffix_among_the_images_are_labels_alone(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root = write_archive(sequences=1, frames=2)
    for frame in range(2):
        (root / f"masks/s0/{frame}.png").rename(root / f"images/s0/{frame}_mask.png")
    images = as_place(root / "images")
    plan = plan_of(root / "images", tmp_path, labels=images, label_suffix="_mask", foreground=1)
    assert dict(plan.labels.names) == {f"s0/{frame}.png": f"s0/{frame}_mask.png" for frame in range(2)}
    assert plan.listing.images == ["s0/0.png", "s0/1.png"]
    assert plan.identity["label_suffix"] == "_mask"
    assert plan.identity["label_map"] == map_foreground(1)
    with pytest.raises(RequestError, match="`foreground` and `label_map` both say what a mask means"):
        plan_of(root, tmp_path, foreground=1, label_map=((255, 1),))


def test_a_table_of_colours_is_part_of_a_scoring_and_has_the_model_s_classes(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root, table = write_archive(sequences=1, frames=2), tmp_path / "colours.txt"
    table.write_text("1 2 3 background\n7 8 9 ignore\n4 5 6 disc\n")
    plan = plan_of(root, tmp_path, label_colours=table)
    assert plan.identity["label_colours"] == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert plan.settings.colours == ColourMask(((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    with pytest.raises(RequestError, match="`foreground` and `label_colours` both say what a mask means"):
        plan_of(root, tmp_path, label_colours=table, foreground=1)
    table.write_text("4 5 6 disc\n1 2 3 background\n")
    with pytest.raises(
        RequestError, match=r"colours.txt` names the classes disc, background but the model knows back"
    ):
        plan_of(root, tmp_path, label_colours=table)


def test_a_scoring_takes_the_boxes_of_images_without_a_mask_and_stays_with_what_it_began_with(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root, out = write_archive(sequences=1, frames=2), tmp_path / "out"
    (root / "masks/s0/1.png").rename(tmp_path / "1.png")
    (root / "boxes/s0").mkdir(parents=True)
    (root / "boxes/s0/1.txt").write_text("0 .5 .5 .1 .1\n")
    begun = plan_of(root, tmp_path)
    assert begun.identity["labels"] == str(root)
    assert dict(begun.labels.names) == {"s0/0.png": "masks/s0/0.png", "s0/1.png": "boxes/s0/1.txt"}
    assert begun.labels.bytes.tolist() == [(root / "masks/s0/0.png").stat().st_size, len("0 .5 .5 .1 .1\n")]
    assert begun.labels.names.masks() == ["s0/0.png"]
    as_place(out).write_json("run.json", begun.identity)
    (tmp_path / "1.png").rename(root / "masks/s0/1.png")
    assert dict(plan_of(root, tmp_path).labels.names)["s0/1.png"] == "masks/s0/1.png"
    assert to_plain(plan_of(root, tmp_path).identity) == to_plain(begun.identity)
    as_place(out).write_json("run.json", {**begun.identity, "labels": f"{root}/masks"})
    (root / "masks/s0/1.png").unlink()
    plan = plan_of(root, tmp_path)
    assert (dict(plan.labels.names), plan.identity["labels"]) == ({"s0/0.png": "s0/0.png"}, f"{root}/masks")


def test_links_are_followed_on_request_alone_which_is_part_of_a_scoring(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    root, linked = write_archive(sequences=2, frames=2), tmp_path / "linked"
    for folder in ("images", "masks"):
        (linked / folder).mkdir(parents=True)
        (linked / folder / "s0").symlink_to(root / folder / "s0")
    plan = plan_of(linked, tmp_path, follow_links=True)
    assert (plan.listing.images, len(plan.labels.names)) == (["s0/0.png", "s0/1.png"], 2)
    assert plan.identity["follow_links"] is True
    with pytest.raises(RequestError, match=r"holds no image \(found: 1 \(link\)\)"):
        plan_of(linked, tmp_path)
    assert "follow_links" not in plan_of(root, tmp_path).identity
