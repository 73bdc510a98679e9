from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seg.models.unet_classic import HalveAndJoin, UNetClassic


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():  # weights come from the default generator; it is left as it was found
        torch.manual_seed(0)
        yield


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_papers_widths() -> None:
    def twice(inputs: int, width: int) -> int:  # two 3x3 convolutions, batch norm's two a channel each
        return 9 * width * (inputs + width) + 4 * width

    down = twice(3, 64) + twice(64, 128) + twice(128, 256) + twice(256, 512) + twice(512, 1024)
    up = twice(1024, 512) + twice(512, 256) + twice(256, 128) + twice(128, 64)
    halving = 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64
    assert count_parameters(UNetClassic(2, 3)) == down + up + halving + 2 * 64 + 2


def test_learned_upsampling_would_give_the_usual_unet_with_batch_norm() -> None:
    """Its 31 037 698 parameters are widely printed; its halvings are 2x2 kernels with a bias, ours 1x1."""
    halvings = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    instead = sum(3 * inputs * outputs + outputs for inputs, outputs in halvings)
    assert count_parameters(UNetClassic(2, 3)) + instead == 31_037_698


def test_levels_have_the_widths_and_strides_of_the_paper() -> None:
    model, shapes = UNetClassic(2, 1).eval(), []
    for level in [*model.features, *model.decoder]:
        level.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        model(torch.randn(1, 1, 32, 48))
    down = [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (1024, 2, 3)]
    assert shapes == down + down[-2::-1]


def test_halving_before_upsampling_is_halving_after_it() -> None:
    block = HalveAndJoin(8)
    deep, joined = torch.randn(2, 8, 5, 3), []
    block.convolve.register_forward_hook(lambda _, inputs, output: joined.append(inputs[0]))
    block(deep, torch.zeros(2, 4, 9, 6))
    after = block.halve(F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False))
    torch.testing.assert_close(joined[0][:, 4:], after[..., :9, :6])


def test_any_size_is_predicted_at_its_size() -> None:
    model = UNetClassic(3, 1).eval()
    for height, width in [(1, 1), (7, 33), (16, 24), (33, 50)]:
        with torch.inference_mode():
            logits = model(torch.randn(2, 1, height, width))
        assert logits.shape == (2, 3, height, width)
        assert logits.dtype == torch.float32


def test_pixels_far_from_the_border_do_not_notice_where_an_odd_image_ends() -> None:
    model = UNetClassic(2, 1).eval()
    images = torch.randn(1, 1, 8, 224)
    with torch.inference_mode():
        whole, cut = (
            model(images)[..., :64],
            model(images[..., :201])[..., :64],
        )  # 201: a multiple of no stride
    # the same sums in another order: some rounding of the largest value
    assert (whole - cut).abs().max() <= 1e-5 * whole.abs().max()


def test_one_crop_of_the_stated_minimum_trains_every_parameter() -> None:
    model = UNetClassic(2, 1)
    images = torch.randn(1, 1, 17, 9)
    kept = images.clone()
    model(images).square().mean().backward()
    assert torch.equal(images, kept)
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().max() > 0, path
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 1, 16, 16))


def test_weights_reload_and_the_same_seed_gives_the_same_model() -> None:
    model = UNetClassic(2, 1).eval()
    torch.manual_seed(0)
    again = UNetClassic(2, 1).eval()
    other = UNetClassic(2, 1).eval()
    images = torch.randn(1, 1, 19, 18)
    with torch.inference_mode():
        logits = model(images)
        assert torch.equal(again(images), logits)
        assert not torch.equal(other(images), logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), logits)


def test_bf16_autocast_and_channels_last_train() -> None:
    model = UNetClassic(2, 3).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 16, 17).to(memory_format=torch.channels_last))
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
