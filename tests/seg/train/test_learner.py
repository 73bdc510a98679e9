from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg.errors import RequestError
from seg.pack.crops import Batch
from seg.recipe import Optimizer, Recipe
from seg.train.learner import Learner, Ranks, name_parts
from seg.train.losses import build_loss

CPU = torch.device("cpu")
PLAIN = Recipe(
    name="plain",
    batch=6,
    precision="float32",
    optimizer=Optimizer(name="sgd", lr=0.5, weight_decay=0.0, schedule="constant"),
)


class SmallNet(nn.Module):
    """Two convolutions, with batch norm between them where asked for."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()

    @property
    def features(self) -> nn.Module:
        """What freezing and rates take for its encoder."""
        return nn.Sequential(self.first, self.norm)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(images))))


def make_learner(
    *, norm: bool = False, loss: str = "cross_entropy+dice", fused: bool = True, **changes: Any
) -> Learner:
    recipe, losses = replace(PLAIN, **changes), build_loss(loss, (1.0, 4.0))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Learner(SmallNet(norm=norm), losses, recipe, CPU, Ranks(), fused=fused)


def make_batch(seed: int = 3, size: int = 6) -> Batch:
    """Crops of which some are ignored nearly whole."""
    seeded = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, 1, 32, 32), generator=seeded, dtype=torch.uint8)
    truth = torch.randint(2, (size, 32, 32), generator=seeded, dtype=torch.uint8)
    truth[1, 3:] = truth[3, :, 1:] = 255
    mean, std = torch.full((size, 1), 128.0).double(), torch.full((size, 1), 70.0).double()
    return Batch(images, truth, mean, std, tuple(f"{number}.png" for number in range(size)))


def spoil(batch: Batch) -> Batch:
    """The same with a pixel that is not a number."""
    images = batch.images.float()
    images[0, 0, 5, 5] = torch.nan
    return replace(batch, images=images)


def weights(learner: Learner) -> list[float]:
    return torch.cat([weight.flatten() for weight in learner.model.parameters()]).tolist()


@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy+dice", "focal+lovasz"])
@pytest.mark.parametrize("parts", [2, 4, 6, 9])  # 4 of 6: of one and of two crops; 9: more than there are
def test_a_batch_in_parts_is_the_batch(parts: int, loss: str) -> None:
    whole, divided = make_learner(loss=loss), make_learner(loss=loss, accumulate=parts)
    for seed in (1, 2):
        expected, found = (learner.step(make_batch(seed), 0.5, 2) for learner in (whole, divided))
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert weights(divided) == pytest.approx(weights(whole), abs=1e-6)  # float32 sums in another order


def test_a_step_is_the_losss_gradient_times_the_rate() -> None:
    learner, batch = make_learner(loss="cross_entropy"), make_batch()
    model = SmallNet().double()
    model.load_state_dict(learner.model.state_dict())
    log_p = model((batch.images.double() - 128) / 70).log_softmax(1)
    total = weight = torch.zeros((), dtype=torch.float64)
    for number, factor in enumerate((1.0, 4.0)):
        chosen = batch.truth == number
        total = total - factor * log_p[:, number][chosen].sum()
        weight = weight + factor * chosen.sum()
    expected = total / weight
    expected.backward()
    result = learner.step(batch, 0.5, 2)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        stepped = torch.cat([(value - 0.5 * value.grad).flatten() for value in model.parameters()])  # type: ignore[operator]
    assert weights(learner) == pytest.approx(stepped.tolist(), abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3}, {"precision": "fp16"}, {"ema_decay": 0.5}])
def test_a_step_whose_loss_is_not_finite_changes_nothing(changes: dict[str, Any]) -> None:
    changes = {"optimizer": Optimizer(name="adam", lr=0.1)} | changes
    learner = make_learner(norm=True, **changes)
    learner.begin_epoch()
    assert not learner.step(make_batch(), 0.1, 2).skipped
    before = {name: value.clone() for name, value in learner.tensors().items()}
    result = learner.step(spoil(make_batch()), 0.1, 2)
    assert result.skipped
    after = learner.tensors()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"scale.scale", "scale._growth_tracker"}  # of fp16: the scaler's own answer
    assert not learner.step(make_batch(4), 0.1, 2).skipped
    assert any(not torch.equal(before[name], value) for name, value in learner.tensors().items())


def test_gradients_are_clipped_to_the_norm_of_all_of_them() -> None:
    limit = 1e-2
    clipped, free = make_learner(optimizer=replace(PLAIN.optimizer, clip_norm=limit)), make_learner()
    start = torch.tensor(weights(free))
    for learner in (clipped, free):
        learner.step(make_batch(), 1.0, 2)
    full, short = (torch.tensor(weights(learner)) - start for learner in (free, clipped))
    assert float(full.norm()) > limit
    assert short.tolist() == pytest.approx((full * limit / full.norm()).tolist(), abs=1e-6)


def test_the_average_is_the_weights_so_far_with_its_decay() -> None:
    learner = make_learner(norm=True, ema_decay=0.75)
    learner.begin_epoch()
    expected: dict[str, Tensor] = {}
    for seed in range(4):
        learner.step(make_batch(seed), 0.5, 2)
        now = {name: value.double() for name, value in learner.model.state_dict().items()}
        expected = {name: 0.75 * expected.get(name, now[name]) + 0.25 * now[name] for name in now}
    found = learner.judged.state_dict()
    assert learner.judged is not learner.model
    for name in expected:
        if expected[name].ndim:  # not the number of batches seen, which nothing reads
            assert found[name].flatten().tolist() == pytest.approx(
                expected[name].flatten().tolist(), abs=1e-6
            )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_learner_goes_on_from_its_tensors_bit_for_bit(name: Any, precision: str, *, fused: bool) -> None:
    changes = {"optimizer": Optimizer(name=name, lr=0.01), "precision": precision, "ema_decay": 0.9}
    whole, first, second = (make_learner(norm=True, fused=fused, **changes) for _ in range(3))
    for seed in range(4):
        learner = first if seed < 2 else second
        if seed == 2:
            second.restore(first.tensors())
        for each in (whole, learner):
            each.begin_epoch()
            each.step(make_batch(seed), 0.01, 2)
    expected, found = whole.tensors(), second.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    for weight, moments in second.optimizer.state.items():
        for moment in moments.values():
            assert moment.shape != weight.shape or moment.stride() == weight.stride()


def test_a_first_step_that_overflows_leaves_no_momentum_behind() -> None:
    """As of fp16, whose first loss scale is too high for many a loss."""
    sgd = Optimizer(name="sgd", lr=0.5, weight_decay=0.0)
    learner, plain = (make_learner(optimizer=sgd, precision=kind) for kind in ("fp16", "float32"))
    scale = learner.scaler.state_dict()
    learner.scaler.load_state_dict(scale | {"scale": 2.0**120})
    before = weights(learner)
    learner.step(make_batch(), 0.5, 2)
    assert weights(learner) == before
    learner.scaler.load_state_dict(scale | {"scale": 2.0**4})
    for each in (learner, plain):
        each.step(make_batch(), 0.5, 2)
    assert weights(learner) == pytest.approx(weights(plain), abs=1e-2)  # fp16 has 11 bits


def move(learner: Learner) -> dict[str, list[float]]:
    """How far a step moves each weight."""
    before = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
    learner.begin_epoch()
    learner.step(make_batch(), 0.5, 2)
    return {
        name: (value - before[name]).flatten().tolist() for name, value in learner.model.named_parameters()
    }


def test_an_encoders_rate_is_its_share_of_the_others() -> None:
    plain, slow = (move(make_learner(norm=True, encoder_lr_factor=factor)) for factor in (1.0, 0.1))
    for name, moved in plain.items():
        share = 1 if name.startswith("second") else 0.1
        assert slow[name] == pytest.approx([share * value for value in moved], abs=1e-6)  # float32 weights


def test_a_frozen_encoder_keeps_its_weights_and_statistics() -> None:
    learner = make_learner(norm=True, freeze="encoder", weights="imagenet")
    statistics = [value.clone() for value in learner.model.buffers()]
    moved = move(learner)
    assert {name for name, way in moved.items() if any(way)} == {"second.weight", "second.bias"}
    assert all(torch.equal(a, b) for a, b in zip(statistics, learner.model.buffers(), strict=True))


def test_a_learner_whose_encoder_is_slower_goes_on_bit_for_bit() -> None:
    adam = Optimizer(name="adam", lr=0.01)
    whole, first, second = (make_learner(encoder_lr_factor=0.1, optimizer=adam) for _ in range(3))
    for seed in range(4):
        if seed == 2:
            second.restore(first.tensors())
        for each in (whole, first if seed < 2 else second):
            each.step(make_batch(seed), 0.01, 2)
    expected, found = whole.tensors(), second.tensors()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_parts_are_named_by_the_largest_modules_that_are_all_theirs() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)), nn.Conv2d(2, 2, 1))
    assert name_parts(net, {"0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", "1.bias"}) == ["0", "1.bias"]
    assert name_parts(net, {"0.0.weight", "0.0.bias", "1.weight"}) == ["0.0", "1.weight"]
    assert name_parts(net, []) == []


def test_frozen_batch_norm_keeps_its_statistics_and_still_learns_its_scale() -> None:
    learner = make_learner(norm=True, batch_norm="frozen")
    learner.begin_epoch()
    learner.step(make_batch(), 0.5, 2)
    state = learner.model.state_dict()
    assert state["norm.running_mean"].tolist() == [0.0] * 4
    assert state["norm.running_var"].tolist() == [1.0] * 4
    assert state["norm.weight"].tolist() != [1.0] * 4


@pytest.mark.parametrize("spec", ["cross_entropy(smoothing=0.1)", "focal", "asymmetric", "dice+lovasz"])
def test_weights_known_from_the_truth_are_those_that_the_loss_returns(spec: str) -> None:
    batch = make_batch()
    loss = build_loss(spec, (0.5, 3.0))
    logits = torch.randn(6, 2, 32, 32)
    assert torch.equal(loss.weigh(batch.truth, 2), loss(logits, batch.truth)[1])


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (
            Optimizer(name="sgd", lr=0.1, weight_decay=0.1, momentum=0.99, nesterov=True),
            partial(torch.optim.SGD, lr=0.1, weight_decay=0.1, momentum=0.99, nesterov=True),
        ),
        (
            Optimizer(name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0),
            partial(torch.optim.SGD, lr=0.1),
        ),
        (
            Optimizer(name="adam", lr=0.1, weight_decay=0.1, betas=(0.5, 0.7), eps=0.1),
            partial(torch.optim.Adam, lr=0.1, weight_decay=0.1, betas=(0.5, 0.7), eps=0.1),
        ),
        (
            Optimizer(name="adamw", lr=0.1, weight_decay=0.1, betas=(0.5, 0.7), eps=0.1),
            partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1, betas=(0.5, 0.7), eps=0.1),
        ),
    ],
)
def test_an_optimiser_has_the_recipes_settings_also_where_it_goes_on(
    settings: Optimizer, theirs: Callable[..., torch.optim.Optimizer]
) -> None:
    changes = {"optimizer": replace(settings, schedule="constant")}
    learner, expected = make_learner(**changes), make_learner(**changes)
    expected.optimizer = theirs([{"params": expected.model.parameters(), "factor": 1.0}], fused=True)
    for seed in range(3):
        for one in (learner, expected):
            one.step(make_batch(seed), settings.lr, 2)
        assert weights(learner) == weights(expected)
        resumed = make_learner(**changes)
        resumed.restore(learner.tensors())
        learner = resumed


def test_synchronised_batch_norm_is_refused_where_it_cannot_be() -> None:
    recipe = replace(PLAIN, batch_norm="synchronised")
    with pytest.raises(
        RequestError, match="batch_norm synchronised is for GPUs; use `batch_norm=own` on CPUs"
    ):
        Learner(SmallNet(norm=True), build_loss("dice"), recipe, CPU, Ranks(0, 2))
    Learner(SmallNet(norm=True), build_loss("dice"), recipe, CPU, Ranks())  # alone there is nobody to ask
