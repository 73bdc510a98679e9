import csv
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.search import SearchSummary, evaluate_winner, find_backbones, plan_search, search
from cluster.session import Session
from jobs.tables import print_figures
from seg.errors import DataWarning, RequestError
from seg.files import write_json
from seg.locks.claim import claim_folder
from seg.model_file import load_model
from seg.models.unet import UNet
from seg.pack.training_data import open_training_data
from seg.plain_data import to_plain
from seg.recipe import Crops, Preprocessing, Tiling, apply_params
from seg.recipes import RECIPES
from seg.requests import SearchRequest
from seg.search.space import ends, plain_axis
from seg.search.trials import (
    TrialRecord,
    describe_cause,
    read_trials,
    trial_folder,
)
from seg.train.training import Training, TrainingPlan
from tests.conftest import write_discs
from tests.small import (
    TINY_WORDS,
    own_processes,
    predict_alone,
    read_tree,
    start_job,
    wait_until,
    write_model,
)

TINY = replace(
    RECIPES["interferogram-small"],
    backbone="mobilenet_v2",
    preprocessing=Preprocessing(shrink=1),
    crops=Crops(size_px=(64, 64)),
    tiling=Tiling(crop_px=(128, 128), halo_px=16),
    batch=2,
    epochs=2,
    precision="float32",
)
OWN = {"optimizer.lr": 3e-3, "loss": "cross_entropy", "backbone": "mobilenet_v2"}
HERE = Session(cpus=2, gpus=0, gpus_possible=0, connected=False)
ONE_BACKBONE = "backbone=choice(mobilenet_v2)"
TOO_LARGE = "tiling.crop_px=choice((128,128),(16777216,16777216))"
"""Windows of 2^48 bytes, which no process can address: a trial that predicts by them runs out of memory."""


TRIAL_PROCESS = "ray::ImplicitFunc"
"""How Tune's processes are called while they run a function."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("search") / "archive", sequences=2, frames=2, size=(256, 256))


@pytest.fixture(scope="module", autouse=True)
def packs(archive: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_cache(packs: None) -> None:
    """Instead of one folder a test: trials of a file share their packs."""


def request_for(archive: Path, name: str = "search", **options: Any) -> SearchRequest:
    """Two trials of one backbone."""
    recipe = replace(TINY, **options.pop("recipe", {}))
    settings = {"trials": 2, "search": (ONE_BACKBONE,)} | options
    return SearchRequest(recipe=recipe, data=archive, out=archive.parent / name, **settings)


def one_at_a_time(session: Session) -> Session:
    """So that each trial is proposed knowing the one before."""
    return replace(session, cpus=1)


@pytest.fixture(scope="module")
def trial_pids() -> set[int]:
    """Processes that have run a trial of the search `found`."""
    return set()


@pytest.fixture(scope="module")
def found(archive: Path, session: Session, packs: None, trial_pids: set[int]) -> SearchSummary:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            trial_pids.update(own_processes(TRIAL_PROCESS))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return search(request_for(archive), one_at_a_time(session))
    finally:
        done.set()
        watcher.join()


def leaderboard(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))


def trials_of(folder: Path) -> list[TrialRecord]:
    return sorted(read_trials(folder / "trials"), key=lambda trial: trial.number)


def without_seconds(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: without_seconds(value) for name, value in values.items() if "second" not in name}
    return [without_seconds(value) for value in values] if isinstance(values, list) else values


@pytest.mark.ray
def test_a_search_leaves_a_leaderboard_a_model_a_page_and_a_summary(found: SearchSummary) -> None:
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(found.values))
    assert found.exit_code == 0
    kinds = {name: summary[name] for name in ("trials", "finished", "pruned", "errored", "stopped_by")}
    ended = kinds["finished"] + kinds["pruned"]
    assert kinds == {**kinds, "trials": 2, "errored": 0, "stopped_by": "finished"}
    assert ended == 2
    rows = leaderboard(found.folder)
    assert {row["trial"] for row in rows} == {"000", "001"}
    mious = [float(row["miou"]) for row in rows]
    assert mious == sorted(mious, reverse=True)
    assert (summary["best"]["trial"], summary["best"]["miou"]) == (rows[0]["trial"], mious[0])
    assert summary["seconds"] > 0
    assert f"{mious[0]:.4f}" in (found.folder / "search.html").read_text()
    assert sorted(path.name for path in found.folder.iterdir()) == [
        *("best.safetensors", "leaderboard.csv", "run.json", "search.html", "summary.json", "trials")
    ]


@pytest.mark.ray
def test_the_winner_is_no_worse_than_the_recipe_trained_without_a_search(
    found: SearchSummary, archive: Path, tmp_path: Path
) -> None:
    own = trials_of(found.folder)[0]
    assert own.params == OWN
    assert own.status == "finished"  # it is never pruned
    plan = plan_search(request_for(archive), HERE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training = Training(
            TrainingPlan(recipe=TINY, data=plan.job.data, seed=0, folder=tmp_path, parent="run"),
            torch.device("cpu"),
        )
        alone = max(result.miou for result in training.epochs())
    finally:
        torch.set_num_threads(threads)
    assert own.miou == alone  # the same loop, bit for bit
    assert found.values["best"]["miou"] >= alone
    for trial in trials_of(found.folder):
        assert 3e-4 <= trial.params["optimizer.lr"] <= 3e-2


@pytest.mark.ray
def test_the_winners_model_file_names_its_trial_and_is_counted_again(found: SearchSummary) -> None:
    _, card = load_model(Path(found.values["model_file"]))
    best = found.values["best"]
    assert card.provenance.parent == f"search/{best['trial']}"
    assert card.provenance.recipe["optimizer"]["lr"] == best["params"]["optimizer.lr"]
    assert card.backbone == best["params"]["backbone"]
    assert found.values["miou"] == best["miou"]  # the same images, the same integers
    assert card.validation["confusion"] == found.values["confusion"]


def test_a_winner_is_counted_by_the_views_that_it_was_chosen_by_and_kept_as_it_is(
    archive: Path, tmp_path: Path
) -> None:
    data = open_training_data(archive, TINY, seed=0)
    recipe = replace(TINY, tta="flips", epochs=1, crops=replace(TINY.crops, per_image=1))
    plan = TrainingPlan(recipe=recipe, data=data, seed=0, folder=tmp_path / "trial", parent="trial")
    training = Training(plan, torch.device("cpu"))
    list(training.epochs())
    trial: Any = SimpleNamespace(folder=plan.folder, params={})
    job: Any = SimpleNamespace(recipe=recipe, data=data)
    scores = evaluate_winner(job, trial, tmp_path / "winner", torch.device("cpu"))
    assert scores.confusion == training.journal.best_confusion
    weights = [load_file(file) for file in (tmp_path / "winner", tmp_path / "trial" / "best.safetensors")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.ray
def test_the_same_search_again_is_finished_at_once_and_so_is_a_smaller_one(
    found: SearchSummary, archive: Path
) -> None:
    before = read_tree(found.folder)
    for trials in (2, 1):
        again = search(request_for(archive, trials=trials), HERE)
        assert not HERE.connected
        assert again.values == json.loads(json.dumps(found.values))
        assert again.leaderboard == found.leaderboard
    assert read_tree(found.folder) == before


@pytest.mark.ray
def test_a_search_killed_before_its_summary_only_concludes(found: SearchSummary, archive: Path) -> None:
    before = read_tree(found.folder)
    for name in ("summary.json", "best.safetensors", "search.html", "leaderboard.csv"):
        (found.folder / name).unlink()
    again = search(request_for(archive), HERE)
    assert not HERE.connected
    assert without_seconds(again.values) == without_seconds(found.values)
    after = read_tree(found.folder)
    summaries = [json.loads(tree.pop("summary.json")) for tree in (before, after)]
    assert without_seconds(summaries[0]) == without_seconds(summaries[1])
    assert after == before


def test_a_winner_that_predicts_one_class_alone_is_never_called_so_without_a_word_of_it(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_for(archive, "degenerate", trials=1, recipe={"epochs": 1})
    plan = plan_search(request, HERE)
    claim_folder(plan.folder, plan.identity)
    trial = trial_folder(plan.job.trials, 0)
    trial.begin(plan.own)
    settings = TrainingPlan(
        recipe=plan.job.recipe, data=plan.job.data, seed=0, folder=trial.path, parent="x/000"
    )
    list(Training(settings, torch.device("cpu")).epochs())
    trial.end(plan.job.recipe)
    predict_alone(trial.path / "best.safetensors", 0)
    summary = search(request, HERE)
    disc = summary.values["confusion"][1]
    assert disc[0] > disc[1] == 0
    alarms = summary.values["alarms"]
    assert alarms[0] == f"the model predicts no pixel of: disc ({disc[0]:,} in the labels)"
    assert alarms[1].startswith("0 % of pixels are disc, ")
    assert json.loads((summary.folder / "summary.json").read_text())["alarms"] == alarms
    page = (summary.folder / "search.html").read_text()
    assert page.index(f"<b>Best trial:</b> {alarms[0]}.") < page.index("<dt>Best mIoU</dt>")
    print_figures("tune", summary.values, summary.folder)
    assert f"tune: warning: {alarms[0]}" in capsys.readouterr().out.splitlines()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("damage", ["{", "[]", '{"stopped_by": "finished", "trials": 2}'])
def test_a_finished_search_whose_summary_is_damaged_makes_it_again(
    found: SearchSummary, archive: Path, damage: str
) -> None:
    (found.folder / "summary.json").write_text(damage)
    with pytest.warns(DataWarning, match=rf"^{found.folder}/summary.json is damaged: .*; it is made again$"):
        again = search(request_for(archive), HERE)
    assert without_seconds(again.values) == without_seconds(found.values)
    assert search(request_for(archive), HERE).values == json.loads(json.dumps(again.values))


@pytest.mark.ray
@pytest.mark.long
def test_more_trials_later_are_those_of_a_search_that_had_asked_for_them_at_once(
    found: SearchSummary, archive: Path, session: Session
) -> None:
    parts = request_for(archive, "parts", trials=1)
    first = search(parts, one_at_a_time(session))
    assert first.values["trials"] == 1
    kept = read_tree(first.folder / "trials")
    (first.folder / "ray").mkdir()  # as a killed one leaves it: nothing there is read back
    (first.folder / "ray" / "tuner.pkl").write_bytes(b"torn")
    second = search(replace(parts, trials=2), one_at_a_time(session))
    assert second.values["trials"] == 2
    assert kept.items() <= read_tree(first.folder / "trials").items()
    assert [
        (trial.params, trial.status, trial.journal.best_confusion) for trial in trials_of(second.folder)
    ] == [(trial.params, trial.status, trial.journal.best_confusion) for trial in trials_of(found.folder)]


@pytest.mark.ray
@pytest.mark.long
def test_a_trial_out_of_memory_is_tried_twice_one_that_diverges_once_and_the_rest_go_on(
    archive: Path, session: Session
) -> None:
    rates, losses = "optimizer.lr=choice(3e-3,1e38)", "loss=choice(cross_entropy)"
    request = request_for(
        archive,
        "failing",
        trials=4,  # all that there are
        search=(TOO_LARGE, rates, losses, ONE_BACKBONE),
        recipe={"epochs": 1, "crops": replace(TINY.crops, per_image=12)},
    )
    summary = search(request, session)
    ends = {
        (trial.params["tiling.crop_px"][0] > 128, trial.params["optimizer.lr"] > 1): (
            trial.status,
            len(trial.failures),
            # where memory ends first, in torch or in numpy, hangs on the machine
            (trial.error or "").partition(":")[0].replace("MemoryError", "RuntimeError"),
        )
        for trial in trials_of(summary.folder)
    }
    assert ends == {
        (False, False): ("finished", 0, ""),
        (True, False): ("errored", 2, "RuntimeError"),
        (False, True): ("errored", 0, "TrainingDiverged"),
        (True, True): ("errored", 0, "TrainingDiverged"),
    }
    assert (summary.values["finished"], summary.values["errored"]) == (1, 3)
    assert summary.exit_code == 0
    rows = leaderboard(summary.folder)
    assert [row["status"] for row in rows] == ["finished", "errored", "errored", "errored"]
    assert all(
        ("\n" not in row["error"]) and bool(row["error"]) == (row["status"] == "errored") for row in rows
    )


@pytest.mark.ray
def test_each_trial_has_a_process_of_its_own_that_ends_with_it(
    found: SearchSummary, trial_pids: set[int]
) -> None:
    assert len(trial_pids) == found.values["trials"]  # what it held on a GPU is free again
    wait_until(lambda: not own_processes(TRIAL_PROCESS), "the end of the trials' processes")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"search": (ONE_BACKBONE, "batch=int(2,4)")}, "search.batch None instead of {'low': 2"),
        ({"search": (ONE_BACKBONE, "optimizer.lr=uniform(1e-3,1e-2)")}, "search.optimizer.lr.high 0.03"),
        ({"search": ()}, "other values of search.backbone.choice"),
        ({"recipe": {"epochs": 3}}, "recipe.epochs 2 instead of 3"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"limit": 1}, "data_fingerprint "),
        ({"workers_per_trial": 2}, "workers_per_trial 1 instead of 2"),
    ],
)
def test_another_search_in_the_same_folder_is_refused_by_name_of_the_difference(
    found: SearchSummary, archive: Path, options: dict[str, Any], difference: str
) -> None:
    before = read_tree(found.folder)
    with pytest.raises(RequestError) as caught:
        plan_search(request_for(archive, **options), HERE)
    assert str(caught.value).startswith(f"`out={found.folder}` holds another run, with {difference}")
    assert read_tree(found.folder) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"search": ("loss=choice(dice,focus)",)}, "`search=loss=focus`: unknown loss 'focus'"),
        ({"search": ("backbone=choice(resnet19)",)}, "`search=backbone=resnet19`: unknown backbone of unet"),
        (
            {"search": ("crops.size_px=choice((64,64),(512,512))",)},
            "`search=crops.size_px=(512, 512)`: recipe",
        ),
        ({"search": ("frames=int(1,2)",)}, "`search=frames=2`: recipe: frames is 2 but unet sees one image"),
        (
            {"search": ("batch=int(1,4)",), "workers_per_trial": 2},
            "`search=batch=1`: `workers_per_trial=2` share a batch of 1; try `batch=2`",
        ),
        (
            {"recipe": {"batch": 1}, "workers_per_trial": 2},
            "`workers_per_trial=2` share a batch of 1; try `batch=2`",
        ),
        ({"trials": 0}, "`trials` is 0, below 1; try `trials=16`"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_written(
    archive: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        plan_search(replace(request_for(archive, **options), out=tmp_path / "out"), HERE)
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "out").exists()


def test_a_search_that_was_begun_without_the_asymmetric_loss_keeps_its_losses(
    archive: Path, tmp_path: Path
) -> None:
    request = replace(request_for(archive), out=tmp_path / "out")
    new = plan_search(request, HERE)
    losses = ["cross_entropy", "cross_entropy+dice", "focal"]
    assert plain_axis(new.space["loss"]) == {"choice": ["asymmetric", *losses]}
    plain = to_plain(new.identity)
    plain["search"]["loss"] = {"choice": losses}
    write_json(tmp_path / "out" / "run.json", plain)
    before = plan_search(request, HERE)
    assert plain_axis(before.space["loss"]) == {"choice": losses}
    assert list(before.space) == list(new.space)
    given = replace(request, search=(ONE_BACKBONE, "loss=choice(dice,focal)"))
    with pytest.raises(RequestError, match=r"holds another run, with other values of search\.loss"):
        plan_search(given, HERE)


def test_the_gap_of_a_single_sequence_is_wide_enough_for_every_trial(tmp_path: Path) -> None:
    data = write_discs(tmp_path / "archive", sequences=1, frames=9, size=(64, 64))
    request = request_for(data, search=("frames=choice(2,6)",), recipe={"model": "icnet-gru", "frames": 2})
    split = plan_search(replace(request, recipe=replace(request.recipe, backbone=None)), HERE).job.data.split
    assert [sample.name[-5] for sample in (*split.train, *split.validation)] == ["0", "1", "7", "8"]


def test_another_model_is_searched_with_the_backbone_that_it_begins_with(
    archive: Path, tmp_path: Path
) -> None:
    request = replace(request_for(archive, search=("model=choice(unet,fpn)",)), out=tmp_path / "out")
    assert list(plan_search(request, HERE).space) == ["optimizer.lr", "loss", "model"]
    given = replace(request, search=("model=choice(unet,fpn)", "backbone=choice(None)"), out=tmp_path / "b")
    assert "backbone" in plan_search(given, HERE).space


def test_the_space_is_rate_loss_and_backbone_unless_others_are_given(archive: Path, tmp_path: Path) -> None:
    plan = plan_search(replace(request_for(archive, search=()), out=tmp_path / "out"), HERE)
    assert list(plan.space) == ["optimizer.lr", "loss", "backbone"]
    assert ends(plan.space["loss"]) == ("asymmetric", "cross_entropy", "cross_entropy+dice", "focal")
    assert ends(plan.space["backbone"]) == UNet.BACKBONES
    assert ends(plan.space["optimizer.lr"]) == (pytest.approx(3e-4), pytest.approx(3e-2))
    assert plan.own == OWN
    decay = "optimizer.weight_decay=loguniform(1e-6,1e-3)"
    given = ("loss=choice(lovasz)", "optimizer.lr=uniform(1,2)", decay)
    plan = plan_search(replace(request_for(archive, search=given), out=tmp_path / "other"), HERE)
    assert list(plan.space) == ["optimizer.lr", "loss", "backbone", "optimizer.weight_decay"]
    assert ends(plan.space["loss"]) == ("lovasz",)
    assert plan.own == OWN | {"optimizer.weight_decay": TINY.optimizer.weight_decay}  # also where outside


def test_a_model_file_and_what_is_frozen_are_every_trials(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_model(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    tuned = {"weights": file.name, "freeze": "encoder"}
    plan = plan_search(replace(request_for(archive, recipe=tuned, search=()), out=tmp_path / "out"), HERE)
    assert f"weights {file.name}: " in capsys.readouterr().err
    assert ends(plan.space["backbone"]) == ("mobilenet_v2",)
    trial = apply_params(plan.job.recipe, plan.own | {"loss": "focal"})
    assert (trial.weights, trial.freeze) == (str(file), "encoder")  # a trial runs in a folder of its own
    assert plan.identity["recipe"]["weights"] == file.name  # type: ignore[index,call-overload]


def test_weights_from_a_file_leave_the_recipes_own_backbone() -> None:
    recipe = replace(RECIPES["camvid-fpn-mobilenet"], weights="w.pth")
    assert find_backbones(recipe) == ("mobilenet_v2",)
    assert find_backbones(replace(recipe, backbone=None)) == ("mobilenet_v2",)  # the first
    assert len(find_backbones(replace(recipe, weights="none"))) > 1
    assert find_backbones(replace(recipe, model="smp/unet/resnet18", backbone=None)) == (None,)


def test_a_trial_fails_for_good_at_its_second_failure_or_at_once_where_it_would_fail_again(
    tmp_path: Path,
) -> None:
    for number in range(3):
        trial_folder(tmp_path, number).begin(OWN)
    trial_folder(tmp_path, 0).note_failure("OutOfMemoryError: first")
    trial_folder(tmp_path, 1).note_failure("OutOfMemoryError: first")
    trial_folder(tmp_path, 1).note_failure("ValueError: second")
    trial_folder(tmp_path, 2).fail("TrainingDiverged: at once")
    trial_folder(tmp_path, 2).fail("noted later")
    trials = sorted(read_trials(tmp_path), key=lambda trial: trial.number)
    assert [(trial.status, trial.error, len(trial.failures)) for trial in trials] == [
        ("running", None, 1),
        ("errored", "ValueError: second", 2),
        ("errored", "TrainingDiverged: at once", 0),
    ]


def test_a_cause_is_one_line() -> None:
    assert describe_cause(ValueError("  first\nsecond")) == "ValueError: first"
    assert describe_cause(MemoryError()) == "MemoryError: "
    assert len(describe_cause(ValueError("x" * 1000))) == 300


def tune(out: Path, archive: Path, *more: object) -> subprocess.Popen[str]:
    """A search of four trials of small networks, one at a time, as a user starts it."""
    words = (*TINY_WORDS, "--data", archive, "--out", out, "--trials", 4, "--cpus-per-trial", 2)
    small = ("--search", "backbone=choice(mobilenet_v2,resnet18)")
    return start_job("tune", *words, *small, *more, RAY_ADDRESS="local")


def epochs_done(out: Path, number: int) -> int:
    """Of a trial, 0 where it has not begun."""
    return sum(trial.journal.epochs_done for trial in trials_of(out) if trial.number == number)


def finish(job: subprocess.Popen[str], out: Path) -> dict[str, Any]:
    """The summary of a search that is to end well."""
    with job:
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    return json.loads((out / "summary.json").read_text())


def wait_for(job: subprocess.Popen[str], what: Callable[[], object]) -> None:
    wait_until(lambda: what() or job.poll() is not None, "the search", within_s=900)
    assert job.poll() is None, job.communicate()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_search_goes_on_with_the_same_command_as_if_it_had_not(
    archive: Path, tmp_path: Path, blow: signal.Signals
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    with tune(out, archive, "--epochs", 3) as job:
        wait_for(job, lambda: epochs_done(out, 1))
        job.send_signal(blow)
        job.communicate()
    if blow is signal.SIGINT:
        assert job.returncode == 4
        assert json.loads((out / "summary.json").read_text())["stopped_by"] == "interrupt"
        assert "Interrupted" in (out / "search.html").read_text()
    else:
        assert not (out / "summary.json").exists()
    summary = finish(tune(out, archive, "--epochs", 3), out)
    expected = finish(tune(whole, archive, "--epochs", 3), whole)
    assert [
        (trial.params, trial.status, trial.failures, trial.journal.best_confusion) for trial in trials_of(out)
    ] == [(trial.params, trial.status, [], trial.journal.best_confusion) for trial in trials_of(whole)]
    assert summary["confusion"] == expected["confusion"]
    load_model(out / "best.safetensors")
    assert not (out / "ray").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_trial_whose_process_is_killed_is_begun_once_more(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with tune(out, archive, "--epochs", 4) as job:
        wait_for(job, lambda: epochs_done(out, 0))
        for pid in own_processes(TRIAL_PROCESS):
            os.kill(pid, signal.SIGKILL)
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    first = trials_of(out)[0]
    assert (first.status, first.journal.epochs_done) == ("finished", 4)
    assert len(first.failures) == 1
    assert "died" in first.failures[0]
    assert "\n" not in first.failures[0]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_trials_of_two_workers_report_their_epochs_are_pruned_and_leave_no_process(
    archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rate = ("--search", "optimizer.lr=choice(3e-3,1e-9)")  # with one it learns, with the other it never will
    long = ("--workers-per-trial", 2, "--epochs", 9, "--crops.per-image", 60)
    with tune(out, archive, *long, *rate) as job:
        wait_for(job, lambda: any(trial.status == "pruned" for trial in trials_of(out)))
        workers = lambda: len(own_processes("ray::RayTrainWorker")) <= 2  # noqa: E731  # the next trial's alone
        wait_until(workers, "the end of a pruned trial's workers", within_s=120)
        _, errors = job.communicate()
    assert job.returncode == 0, errors
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["trials"], summary["errored"]) == (4, 0)
    own = trials_of(out)[0]
    assert (own.status, own.journal.epochs_done) == ("finished", 9)
    assert all(trial.journal.epochs_done < 9 for trial in trials_of(out) if trial.status == "pruned")


@pytest.mark.parametrize("file", ["trial.json", "failures.json", "ended.json"])
@pytest.mark.parametrize(
    "content", ["", "{", "7", "null", "[[]]", '{"status": 3}', '{"status": "finished", "x": 1}']
)
def test_a_damaged_file_of_a_trial_is_refused_by_name(tmp_path: Path, file: str, content: str) -> None:
    folder = trial_folder(tmp_path, 7)
    folder.begin(OWN)
    (folder.path / file).write_text(content)
    if file == "trial.json" and content.startswith('{"'):
        assert read_trials(tmp_path)[0].params  # of any names: those that its search varies
        return
    with pytest.raises(RequestError) as refused:
        read_trials(tmp_path)
    assert str(refused.value).startswith(f"{folder.path}/{file} is damaged: ")
    assert str(refused.value).endswith("remove its folder: another trial is begun in its place")
