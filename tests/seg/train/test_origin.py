from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seg.errors import RequestError
from seg.files import read_json, write_json
from seg.recipe import Optimizer
from seg.train.origin import MAY_DIFFER, Origin, begin_from, check_origin
from seg.train.run_folder import run_identity
from seg.train.state import best_epochs, epoch_name, read_run, state_path
from seg.train.training import Training, TrainingPlan
from tests.conftest import write_discs
from tests.small import TINY, open_plan, read_tree, what_is_left

CPU = torch.device("cpu")
EPOCHS = 3
SMALL = {"crops": replace(TINY.crops, size_px=(32, 32)), "epochs": EPOCHS, "optimizer": Optimizer(lr=3e-3)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("origin") / "archive", sequences=3, frames=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(archive: Path) -> Iterator[TrainingPlan]:
    """A run of three epochs that keeps the states of all, with a moving average."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRINGE_CACHE", str(archive.parent / "cache"))
        plan = plan_in(archive, archive.parent / "whole", ema_decay=0.5)
        list(Training(plan, CPU).epochs())
        yield plan


def plan_in(archive: Path, folder: Path, **changes: Any) -> TrainingPlan:
    """A plan that keeps every state; its folder says whose it is, as a job leaves it."""
    plan = replace(open_plan(archive, folder, **SMALL | changes), keep_states=EPOCHS)
    write_json(folder / "run.json", identity_of(plan))
    return plan


def identity_of(plan: TrainingPlan, **changes: Any) -> dict[str, Any]:
    return run_identity(replace(plan.recipe, **changes), plan.data, plan.seed)


def begin(whole: TrainingPlan, folder: Path, epoch: int, **changes: Any) -> TrainingPlan:
    origin = Origin(whole.folder, epoch)
    plan = replace(whole, folder=folder, recipe=replace(whole.recipe, **changes), origin=origin)
    check_origin(origin, identity_of(plan), plan.recipe)
    begin_from(origin, folder, plan.recipe, plan.keep_best)
    return plan


@pytest.mark.parametrize("epoch", range(1, EPOCHS))
def test_a_run_begun_with_a_kept_state_ends_as_its_origin_bit_for_bit(
    whole: TrainingPlan, tmp_path: Path, epoch: int
) -> None:
    before = read_tree(whole.folder)
    plan = begin(whole, tmp_path / "new", epoch)
    assert [result.epoch for result in Training(plan, CPU).epochs()] == list(range(epoch + 1, EPOCHS + 1))
    assert what_is_left(plan.folder) == what_is_left(whole.folder)
    wanted, found = (load_file(state_path(folder, EPOCHS)) for folder in (whole.folder, plan.folder))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert read_tree(whole.folder) == before


def test_without_the_best_epochs_model_file_the_best_is_one_of_its_own(
    whole: TrainingPlan, tmp_path: Path
) -> None:
    journal = read_run(whole.folder)
    assert journal is not None
    lost = [e for e in range(1, EPOCHS) if best_epochs(journal.history[:e], 1) != [journal.best_epoch]]
    assert lost, "the first epoch is the best of all: nothing is tried here"
    for epoch in lost:  # whose own best a later one has displaced
        folder = tmp_path / str(epoch)
        plan = begin(whole, folder, epoch, patience=EPOCHS)
        begun = read_run(folder)
        assert begun is not None
        assert (begun.best_epoch, begun.best_miou, begun.absent) == (0, -1.0, list(range(1, epoch + 1)))
        assert not (folder / "best.safetensors").exists()
        assert not begun.is_finished(plan.recipe)  # its patience counts from where it began
        assert begun.is_finished(replace(plan.recipe, epochs=epoch))


def test_the_best_epochs_model_files_come_over_where_they_are_kept(
    whole: TrainingPlan, tmp_path: Path
) -> None:
    journal = read_run(whole.folder)
    assert journal is not None
    best = journal.best_epoch
    plan = begin(whole, tmp_path / "new", EPOCHS, epochs=EPOCHS + 1)
    begun = read_run(plan.folder)
    assert begun is not None
    model = (whole.folder / "best.safetensors").read_bytes()
    assert (plan.folder / "best.safetensors").read_bytes() == model
    assert (begun.best_epoch, begun.absent) == (best, [e for e in range(1, EPOCHS + 1) if e != best])
    begin_from(Origin(whole.folder, EPOCHS), tmp_path / "two", plan.recipe, keep_best=2)
    assert (tmp_path / "two" / "best" / epoch_name(best)).read_bytes() == model


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"optimizer": Optimizer(lr=1e-4)}, ()),
        ({"optimizer": Optimizer(name="sgd", lr=1e-2)}, ("optimizer.",)),
        ({"ema_decay": 0.0}, ("average.",)),
        ({"precision": "bf16", "loss": "dice", "batch": 2}, ()),
    ],
)
def test_what_a_recipe_still_has_a_use_for_is_taken(
    whole: TrainingPlan, tmp_path: Path, changes: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    plan = begin(whole, tmp_path / "new", 2, **changes)
    kept, taken = (load_file(state_path(folder, 2)) for folder in (whole.folder, plan.folder))
    assert taken.keys() == {name for name in kept if not name.startswith(left_out)}
    assert all(torch.equal(taken[name], kept[name]) for name in taken)
    assert next(Training(plan, CPU).epochs()).epoch == 3


def test_a_moving_average_that_the_origin_had_none_of_begins_with_the_first_step(
    whole: TrainingPlan, tmp_path: Path
) -> None:
    plain = begin(whole, tmp_path / "plain", 1, ema_decay=0.0)
    write_json(plain.folder / "run.json", identity_of(plain))
    plan = begin(plain, tmp_path / "new", 1, ema_decay=0.5)
    training = Training(plan, CPU)
    average = training.learner.average
    assert average is not None
    assert int(average.n_averaged) == 0
    batch = next(training.sampler.batches(2, rank=0, world_size=1))
    training.learner.begin_epoch()
    training.learner.step(batch, 1e-3, 2)
    weights = training.learner.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in average.module.state_dict().items())


@pytest.mark.parametrize(
    ("epoch", "changes", "text"),
    [
        (
            9,
            {},
            r"`from_epoch=9`: of its states .*whole has kept those of 1, 2, 3; try `from_epoch=3`, or",
        ),
        (0, {}, r"`from_epoch=0`: of its states"),
        (3, {}, r"`from_epoch=3` leaves nothing to train with `epochs=3` and `patience=0`; raise them, or"),
        (
            2,
            {"backbone": "resnet18"},
            r"is of a run with recipe.backbone mobilenet_v2 instead of resnet18; its",
        ),
        (2, {"tta": "flips"}, r"`from_run=.*whole` is of a run with recipe.tta None instead of flips; its"),
    ],
)
def test_a_run_that_cannot_begin_there_says_why(
    whole: TrainingPlan, epoch: int, changes: dict[str, Any], text: str
) -> None:
    identity = identity_of(whole, **changes)
    with pytest.raises(RequestError, match=text):
        check_origin(Origin(whole.folder, epoch), identity, replace(whole.recipe, **changes))


def test_an_origin_that_is_none_and_a_damaged_state_are_named(whole: TrainingPlan, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"{tmp_path} holds no run to begin with: no run.json; name"):
        check_origin(Origin(tmp_path, 1), identity_of(whole), whole.recipe)
    write_json(tmp_path / "run.json", {"kind": "scores"})
    with pytest.raises(RequestError, match=r"run.json is not of a run, .*; name one by `from_run=DIR`"):
        check_origin(Origin(tmp_path, 1), identity_of(whole), whole.recipe)
    write_json(tmp_path / "run.json", read_json(whole.folder / "run.json"))
    with pytest.raises(RequestError, match=r"has kept none at all, or let a run keep more by `keep_states`"):
        check_origin(Origin(tmp_path, 1), identity_of(whole), whole.recipe)
    state_path(tmp_path, 1).parent.mkdir()
    state_path(tmp_path, 1).write_bytes(state_path(whole.folder, 1).read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"epoch-0001.safetensors is damaged \(.*; begin with another one"):
        begin_from(Origin(tmp_path, 1), tmp_path / "new", whole.recipe, 1)
    assert not (tmp_path / "new").exists()


def test_a_begun_run_whose_only_state_is_damaged_is_not_begun_by_chance(
    whole: TrainingPlan, tmp_path: Path
) -> None:
    plan = begin(whole, tmp_path / "new", 1)
    state_path(plan.folder, 1).write_bytes(b"half")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RequestError, match=rf"no state in .*new/last is whole; remove .*{whole.folder}$"),
    ):
        Training(plan, CPU)


def test_all_fields_of_a_recipe_that_may_differ_are_fields_of_it() -> None:
    assert all(hasattr(TINY, name) for name in MAY_DIFFER)
