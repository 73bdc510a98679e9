import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seg.errors import OutOfMemory, RequestError
from seg.locks.folder_lock import FolderLock, LostLock, check_owner
from seg.model_file import load_model, weights_sha256
from seg.pack.pack import Pack
from seg.pack.training_data import open_training_data
from seg.predict.predictor import Predictor
from seg.recipe import LATER_FIELDS, Optimizer, Preprocessing
from seg.train.learner import Ranks
from seg.train.run_folder import run_identity, run_name, training_summary, write_history
from seg.train.state import EpochResult, Journal, State, read_run, read_state, state_file, write_state
from seg.train.training import StepReport, Training, TrainingPlan, fit_statistics
from seg.train.validation import count_confusion
from tests.cluster.journals import epoch_result
from tests.conftest import WriteArchive
from tests.small import TIMES, TINY, open_plan

RISING = Optimizer(lr=0.1, schedule="constant")
"""A rate at which the loss on validation jumps about."""
CPU = torch.device("cpu")
MakePlan = Callable[..., TrainingPlan]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As each of two processes has, so that sums have one order; and CI's cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_plan(write_archive: WriteArchive, tmp_path: Path) -> MakePlan:
    root = write_archive(sequences=3, frames=2)

    def make(folder: str = "run", **changes: Any) -> TrainingPlan:
        return open_plan(root, tmp_path / folder, **changes)

    return make


def what_is_left(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[EpochResult], list[Any]]:
    """All that a run leaves but its times: state, best weights, history, the best epoch."""
    journal = read_run(folder)
    assert journal is not None
    history = [replace(result, **dict.fromkeys(TIMES, 0)) for result in journal.history]
    best = [journal.best_epoch, journal.best_miou, journal.best_confusion]
    return load_file(state_file(folder)), load_file(folder / "best.safetensors"), history, best


@pytest.mark.parametrize(
    ("precision", "optimizer"), [("float32", "adamw"), ("bf16", "adamw"), ("float32", "sgd")]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    make_plan: MakePlan, precision: str, optimizer: str
) -> None:
    changes = {
        "precision": precision,
        "optimizer": Optimizer(name=optimizer, lr=3e-3),  # type: ignore[arg-type]
        "crops": replace(TINY.crops, size_px=(32, 32)),  # bf16 is slow where a CPU has no instructions for it
    }
    whole, parts = make_plan("whole", **changes), make_plan("parts", **changes)
    assert [result.epoch for result in Training(whole, CPU).epochs()] == [1, 2]
    assert next(Training(parts, CPU).epochs()).epoch == 1  # and the process ends here
    assert [result.epoch for result in Training(parts, CPU).epochs()] == [2]
    assert not list(Training(parts, CPU).epochs())
    expected, found = what_is_left(whole.folder), what_is_left(parts.folder)
    for wanted, tensors in zip(expected[:2], found[:2], strict=True):
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert found[2:] == expected[2:]


def test_synchronised_batch_norm_wants_equal_shares_of_the_batch_that_is_trained_on(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(batch=6, batch_norm="synchronised", crops=replace(TINY.crops, per_image=1))
    assert len(plan.data.split.train) == 4  # so that no batch has 6
    monkeypatch.setattr("seg.train.training.find_ranks", lambda: Ranks(0, 3))
    with pytest.raises(RequestError, match="a batch of 4 falls to 3 workers"):
        Training(plan, torch.device("cuda"))


def test_the_loss_falls_and_the_model_file_scores_what_the_journal_says(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=3, crops=replace(TINY.crops, per_image=6), backbone="resnet18")
    results = list(Training(plan, CPU).epochs())
    assert results[-1].loss < results[0].loss / 2
    journal = read_run(plan.folder)
    assert journal is not None
    assert journal.best_miou == max(result.miou for result in results) > 0.6
    model, card = load_model(plan.folder / "best.safetensors")
    training = Training(plan, CPU)
    predictor = Predictor(model, card.tiling, batch=1, device=CPU)
    pack = training.validation_pack
    confusion = count_confusion(predictor, pack.clips(1), card.statistics, len(card.classes))
    assert confusion.tolist() == journal.best_confusion == card.validation["confusion"]
    counted = sum(int((np.asarray(row.own_mask) != 255).sum()) for row in pack.images())
    assert int(confusion.sum()) == counted
    assert card.provenance.data_fingerprint == plan.data.fingerprint
    assert (card.provenance.seed, card.provenance.parent) == (1, "test")
    pixels = np.zeros(256, np.int64)
    for sample in plan.data.split.train:
        pixels += np.bincount(np.asarray(Image.open(str(sample.label))).ravel(), minlength=256)
    assert card.class_shares == tuple((pixels[:2] / pixels[:2].sum()).tolist())


def test_the_folder_tells_the_run(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=1)
    reports: list[StepReport] = []
    training = Training(plan, CPU)
    list(training.epochs(reports.append))
    assert [(one.epoch, one.step, one.validated) for one in reports] == [
        *((1, step, 0) for step in (1, 2, 3)),
        *((1, 3, image) for image in (1, 2)),
    ]
    assert [one.to_validate for one in reports] == [0, 0, 0, 2, 2]
    # 2 images of 64 x 96 in 2 windows of 64 x 64 each; an epoch sees 12 crops of 64 x 64
    assert training.validation_work == pytest.approx(2 * 2 / (3 * 12))
    journal = read_run(plan.folder)
    assert journal is not None
    write_history(plan.folder, journal)
    rows = list(csv.DictReader((plan.folder / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1"]
    assert (plan.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = training_summary(plan.folder, plan.recipe, plan.data.classes, journal)
    assert summary["confusion"] == journal.best_confusion
    assert summary["miou"] == journal.best_miou
    assert set(summary["iou"]) == {"background", "disc"}
    assert summary["epochs_run"] == summary["best_epoch"] == 1
    assert Path(summary["model_file"]).is_file()
    journal.best_confusion = [[9, 0], [3, 0]]
    alarms = training_summary(plan.folder, plan.recipe, plan.data.classes, journal, (0.1, 0.9))["alarms"]
    assert alarms == [
        "the model predicts no pixel of: disc (3 in the labels)",
        "0 % of pixels are disc, 90 % in training",
    ]


def test_the_seed_decides_the_weights(make_plan: MakePlan) -> None:
    plan = make_plan()
    one, same, other = (
        Training(replace(plan, seed=seed), CPU).learner.model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["score.weight"], other["score.weight"])


def test_statistics_and_intensities_are_the_training_images_and_travel_in_the_model_file(
    make_plan: MakePlan,
) -> None:
    plan = make_plan(preprocessing=Preprocessing(normalisation="fitted"), epochs=1)
    training = Training(plan, CPU)
    list(training.epochs())
    pixels = np.concatenate([row.pixels.ravel() for row in training.train_pack.images()]).astype(np.float64)
    _, card = load_model(plan.folder / "best.safetensors")
    assert card.statistics is not None
    assert card.statistics.mean[0] == pytest.approx(pixels.mean(), rel=1e-12)
    assert card.statistics.std[0] == pytest.approx(pixels.std(), rel=1e-9)
    means = [row.pixels.mean() for row in training.train_pack.images()]  # nothing is done to these images
    (span,) = card.intensities
    assert (span.bit_depth, span.lowest_mean, span.highest_mean) == (8, min(means), max(means))


def test_fitted_statistics_refuse_validation_images_of_another_depth(make_plan: MakePlan) -> None:
    plan = make_plan()
    sample = plan.data.split.validation[0]
    Image.fromarray(np.asarray(Image.open(sample.image)).astype(np.uint16)).save(sample.image)
    training = Training(replace(plan, data=replace(plan.data, fingerprint="changed")), CPU)
    with pytest.raises(RequestError, match=f"{sample.name} has 16 bits, the training images 8"):
        fit_statistics(training.train_pack, training.validation_pack)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": -1}, "`seed` is -1; give 0 or more"),
        ({"limit": 0}, "`limit` is 0; give 1 or more"),
        ({"recipe": replace(TINY, dataset="plane")}, "unknown dataset 'plane'; did you mean plain"),
    ],
)
def test_data_that_cannot_be_opened_as_asked_is_refused(
    write_archive: WriteArchive, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        open_training_data(write_archive(), **({"recipe": TINY, "seed": 0} | changes))


class Devouring(torch.nn.Module):
    """A network whose forward wants more than there is: of a GPU by torch's error, of a CPU in earnest."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.layer, self.device = torch.nn.Conv2d(1, 2, 1), device

    def forward(self, images: Tensor) -> Tensor:
        if self.training == (self.device != "validating"):
            if self.device == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            torch.empty(2**55)
        return self.layer(images)


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("cpu", r"step 1 of epoch 1: 4 crops of 64 x 64 px do not fit; lower `batch`, now 4, or `crops"),
        ("cuda", r"step 1 of epoch 1: 4 crops of 64 x 64 px do not fit; .* or raise `accumulate`, now 1$"),
        (
            "validating",
            r"validation of epoch 1: a window of 64 x 64 px does not fit; lower `tiling.crop",
        ),
    ],
)
def test_memory_that_is_not_there_is_said_with_what_to_lower(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, device: str, text: str
) -> None:
    monkeypatch.setattr("seg.train.start.build", lambda *_, **__: Devouring(device))
    with pytest.raises(OutOfMemory, match=rf"^worker 0 on .* \(cpu\) ran out of memory in {text}"):
        next(Training(make_plan(), CPU).epochs())


# two processes


STEADY: dict[str, Any] = {"batch_norm": "frozen", "loss": "cross_entropy", "class_weights": (1.0, 4.0)}
"""Without batch norm's batches, a step over ranks is the step of one: cross entropy of the same crops."""


def describe(training: Training) -> dict[str, Any]:
    """What a training of an epoch ended with; its weights are in its folder."""
    result = next(training.epochs())
    confusion, loss = training.validate()
    again = confusion.tolist()
    assert loss == result.validation_loss
    journal = training.journal
    losses = {"loss": result.loss, "validation_loss": loss}
    return losses | {"confusion": journal.best_confusion, "again": again, "idle": journal.idle}


def validate(training: Training) -> list[Any]:
    confusion, loss = training.validate()
    return [confusion.tolist(), loss]


def run_rank(rank: int, plans: dict[str, TrainingPlan], untrained: TrainingPlan, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    answer: dict[str, Any] = {"validated": validate(Training(untrained, CPU))}
    answer |= {name: describe(Training(plan, CPU)) for name, plan in plans.items()}
    meeting.with_name(f"rank{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


IDLE = {
    "smp/pspnet/resnet18": ["network.encoder.layer3", "network.encoder.layer4"],
    "smp/unet/efficientnet-b0": ["network.encoder._conv_head", "network.encoder._bn1"],
}
"""Parts of networks that are built and never used."""


def ignore_most_of_every_other_mask(root: Path) -> None:
    """So that ranks count differently many pixels."""
    for file in sorted((root / "masks").rglob("*.png"))[::2]:
        mask = np.where(np.arange(96) < 60, np.asarray(Image.open(file)), 255)
        Image.fromarray(mask.astype(np.uint8)).save(file)


def test_two_processes_agree_with_one(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore_most_of_every_other_mask(tmp_path / "archive")
    plans = {
        "steady": make_plan("steady", epochs=1, batch=5, accumulate=2, ema_decay=0.9, **STEADY),
        "as it is": make_plan("as it is", epochs=1, loss="cross_entropy+dice"),
    }
    alone = {
        name: describe(Training(replace(plan, folder=tmp_path / "alone" / name), CPU))
        for name, plan in plans.items()
    }
    idle = {name: make_plan(f"idle{k}", epochs=1, backbone=None, model=name) for k, name in enumerate(IDLE)}
    untrained = make_plan("untrained", tta="flips", loss="cross_entropy+dice", class_weights=(1.0, 4.0))
    confusion, loss = validate(Training(untrained, CPU))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(run_rank, (plans | idle, untrained, tmp_path / "meeting"), nprocs=2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert ranks[0]["validated"] == [
        confusion,
        pytest.approx(loss, rel=1e-12),
    ]  # each image once, by any rank
    for name in ("loss", "validation_loss"):
        assert ranks[0]["steady"][name] == pytest.approx(alone["steady"][name], rel=1e-5)
    folders = (tmp_path / "alone" / "steady", plans["steady"].folder)
    expected, found = (load_file(state_file(folder)) for folder in folders)
    assert found.keys() == expected.keys()
    for part in (part for part in expected if part.startswith(("model", "average"))):
        assert torch.allclose(found[part], expected[part], atol=1e-5, rtol=0), part
    assert ranks[0]["as it is"]["confusion"] == ranks[0]["as it is"]["again"]
    assert {name: answer["idle"] for name, answer in ranks[0].items() if name != "validated"} == (
        {name: [] for name in plans} | IDLE
    )
    state = load_file(state_file(plans["as it is"].folder))
    counters = {value.item() for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert counters == {3}  # its steps: looking for idle parts left no trace


def test_a_pack_has_what_the_validation_of_each_rank_needs(make_plan: MakePlan) -> None:
    training = Training(make_plan(), CPU)
    assert isinstance(training.validation_pack, Pack)
    assert all(row.own_mask is not None for row in training.validation_pack.images())
    assert all(row.own_mask is None for row in training.train_pack.images())


def test_an_identity_is_the_same_for_the_same_request(make_plan: MakePlan) -> None:
    one, other = make_plan(), make_plan("elsewhere")
    assert run_identity(one.recipe, one.data, 1) == run_identity(other.recipe, other.data, 1)


def test_the_reader_is_part_of_the_identity_where_the_data_hold_a_tiff(make_plan: MakePlan) -> None:
    plan = make_plan()
    plain = run_identity(plan.recipe, plan.data, 1)
    assert "reader" not in plain  # else a finished run of PNGs would not be found again
    first, *others = plan.data.split.validation
    pages = replace(plan.data.split, validation=(replace(first, name="s/a.TIF#1"), *others))
    for data in (replace(plan.data, split=pages), replace(plan.data, sequences={"s": (("s/b.tiff", None),)})):
        identity = run_identity(plan.recipe, data, 1)
        assert identity["reader"] == 2
        assert run_name(plan.recipe, identity) != run_name(plan.recipe, plain)


def test_patience_ends_a_run_and_a_resumed_one_at_the_same_epoch(make_plan: MakePlan) -> None:
    plan = make_plan(
        epochs=9, patience=2, optimizer=Optimizer(lr=1e-12)
    )  # nothing gets better after the first
    first = Training(plan, CPU)
    next(first.epochs())
    assert [result.epoch for result in Training(plan, CPU).epochs()] == [2, 3]
    assert not list(Training(plan, CPU).epochs())
    journal = Training(plan, CPU).journal
    assert (journal.epochs_done, journal.best_epoch) == (3, 1)
    assert journal.is_finished(plan.recipe)


def test_the_epoch_of_the_lowest_loss_is_the_best_where_the_loss_is_monitored(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=6, patience=3, monitor="loss", loss="focal(gamma=0.5)", optimizer=RISING)
    history = list(Training(plan, CPU).epochs())
    losses, mious = [one.validation_loss for one in history], [one.miou for one in history]
    assert np.argmin(losses) != np.argmax(mious)  # else it would not show
    best = 1 + int(np.argmin(losses))
    assert len(history) == min(6, best + 3)
    _, card = load_model(plan.folder / "best.safetensors")
    journal = read_run(plan.folder)
    assert journal is not None
    assert card.validation["epoch"] == journal.best_epoch == best
    assert journal.best_miou == mious[best - 1]
    summary = training_summary(plan.folder, plan.recipe, plan.data.classes, journal)
    assert (summary["best_epoch"], summary["validation_loss"]) == (best, min(losses))


def rates_of(plan: TrainingPlan) -> list[float]:
    reports: list[StepReport] = []
    list(Training(plan, CPU).epochs(reports.append))
    return [report.rate for report in reports if not report.validated]


def test_a_schedule_of_fewer_epochs_ends_in_its_last_rate(make_plan: MakePlan) -> None:
    small = replace(TINY.crops, per_image=1, size_px=(32, 32))
    poly = Optimizer(schedule="poly", lr=0.01, poly_power=2.0)
    plan = make_plan(epochs=4, batch=2, crops=small, optimizer=poly)
    falling = [0.01 * (1 - step / 4) ** 2 for step in range(4)]  # two steps an epoch
    assert rates_of(replace(plan, horizon=2)) == pytest.approx([*falling, *[falling[-1]] * 4])
    longer = [0.01 * (1 - step / 8) ** 2 for step in range(8)]
    assert rates_of(replace(plan, folder=plan.folder / "other", horizon=4)) == pytest.approx(longer)


def forget_validation_loss(file: Path) -> None:
    """Make a state as code before there was a validation loss wrote it, by docs/reference/runs.md."""
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        values = json.loads(opened.metadata()["fringe-state"])
    for name in ("sha256", "journal_sha256"):
        del values[name]
    for row in values["history"]:
        del row["validation_loss"]
    journal = json.dumps(values)
    digests = {
        "sha256": hashlib.sha256(f"{journal}\0{weights_sha256(tensors)}".encode()).hexdigest(),
        "journal_sha256": hashlib.sha256(journal.encode()).hexdigest(),
    }
    save_file(tensors, file, {"fringe-state": json.dumps(digests | values)})


def test_a_run_begun_before_there_was_a_validation_loss_goes_on(make_plan: MakePlan) -> None:
    whole, parts = make_plan("whole"), make_plan("parts")
    list(Training(whole, CPU).epochs())
    next(Training(parts, CPU).epochs())
    forget_validation_loss(state_file(parts.folder))
    list(Training(parts, CPU).epochs())
    expected, found = what_is_left(whole.folder), what_is_left(parts.folder)
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    assert found[2][1:] == expected[2][1:]
    assert np.isnan(found[2][0].validation_loss)
    journal = read_run(parts.folder)
    assert journal is not None
    write_history(parts.folder, journal)
    rows = list(csv.DictReader((parts.folder / "history.csv").read_text().splitlines()))
    assert [row["validation_loss"] for row in rows] == ["nan", str(expected[2][1].validation_loss)]


def test_a_field_that_recipes_got_later_shows_in_an_identity_only_where_it_is_used(
    make_plan: MakePlan,
) -> None:
    plan = make_plan()
    before = run_identity(plan.recipe, plan.data, 1)
    assert "monitor" not in str(before)  # else a run begun before would not be found again
    changed = run_identity(replace(plan.recipe, monitor="loss"), plan.data, 1)
    assert str(changed).replace(", 'monitor': 'loss'", "") == str(before) != str(changed)


def test_balanced_class_weights_are_those_of_the_training_masks(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=1, class_weights="median_frequency")
    training = Training(plan, CPU)
    masks = [np.asarray(Image.open(sample.label)) for sample in plan.data.split.train if sample.label]
    counts = np.array([[np.count_nonzero(mask == k) for k in range(2)] for mask in masks])
    shares = counts.sum(0) / counts.sum()
    assert training.learner.loss.class_weights == pytest.approx(tuple(np.median(shares) / shares))


def test_a_run_starts_from_a_model_file_and_remembers_it(make_plan: MakePlan) -> None:
    first = make_plan("first", epochs=1)
    list(Training(first, CPU).epochs())
    file = first.folder / "best.safetensors"
    begun = load_file(file)
    plan = make_plan(epochs=2, weights=str(file), freeze="encoder")
    next(Training(plan, CPU).epochs())
    lines = (plan.folder / "weights.log").read_text().splitlines()
    assert len(lines) == len(begun)
    assert all(line.startswith("taken ") for line in lines)
    tuned = load_file(plan.folder / "best.safetensors")
    same = {name for name in begun if torch.equal(begun[name], tuned[name])}
    assert {name for name in begun if name.startswith("features.")} <= same
    assert {"score.weight", "score.bias"}.isdisjoint(same)
    sha256 = load_model(file)[1].provenance.weights_sha256
    file.unlink()
    list(Training(plan, CPU).epochs())  # a resumed run does not look at it again
    for kept in ("best.safetensors", "last/epoch-0002.safetensors"):
        assert sha256 in (plan.folder / kept).read_bytes().decode("latin1")


def test_fields_that_came_later_are_in_an_identity_where_they_say_something(make_plan: MakePlan) -> None:
    plan, slow = make_plan(), make_plan(encoder_lr_factor=0.5)
    plain, other = (run_identity(one.recipe, one.data, 1)["recipe"] for one in (plan, slow))
    assert plain.keys() == asdict(plan.recipe).keys() - set(LATER_FIELDS)  # type: ignore[union-attr]
    assert other.keys() - plain.keys() == {"encoder_lr_factor"}  # type: ignore[union-attr]


def test_a_run_of_an_older_shape_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan(model="pyramid-fcn", backbone=None, model_options=(("n_layers", 1),))
    write_state(
        plan.folder, State(Journal([epoch_result(1, 0.5)]), {"model.laterals.0.0.weight": torch.ones(1)})
    )
    with pytest.raises(RequestError, match=f"state in {plan.folder} is of an older shape: pyramid-fcn now"):
        Training(plan, CPU)


def test_a_run_goes_on_with_the_kernels_that_it_began_with(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=2)
    begun = Training(plan, CPU)
    next(begun.epochs())
    assert begun.learner.optimizer.defaults["fused"] is True
    assert Training(plan, CPU).learner.optimizer.defaults["fused"] is True
    state = read_state(state_file(plan.folder))
    state.journal.fused = False  # which a state from before fused kernels says by not naming them
    write_state(plan.folder, state)
    assert Training(plan, CPU).learner.optimizer.defaults["fused"] is None


def test_a_run_that_is_begun_without_fused_kernels_says_so_in_its_state(make_plan: MakePlan) -> None:
    plan = replace(make_plan(epochs=1), fused=False)
    begun = Training(plan, CPU)
    assert begun.learner.optimizer.defaults["fused"] is None
    next(begun.epochs())
    assert not read_state(state_file(plan.folder)).journal.fused


@pytest.mark.parametrize(
    ("asked", "there"), [(1, []), (2, []), (3, ["best.safetensors"]), (4, ["best.safetensors", "best"])]
)
def test_who_is_frozen_while_it_writes_and_loses_the_folder_replaces_no_file_of_the_next_job(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, asked: int, there: list[str]
) -> None:
    plan = replace(make_plan(epochs=1), keep_best=2)
    names = ("best.safetensors", "best/epoch-0001.safetensors", "last/epoch-0001.safetensors")
    with FolderLock(plan.folder, what="training") as lock:
        training = Training(replace(plan, lock=(plan.folder, lock.token)), CPU)
        times = 0

        def look(folder: Path, token: str) -> None:
            nonlocal times
            times += 1
            if times == asked:  # another job takes it over before we look
                (folder / "lock-1.json").rename(folder / "lock-2.json")
            check_owner(folder, token)

        monkeypatch.setattr("seg.train.training.check_owner", look)
        with pytest.raises(LostLock):
            next(training.epochs())
    assert [name.split("/")[0] for name in names if (plan.folder / name).exists()] == there
    assert not list(plan.folder.rglob("*.part"))


def test_outputs_count_as_the_recipe_says(make_plan: MakePlan) -> None:
    assert Training(make_plan(model="icnet"), CPU).learner.loss.output_weights == (1.0, 1.0, 0.4)
    again = make_plan(model="icnet", output_weights=(1.0, 0.5, 0.25))
    assert Training(again, CPU).learner.loss.output_weights == (1.0, 0.5, 0.25)
