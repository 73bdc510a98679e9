"""Training on a GPU: precisions, resuming, what it reads and what it leaves behind."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seg.recipe import Optimizer
from seg.train.training import Training, TrainingPlan
from tests.conftest import WriteArchive
from tests.small import TINY, open_plan

pytestmark = [pytest.mark.gpu, pytest.mark.long]
CPU = torch.device("cpu")
MakePlan = Callable[..., TrainingPlan]


@pytest.fixture
def make_plan(write_archive: WriteArchive, tmp_path: Path) -> MakePlan:
    root = write_archive(sequences=3, frames=2)

    def make(folder: str = "run", **changes: Any) -> TrainingPlan:
        longer = {"epochs": 3, "crops": replace(TINY.crops, per_image=6)}
        return open_plan(root, tmp_path / folder, **longer | changes)

    return make


def test_the_first_step_is_that_of_a_cpu(gpu: torch.device, make_plan: MakePlan) -> None:
    """One step each: later ones part by and by, as rounding differs."""
    ours, cpus = (Training(make_plan(device.type), device) for device in (gpu, CPU))
    batch = next(cpus.sampler.batches(1))
    losses = [training.learner.step(batch, 0.01, 2).loss for training in (ours, cpus)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    gradients = [
        torch.cat(
            [value.grad.flatten().cpu() for value in it.learner.model.parameters() if value.grad is not None]
        )
        for it in (ours, cpus)
    ]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.9999


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"precision": "fp16", "accumulate": 2, "ema_decay": 0.5},
        {"batch_norm": "synchronised"},
        {"batch_norm": "frozen", "optimizer": Optimizer(name="sgd", lr=0.05, clip_norm=1.0)},
        {"compile": True, "precision": "bf16"},
        {"model": "icnet", "precision": "bf16"},
        {"model": "fpn", "backbone": "resnet18", "precision": "fp16"},
    ],
)
def test_the_loss_falls_and_resuming_goes_on_from_the_same_tensors(
    gpu: torch.device, make_plan: MakePlan, changes: dict[str, Any]
) -> None:
    if changes.get("compile") and gpu.type == "cpu":
        pytest.skip("what it compiles for a CPU takes minutes, and is not what is tested here")
    plan = make_plan(**changes)
    running = Training(plan, gpu)
    first = next(running.epochs())
    left = running.learner.tensors()
    resumed = Training(plan, gpu)
    taken = resumed.learner.tensors()
    assert taken.keys() == left.keys()
    assert all(torch.equal(taken[name], left[name]) for name in left)
    last = list(resumed.epochs())[-1]
    assert (last.epoch, last.skipped_steps) == (3, 0)
    assert last.loss < first.loss
    counted = sum(int((image.own_mask != 255).sum()) for image in running.validation_pack.images())
    assert int(resumed.validate()[0].sum()) == counted


def test_a_loss_scale_that_is_too_high_is_lowered_and_nothing_else_changes(
    gpu: torch.device, make_plan: MakePlan
) -> None:
    training = Training(make_plan(precision="fp16"), gpu)
    batch = next(training.sampler.batches(1))
    training.learner.step(batch, 0.01, 2)
    training.learner.scaler.update(2.0**100)
    before = training.learner.tensors()
    assert not training.learner.step(batch, 0.01, 2).skipped
    after = training.learner.tensors()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    running = {name for name in before if "running_" in name or "num_batches" in name}
    assert after["scale.scale"] == before["scale.scale"] / 2
    assert changed - running <= {"scale.scale", "scale._growth_tracker"}


def test_crops_come_from_pinned_memory_and_are_a_cpus(gpu: torch.device, make_plan: MakePlan) -> None:
    sampler = Training(make_plan(), gpu).sampler
    pinned, plain = next(sampler.batches(1, pin=gpu.type == "cuda")), next(sampler.batches(1))
    assert pinned.images.is_pinned() == (gpu.type == "cuda")
    (images, truth), (cpu_images, cpu_truth) = pinned.to_inputs(gpu), plain.to_inputs(CPU)
    torch.testing.assert_close(images.cpu(), cpu_images, rtol=1e-6, atol=1e-6)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(truth.cpu(), cpu_truth)


def test_a_training_that_is_over_gives_its_memory_back(gpu: torch.device, make_plan: MakePlan) -> None:
    def held() -> int:
        gc.collect()
        return torch.cuda.memory_allocated() if gpu.type == "cuda" else 0

    list(Training(make_plan("first", epochs=1), gpu).epochs())  # what libraries keep for good is taken now
    before = held()
    list(Training(make_plan("second", epochs=1), gpu).epochs())
    assert held() <= before
