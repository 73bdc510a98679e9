"""Networks and views are averaged as probabilities, as a loop in float64 says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seg.model_file import load_model
from seg.predict.averaging import VIEWS, Averaged, load_averaged
from seg.predict.passes import Passes
from seg.recipe import TTA_VIEWS, Tta
from tests.seg.predict.test_passes import draw_image
from tests.small import write_model

CPU = torch.device("cpu")
Array = NDArray[np.float64]


class Slope(nn.Module):
    """A network that is another one for each view: what it says hangs on a pixel's place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.values = np.random.default_rng(seed).normal(size=(3, 4))

    def forward(self, crops: Tensor) -> Tensor:
        return torch.from_numpy(self.say(crops.double().numpy())).float()

    def say(self, crops: Array) -> Array:
        """Logits [N, 3, h, w] of crops [N, 1, h, w]."""
        down, across = np.mgrid[: crops.shape[2], : crops.shape[3]] / 10
        planes = np.stack([*np.broadcast_arrays(crops, down, across, np.ones_like(crops))], axis=1)[:, :, 0]
        return np.einsum("cp,nphw->nchw", self.values, planes)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


TURNS: dict[Tta, list[tuple[Callable[[Array], Array], Callable[[Array], Array]]]] = {
    "none": [(lambda crops: crops, lambda maps: maps)],
    "flips": [
        (lambda x, r=rows, c=columns: x[:, :, ::r, ::c], lambda x, r=rows, c=columns: x[:, :, ::r, ::c])
        for rows in (1, -1)
        for columns in (1, -1)
    ],
    "d4": [
        (
            lambda x, k=turns, m=mirror: np.rot90(x[..., ::m], k, (2, 3)),
            lambda x, k=turns, m=mirror: np.rot90(x, -k, (2, 3))[..., ::m],
        )
        for turns in range(4)
        for mirror in (1, -1)
    ],
}
"""The same views otherwise: quarter turns and a mirror, and how each is undone."""


@pytest.mark.parametrize("tta", TURNS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_mean_probability_is_that_of_a_loop_in_float64(tta: Tta, count: int) -> None:
    crops = np.random.default_rng(9).normal(size=(2, 1, 6, 10))
    models = [Slope(seed) for seed in range(count)]
    expected = np.mean(
        [undo(softmax(model.say(turn(crops)))) for model in models for turn, undo in TURNS[tta]], axis=0
    )
    found = Averaged(models, tta)(torch.from_numpy(crops).float()).double()
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=2e-6)
    np.testing.assert_allclose(found.softmax(1).numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize("tta", VIEWS)
def test_views_are_different_ones_and_are_undone(tta: Tta) -> None:
    crops = torch.arange(5 * 7).reshape(1, 1, 5, 7)
    seen = [view.see(crops) for view in VIEWS[tta]]
    assert (
        len({tuple(map(tuple, image[0, 0].tolist())) for image in seen})
        == len(TURNS[tta])
        == TTA_VIEWS[tta]
        == len(seen)
    )
    for view, image in zip(VIEWS[tta], seen, strict=True):
        assert torch.equal(view.restore(image), crops)


def test_a_network_that_is_blind_to_turning_says_what_it_says_alone() -> None:
    network = nn.Conv2d(1, 3, 1)
    crops = torch.randn(2, 1, 8, 16)
    alone, turned = network(crops).log_softmax(1), Averaged([network], "d4")(crops)
    torch.testing.assert_close(turned, alone, rtol=0, atol=1e-6)


def test_a_crop_hangs_on_no_other_in_its_pass(tmp_path: Path) -> None:
    files = [write_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(2)]
    network, card = load_averaged(files, CPU, "d4")
    assert card == load_model(files[0])[1]
    images = [draw_image(tiles, seed) for seed, tiles in enumerate((2, 3, 1))]
    passes = Passes(network, batch=4, device=CPU)
    together = list(passes.logits(images))
    apart = [logits for image in reversed(images) for logits in passes.logits([image])]
    order = [5, 2, 3, 4, 0, 1]
    assert all(torch.equal(one, together[place]) for one, place in zip(apart, order, strict=True))


def test_one_network_seen_as_it_is_stays_itself(tmp_path: Path) -> None:
    network, _ = load_averaged([write_model(tmp_path / "model.safetensors")], CPU)
    assert not isinstance(network, Averaged)
