import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
)

from seg.recipe import Optimizer
from seg.train.learner import learning_rate


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 180])
def test_one_cycle_is_torchs_schedule(steps: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        assert learning_rate(Optimizer(lr=3e-3), step, 1, steps) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-9, abs=1e-15
        )
        optimizer.step()
        if step < steps - 1:
            schedule.step()


def test_a_constant_schedule_is_constant() -> None:
    settings = Optimizer(lr=0.1, schedule="constant")
    assert {learning_rate(settings, step, 3, 3) for step in range(9)} == {0.1}


def test_a_step_schedule_takes_its_factors_of_the_first_rate_after_their_epochs() -> None:
    settings = Optimizer(lr=1e-3, schedule="step", steps=((40, 0.5), (60, 0.1), (80, 0.05)))
    rates = [learning_rate(settings, step, 300, 2) for step in range(600)]
    assert rates == [1e-3] * 80 + [0.5 * 1e-3] * 40 + [0.1 * 1e-3] * 40 + [0.05 * 1e-3] * 440


def rates_of(scheduler: LRScheduler, steps: int) -> list[float]:
    """The rates that a scheduler of torch gives to so many steps."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_cosine_and_poly_are_torchs(steps: int) -> None:
    for schedule, theirs in (
        ("cosine", CosineAnnealingLR(sgd(), T_max=steps)),
        ("poly", PolynomialLR(sgd(), total_iters=steps, power=1.5)),
    ):
        settings = Optimizer(lr=3e-3, schedule=schedule, poly_power=1.5)  # type: ignore[arg-type]
        ours = [learning_rate(settings, step, 1, steps) for step in range(steps)]
        assert ours == pytest.approx(rates_of(theirs, steps), rel=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "poly", "step"])
def test_a_warm_up_rises_in_a_line_to_the_rate_and_then_follows_the_schedule(schedule: str) -> None:
    steps = ((3, 0.1),) if schedule == "step" else ()
    settings = Optimizer(lr=3e-3, schedule=schedule, warmup_epochs=0.5, steps=steps)  # type: ignore[arg-type]
    rates = [learning_rate(settings, step, 4, 10) for step in range(40)]
    warmup = LinearLR(sgd(), start_factor=1 / 5, total_iters=4)
    assert rates[:5] == pytest.approx(rates_of(warmup, 5), rel=1e-9)
    after: dict[str, LRScheduler] = {
        "constant": LambdaLR(sgd(), lambda step: 1),
        "cosine": CosineAnnealingLR(sgd(), T_max=35),
        "poly": PolynomialLR(sgd(), total_iters=35, power=0.9),
        "step": LambdaLR(sgd(), lambda step: 1 if step < 25 else 0.1),
    }
    assert rates[5:] == pytest.approx(rates_of(after[schedule], 35), rel=1e-9)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    settings = Optimizer(lr=1.0, schedule="cosine", warmup_epochs=9)
    assert [learning_rate(settings, step, 1, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
