import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from seg.errors import RequestError
from seg.models.backbones import Features, build_features
from seg.models.build import build
from seg.models.pretrained import fill_backbone, read_state

State = dict[str, Any]
MOBILENET = torchvision.models.MobileNet_V2_Weights.DEFAULT.url


@pytest.fixture(scope="module")
def drawn() -> State:
    """All of a network's weights, classifier and all, none of them as a network starts."""
    network = torchvision.models.mobilenet_v2(weights=None)
    return {name: torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in network.state_dict().items()}


@pytest.fixture
def state(drawn: State) -> State:
    return dict(drawn)


def backbone_of(state: State) -> State:
    names = [name for name in state if name.startswith("features.")]
    return {name.removeprefix("features."): state[name] for name in names}


def assert_filled(features: Features, expected: State) -> None:
    for name, tensor in features.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, expected[name]), name


def save(state: State, path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def fill(weights: str, *, channels: int = 3, device: str = "cpu") -> Features:
    """A backbone with weights; on "meta" they are checked as everywhere."""
    with torch.device(device):
        features = build_features("mobilenet_v2", channels)
        fill_backbone(features, weights)
    return features


def refusal(weights: str, *, channels: int = 3) -> str:
    with pytest.raises(RequestError) as raised:
        fill(weights, channels=channels, device="meta")
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["unet", "fpn", "icnet", "icnet-gru"])
def test_a_real_file_fills_the_backbone_alone(name: str, shared_data: Path) -> None:
    file = shared_data / "weights/mobilenet_v2_features.pth"
    torch.manual_seed(1)
    model = build(name, backbone="mobilenet_v2", num_classes=2, channels=3, weights=str(file))
    assert_filled(model.features, backbone_of(torch.load(file, weights_only=True)))
    torch.manual_seed(1)
    plain = build(name, backbone="mobilenet_v2", num_classes=2, channels=3).state_dict()
    for path, tensor in model.state_dict().items():
        if not path.startswith("features."):
            assert torch.equal(tensor, plain[path]), path


@torch.inference_mode()
def test_one_channel_gives_what_it_gives_three_times_over(shared_data: Path) -> None:
    file = str(shared_data / "weights/mobilenet_v2_features.pth")
    one, three = (fill(file, channels=channels).eval() for channels in (1, 3))
    gray = torch.randn(2, 1, 65, 50)
    for found, expected in zip(one(gray), three(gray.repeat(1, 3, 1, 1)), strict=True):
        # float32 sums in another order: some rounding of the largest value
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.long)])
def test_a_residual_network_is_filled_from_torchvisions_names(name: str, tmp_path: Path) -> None:
    network = torchvision.models.get_model(name, weights=None).state_dict()
    file = save(network, tmp_path / "all.pth")
    assert_filled(build("unet", backbone=name, num_classes=2, channels=3, weights=file).features, network)
    filled = build("fcn", backbone=name, num_classes=2, channels=1, weights=file).features.conv1.weight
    assert torch.equal(filled, network["conv1.weight"].sum(1, keepdim=True))


def test_vgg_is_filled_from_torchvisions_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.models.fcn32.FCN32.HEAD_WIDTH", 16)
    own = build("fcn32", num_classes=2, channels=3).features.state_dict()
    file = save({f"features.{name}": tensor for name, tensor in own.items()}, tmp_path / "vgg.pth")
    assert_filled(build("fcn32", num_classes=2, channels=3, weights=file).features, own)


FORMS: dict[str, Callable[[State], State]] = {
    "as torchvision's": lambda state: state,
    "without classifier": lambda state: {k: v for k, v in state.items() if not k.startswith("classifier")},
    "without prefix": lambda state: {k.removeprefix("features."): v for k, v in state.items()},
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("tracked")},
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_may_come_in_several_forms(form: str, suffix: str, state: State, tmp_path: Path) -> None:
    file = save(FORMS[form](state), tmp_path / f"weights{suffix}")
    assert_filled(fill(file), backbone_of(state))


@pytest.mark.parametrize("name", ["weights.pt", "weights.PTH", "weights.SafeTensors"])
def test_a_suffix_is_known_in_any_case(name: str, tmp_path: Path) -> None:
    state, file = {"a": torch.ones(2)}, tmp_path / name
    save_file(state, file) if name.endswith("Tensors") else torch.save(state, file)
    assert read_state(file)["a"].tolist() == [1, 1]


def lose(state: State) -> State:
    del state["features.7.conv.0.0.weight"]
    return state


def reshape(state: State) -> State:
    state["features.7.conv.0.0.weight"] = torch.zeros(192, 32, 3, 3)
    return state


def narrow(state: State) -> State:
    state["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
    return state


def extend(state: State) -> State:
    return state | {"features.19.0.weight": torch.zeros(2), "head.weight": torch.zeros(3)}


def wrap(state: State) -> State:
    return {"state_dict": state, "epoch": 3}


ADVICE = "give torchvision's of mobilenet_v2"
MISFITS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a tensor is missing": (
        lose,
        f"tensor features.7.conv.0.0.weight is missing (1 in all); {ADVICE}",
    ),
    "a shape is wrong": (
        reshape,
        f"tensor features.7.conv.0.0.weight is (192, 32, 3, 3), wanted (192, 32, 1, 1); {ADVICE}",
    ),
    "the first has 1 channel": (
        narrow,
        f"tensor features.0.0.weight is (32, 1, 3, 3), wanted (32, 3, 3, 3); {ADVICE}",
    ),
    "tensors are unknown": (extend, f"tensor 19.0.weight is unknown (2 in all); {ADVICE}"),
    "a checkpoint": (wrap, "'state_dict' is a dict, not a tensor; save the state dict"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", MISFITS)
def test_a_file_that_does_not_fit_is_refused_by_tensor(
    kind: str, channels: int, state: State, tmp_path: Path
) -> None:
    change, text = MISFITS[kind]
    file = save(change(state), tmp_path / "weights.pth")
    assert refusal(file, channels=channels) == f"weights {file}: {text}"


def test_weights_of_another_network_are_refused(shared_data: Path, tmp_path: Path) -> None:
    squeezenet = str(shared_data / "weights/squeezenet1_1.pth")
    text = "tensor features.0.0.weight is missing (260 in all); give torchvision's of mobilenet_v2"
    assert refusal(squeezenet) == f"weights {squeezenet}: {text}"
    deeper = save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    with torch.device("meta"), pytest.raises(RequestError) as raised:
        fill_backbone(build_features("resnet18", 3), deeper)
    text = "tensor layer1.2.conv1.weight is unknown (80 in all); give torchvision's of resnet18"
    assert str(raised.value) == f"weights {deeper}: {text}"


class Bomb:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_code_is_refused_unread(tmp_path: Path) -> None:
    file, folder = tmp_path / "weights.pth", tmp_path / "made"
    text = (
        "cannot be read as tensors by name (UnpicklingError); give a state dict as torchvision's, saved whole"
    )
    torch.save({"features.0.0.weight": Bomb(folder)}, file)
    assert refusal(str(file)) == f"weights {file} {text}"
    file.write_bytes(pickle.dumps(Bomb(folder)))
    assert refusal(str(file)) == f"weights {file} {text}"
    assert not folder.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK", b"not weights\n", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_such_thing_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    assert refusal(str(file)).startswith(f"weights {file}")


def test_a_list_of_tensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save([torch.zeros(1)], file)
    assert refusal(str(file)) == f"weights {file} holds a list, not tensors by name"


def damage(whole: bytes) -> Iterator[bytes]:
    """Cut short, and with single bytes changed."""
    for k in range(0, len(whole), len(whole) // 40):
        yield whole[:k]
        yield whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    file, refused = tmp_path / f"weights{suffix}", 0
    save({"a.weight": torch.zeros(3), "a.bias": torch.ones(2)}, file)
    for content in damage(file.read_bytes()):
        file.write_bytes(content)
        try:
            assert all(isinstance(tensor, Tensor) for tensor in read_state(file).values())
        except RequestError:
            refused += 1
    assert refused >= 40  # all that are cut short


@pytest.mark.parametrize("name", ["imagnet", "weights.pth", "folder.pth", "notes.txt"])
def test_a_path_that_leads_nowhere_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.pth").mkdir()
    Path("notes.txt").write_text("")
    assert refusal(name) == (
        f"weights {name} is neither none nor imagenet nor a file that is there and ends in "
        ".pth or .pt or .safetensors; check the path"
    )


def test_another_number_of_channels_is_refused() -> None:
    text = "weights imagenet fit 1 or 3 channels, not 2; use weights none"
    assert refusal("imagenet", channels=2) == text


@pytest.mark.parametrize("name", ["pyramid-fcn", "unet-classic"])
def test_a_network_without_a_torchvision_backbone_takes_no_weights(name: str) -> None:
    with torch.device("meta"), pytest.raises(RequestError) as raised:
        build(name, num_classes=2, channels=3, weights="imagenet")
    assert str(raised.value) == f"{name} has no pretrained weights (imagenet); use weights none"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_on_the_meta_device_a_good_file_passes(suffix: str, state: State, tmp_path: Path) -> None:
    for channels in (1, 3):
        filled = fill(save(state, tmp_path / f"good{suffix}"), channels=channels, device="meta")
        assert all(parameter.is_meta for parameter in filled.parameters())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What torch.hub downloads, by address: bytes, or an error."""
    answers: dict[str, Any] = {}

    def answer(url: str, target: str, *_: object, **__: object) -> None:
        if isinstance(answers[url], Exception):
            raise answers[url]
        Path(target).write_bytes(answers[url])

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", answer)
    return answers


def test_imagenet_is_torchvisions_best_download(
    server: dict[str, Any], state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    server[MOBILENET] = buffer.getvalue()
    assert_filled(fill("imagenet"), backbone_of(state))
    server.clear()
    assert_filled(fill("imagenet"), backbone_of(state))  # from its cache
    said = capsys.readouterr()
    assert said.out == ""  # the summary line's
    assert MOBILENET in said.err


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (URLError("no route to host"), "<urlopen error no route to host>"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(), "ConnectionResetError"),
        (RuntimeError('invalid hash value (expected "aa", got "bb")\n'), "invalid hash value (expected "),
        (b"<html>", ""),
    ],
)
def test_a_failed_download_is_one_sentence(
    server: dict[str, Any], answer: Exception | bytes, reason: str
) -> None:
    server[MOBILENET] = answer
    text = refusal("imagenet")
    assert text.startswith(f"weights imagenet: {MOBILENET} cannot be fetched ({reason}")
    assert text.endswith(
        "); fetch it elsewhere and give its path, `weights=FILE`, or begin with chance, `weights=none`"
    )
