from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import correlate2d
from torch import Tensor, nn

from seg.models.icnet import ICNet
from seg.models.icnet_gru import ConvGRU, ICNetGRU

Maps = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():  # weights come from the default generator; it is left as it was found
        torch.manual_seed(0)
        yield


@pytest.fixture
def model() -> ICNetGRU:
    return ICNetGRU(2, 1)


def convolve(maps: Maps, conv: nn.Conv2d) -> Maps:
    """Maps [outputs, h, w] from maps [inputs, h, w], zeros beyond the border."""
    assert conv.bias is not None
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    return np.stack(
        [
            sum(correlate2d(part, kernel, mode="same") for part, kernel in zip(maps, kernels, strict=True))
            + b
            for kernels, b in zip(weight, bias, strict=True)
        ]
    )


def unroll(layer: ConvGRU, frames: Maps) -> Maps:
    """The last state [width, h, w] over frames [K, inputs, h, w], one gate after the other."""
    state = np.zeros((layer.width, *frames.shape[-2:]))
    for frame in frames:
        of_frame, of_state = convolve(frame, layer.from_frame), convolve(state, layer.from_state)
        r, z, n = (slice(gate * layer.width, (gate + 1) * layer.width) for gate in range(3))
        reset = 1 / (1 + np.exp(-of_frame[r] - of_state[r]))
        update = 1 / (1 + np.exp(-of_frame[z] - of_state[z]))
        state = update * state + (1 - update) * np.tanh(of_frame[n] + reset * of_state[n])
    return state


@pytest.mark.parametrize(("k", "kernel_size"), [(1, 3), (3, 3), (4, 1), (2, 5)])
def test_the_layer_is_its_unrolled_formula(k: int, kernel_size: int) -> None:
    layer = ConvGRU(2, 3, kernel_size=kernel_size).double()
    frames = torch.randn(2, k, 2, 5, 7, dtype=torch.float64)
    found = layer(frames).detach().numpy()
    expected = np.stack([unroll(layer, window) for window in frames.numpy()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)  # states are within 1


def test_with_one_pixel_kernels_each_pixel_is_torchs_gru() -> None:
    layer, gru = ConvGRU(5, 4, kernel_size=1).double(), nn.GRU(5, 4, batch_first=True).double()
    theirs = gru.state_dict()
    layer.load_state_dict(
        {
            "from_frame.weight": theirs["weight_ih_l0"][..., None, None],
            "from_frame.bias": theirs["bias_ih_l0"],
            "from_state.weight": theirs["weight_hh_l0"][..., None, None],
            "from_state.bias": theirs["bias_hh_l0"],
        }
    )
    for height, width in [(1, 1), (2, 3)]:
        frames = torch.randn(3, 6, 5, height, width, dtype=torch.float64)
        pixels = frames.permute(0, 3, 4, 1, 2).flatten(0, 2)  # [N * h * w, K, inputs]
        expected = gru(pixels)[1][0].view(3, height, width, 4).permute(0, 3, 1, 2)
        torch.testing.assert_close(layer(frames), expected, rtol=0, atol=1e-14)


def test_parameters_are_icnets_and_the_recurrent_layers(model: ICNetGRU) -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    gates = 3 * (256 * 256 * 9 + 256)
    assert count(model) == count(ICNet(2, 1)) + 2 * gates


@torch.inference_mode()
def test_any_size_and_number_of_frames_is_predicted_at_its_size(model: ICNetGRU) -> None:
    model.eval()
    for k, height, width in [(1, 1, 1), (3, 7, 33), (2, 64, 32), (4, 65, 50)]:
        logits = model(torch.randn(2, k, 1, height, width))
        assert logits.shape == (2, 2, height, width)
        assert logits.dtype == torch.float32


def test_training_gives_three_scales_finest_first_and_scores_with_the_finest(model: ICNetGRU) -> None:
    outputs = model(torch.randn(2, 3, 1, 66, 50))
    assert len(outputs) == len(ICNetGRU.OUTPUT_WEIGHTS)
    assert [tuple(output.shape) for output in outputs] == [(2, 2, 17, 13), (2, 2, 9, 7), (2, 2, 5, 4)]


@torch.inference_mode()
def test_a_prediction_follows_from_its_window_alone(model: ICNetGRU) -> None:
    model.eval()
    windows = torch.randn(2, 3, 1, 33, 50)
    first = model(windows)
    model(torch.randn(2, 3, 1, 33, 50))
    assert torch.equal(model(windows), first)  # no state is left from the call between
    windows[1] = torch.randn(3, 1, 33, 50)
    again = model(windows)
    assert torch.equal(again[0], first[0])  # nor seen from the neighbour in the batch
    assert not torch.equal(again[1], first[1])


@torch.inference_mode()
def test_earlier_frames_and_their_order_count(model: ICNetGRU) -> None:
    model.double().eval()  # what earlier frames add to an untrained network is small, but far from rounding
    a, b, last = torch.randn(3, 1, 1, 1, 33, 50, dtype=torch.float64)
    windows = [(last,), (b, last), (a, b, last), (b, a, last)]
    logits = [model(torch.cat(frames, dim=1)) for frames in windows]
    for first, second in combinations(logits, 2):
        assert (first - second).abs().max() > 1e-8


class LastFrame(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames[:, -1]


@torch.inference_mode()
@pytest.mark.parametrize("k", [1, 3])
def test_without_memory_it_is_icnet_without_pooling_on_the_last_frame(model: ICNetGRU, k: int) -> None:
    model.set_submodule("memory", LastFrame())
    icnet = ICNet(2, 1).eval()
    icnet.context[0] = nn.Identity()
    icnet.load_state_dict(model.state_dict())
    windows = torch.randn(2, k, 1, 65, 50)
    # K frames go through the backbone as one larger batch, which may sum in another order
    torch.testing.assert_close(model.eval()(windows), icnet(windows[:, -1]))


def test_the_detail_branch_and_the_fusions_see_the_last_frame_alone(model: ICNetGRU) -> None:
    images = torch.randn(2, 5, 1, 33, 33)
    seen = {}
    for name in ("detail", "memory", "fuse_medium", "fuse_fine"):
        getattr(model, name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[-1].shape[:2], output.shape[:2])})
        )
    model(images)
    assert {name: given[0] for name, (_, given) in seen.items()} == dict.fromkeys(seen, 2)
    assert seen["memory"][0] == (2, 5)
    assert len(seen) == 4


@pytest.mark.parametrize("repeated", [False, True])
def test_one_crop_of_the_stated_minimum_trains_every_parameter(model: ICNetGRU, repeated: bool) -> None:
    images = torch.randn(1, 1 if repeated else 3, 1, 33, 20).repeat(1, 3 if repeated else 1, 1, 1, 1)
    kept = images.clone()
    torch.stack([output.square().mean() for output in model(images)]).sum().backward()
    assert torch.equal(images, kept)
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path


def test_a_window_of_one_frame_gives_every_parameter_a_gradient(model: ICNetGRU) -> None:
    torch.stack([output.square().mean() for output in model(torch.randn(2, 1, 1, 33, 33))]).sum().backward()
    without = [path for path, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []  # DDP waits for all of them; those of the state's convolution are zero


def test_weights_reload_and_the_same_seed_gives_the_same_model(model: ICNetGRU) -> None:
    torch.manual_seed(0)
    again, other = ICNetGRU(2, 1).eval(), ICNetGRU(2, 1).eval()
    images = torch.randn(1, 2, 1, 35, 40)
    with torch.inference_mode():
        logits = model.eval()(images)
        assert torch.equal(again(images), logits)
        assert not torch.equal(other(images), logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), logits)


def test_bf16_autocast_and_channels_last_train(model: ICNetGRU) -> None:
    model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 2, 1, 64, 48))
    torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
