import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from seg.data.preprocess import IntensityRange, Statistics
from seg.errors import RequestError
from seg.model_card import TORCH_DTYPES, ModelCard, Provenance, find_model_file, read_card
from seg.model_file import load_model, read_model, save_model, weights_sha256
from seg.models.build import build
from seg.recipe import Preprocessing, Tiling

CARD = ModelCard(
    architecture="unet",
    backbone="mobilenet_v2",
    classes=("background", "cell", "ä"),
    label_map=((11, 255), (1, 2)),
    preprocessing=Preprocessing(channels=3, shrink=2.5, normalisation="fitted"),
    intensities=(IntensityRange(8, 1.5, 9.25, 0.0, 255.0), IntensityRange(16, 900.0, 1e4, 3.0, 65535.0)),
    class_shares=(0.9, 0.1 - 1 / 300, 1 / 300),
    statistics=Statistics((1.5, 2.25, 1 / 3), (0.1, 0.2, 0.3), 16),
    tiling=Tiling(crop_px=(96, 64), halo_px=16),
    validation={"miou": 0.5, "confusion": [[1, 2, 3]] * 3, "lr": 1e-3},
    provenance=Provenance(seed=3, recipe={"name": "x"}, parent="run"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that nobody changes."""
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(path, make_model(), CARD)
    return path


@pytest.fixture
def model_file(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(saved, tmp_path))


def make_model() -> torch.nn.Module:
    return build("unet", backbone="mobilenet_v2", num_classes=3, channels=3)


def read_both(path: Path) -> ModelCard:
    """The card, read with the weights and by who has no torch: both say the same, also of what is wrong."""
    found: list[ModelCard | str] = []
    for read in (lambda file: read_model(file)[1], read_card):
        try:
            found.append(read(path))
        except RequestError as error:
            found.append(str(error))
    assert found[0] == found[1]
    if isinstance(found[0], str):
        raise RequestError(found[0])
    return found[0]


def test_a_model_file_gives_back_weights_and_card(tmp_path: Path) -> None:
    model = make_model().to(memory_format=torch.channels_last).eval()
    path = tmp_path / "runs" / "m.safetensors"
    save_model(path, model, CARD)
    loaded, card = load_model(path)
    written = replace(CARD.provenance, weights_sha256=weights_sha256(model.state_dict()))
    assert card == replace(CARD, provenance=written)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], found) for name, found in loaded.state_dict().items())
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_nan_in_a_card_becomes_null(tmp_path: Path) -> None:
    save_model(tmp_path / "m", make_model(), replace(CARD, validation={"miou": float("nan")}))
    assert read_both(tmp_path / "m").validation == {"miou": None}


def test_other_readers_find_version_channels_and_frames_in_the_metadata(model_file: Path) -> None:
    with safe_open(model_file, framework="pt") as file:
        values = json.loads(file.metadata()["fringe"])
    assert (values["format_version"], values["channels"], values["frames"]) == (1, 3, 1)


Edit = Callable[[dict[str, Tensor], dict[str, Any]], object]


def rewrite(path: Path, edit: Edit, **metadata: str) -> None:
    """Change a model file's tensors or card, and its hash with them, as another program would write it."""
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["fringe"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    edit(tensors, values)
    if "provenance" in values:
        values["provenance"].pop("metadata_sha256", None)
        values["provenance"]["weights_sha256"] = weights_sha256(tensors)
    save_file(tensors, path, metadata or {"fringe": json.dumps(values)})


def add_tensor(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    tensors["extra.weight"] = torch.zeros(2)


def change_shape(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    tensors["score.weight"] = torch.zeros(3, 32, 3, 3)


EDITS: dict[str, tuple[Edit, str]] = {
    "another version": (
        lambda _, card: card.update(format_version=2),
        "format_version is 2, this fringe reads 1",
    ),
    "no version": (lambda _, card: card.pop("format_version"), "format_version is None"),
    "a field is missing": (
        lambda _, card: card.pop("tiling"),
        "does not fit format 1: it has no field tiling",
    ),
    "a field is new": (
        lambda _, card: card.update(new=1),
        "does not fit format 1: it has the unknown field new",
    ),
    "a field is wrong": (lambda _, card: card["tiling"].update(halo_px=7), "format 1: .*halo_px is 7"),
    "an architecture is unknown": (
        lambda _, card: card.update(architecture="unett"),
        "unknown architecture 'unett'; did you mean unet",
    ),
    "a tensor is missing": (
        lambda tensors, _: tensors.pop("score.weight"),
        r"lacks tensor score.weight \(1 in all\)",
    ),
    "a tensor is extra": (add_tensor, r"has the unknown tensor extra.weight \(1 in all\)"),
    "a shape is wrong": (
        change_shape,
        r"score.weight is \(3, 32, 3, 3\), wanted \(3, 32, 1, 1\)",
    ),
    "classes are missing": (
        lambda _, card: card.update(classes=["a", "b"], class_shares=[0.5, 0.5]),
        r"tensor score.weight is \(3, 32, 1, 1\), wanted \(2, 32, 1, 1\)",
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_file_that_does_not_fit_is_refused_by_field(model_file: Path, kind: str) -> None:
    edit, text = EDITS[kind]
    rewrite(model_file, edit)
    with pytest.raises(RequestError, match=f"model {model_file}.*{text}"):
        load_model(model_file)


def test_a_rewritten_file_with_nothing_changed_loads(model_file: Path) -> None:
    rewrite(model_file, lambda tensors, card: None)
    load_model(model_file)


@pytest.mark.parametrize("field", ["intensities", "class_shares"])
def test_a_file_written_before_a_field_was_kept_knows_nothing_of_it(model_file: Path, field: str) -> None:
    rewrite(model_file, lambda tensors, card: card.pop(field))
    assert getattr(load_model(model_file)[1], field) == ()


@pytest.mark.parametrize(
    "shares",
    [[0.5, 0.5], [0.9, 0.1, 0.1], [1.5, -0.5, 0], ["1", 0, 0], [True, 0, 0], [float("nan")] * 3, 1, None],
)
def test_class_shares_that_are_none_are_refused(model_file: Path, shares: Any) -> None:
    rewrite(model_file, lambda tensors, card: card.update(class_shares=shares))
    with pytest.raises(RequestError, match=r"does not fit format 1: class_shares"):
        load_model(model_file)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"other": "1"}, "has no metadata 'fringe'"),
        ({"fringe": "{"}, "its metadata 'fringe' is damaged: it is no JSON"),
        ({"fringe": "[" * 99_999}, "its metadata 'fringe' is damaged: it is no JSON"),
        ({"fringe": "3"}, "its metadata 'fringe' is damaged: it holds 3, wanted an object"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(model_file: Path, metadata: dict[str, str], text: str) -> None:
    rewrite(model_file, lambda tensors, card: None, **metadata)
    with pytest.raises(RequestError, match=f"model {model_file}.*{text}"):
        read_both(model_file)


@pytest.mark.parametrize(
    "content", [b"", b"text\n" * 99, b"\x80\x02}q\x00."], ids=["empty", "text", "pickle"]
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(
        RequestError, match=f"model {path} is no safetensors file .*give one that train wrote"
    ):
        read_both(path)


def test_a_file_cut_short_is_refused(model_file: Path) -> None:
    model_file.write_bytes(model_file.read_bytes()[:-100])
    with pytest.raises(RequestError, match="is no safetensors file"):
        read_both(model_file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none.safetensors is not there; give the best.safetensors"):
        read_both(tmp_path / "none.safetensors")


def test_a_folder_stands_for_the_best_model_file_in_it_or_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=rf"model {tmp_path} is a folder .* \(it holds nothing\); give that"
    ):
        find_model_file(tmp_path)
    for name in ("run.json", "last", ".hidden", *"abcdef"):
        (tmp_path / name).mkdir()
    with pytest.raises(RequestError, match=r"\(it holds a, b, c, d, e, f, ...\); give that of"):
        find_model_file(tmp_path)
    file = tmp_path / "best.safetensors"
    file.touch()
    assert find_model_file(tmp_path) == find_model_file(file) == file
    assert find_model_file(tmp_path / "none") == tmp_path / "none"  # which is said by who reads it


@pytest.mark.parametrize("place", [-1, -100_000])
def test_one_flipped_bit_of_a_weight_is_refused(model_file: Path, place: int) -> None:
    content = bytearray(model_file.read_bytes())
    content[place] ^= 1
    model_file.write_bytes(content)
    with pytest.raises(RequestError, match=f"model {model_file}: provenance.weights_sha256 .*is damaged"):
        read_both(model_file)


@pytest.mark.parametrize("kind", [*TORCH_DTYPES.values(), "torch.bfloat16"])
def test_weights_of_every_kind_are_checked_without_torch(kind: str, model_file: Path, tmp_path: Path) -> None:
    dtype, path = getattr(torch, kind.removeprefix("torch.")), tmp_path / "small.safetensors"
    tensors = {"w": torch.tensor([[0, 1, 3], [1, 0, 2]]).to(dtype), "b": torch.ones((), dtype=dtype)}
    card = stored_card(model_file)
    del card["provenance"]["metadata_sha256"]
    card["provenance"]["weights_sha256"] = weights_sha256(tensors)
    save_file(tensors, path, {"fringe": json.dumps(card)})
    assert read_model(path)[1].provenance.weights_sha256 == weights_sha256(tensors)
    if kind in TORCH_DTYPES.values():
        assert read_card(path) == read_model(path)[1]
    else:
        with pytest.raises(RequestError, match=r"tensor . is of BF16, which no training writes$"):
            read_card(path)


WRONG = (None, 7, -1, 1.5, "x", True, [], ["x"], [[1]], {}, {"x": 1}, [None], 10**30)


def write_small(path: Path, card: dict[str, Any]) -> None:
    save_file({"w": torch.zeros(2)}, path, {"fringe": json.dumps(card)})


def stored_card(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["fringe"])


def test_a_card_with_any_field_of_another_type_is_refused_or_read(model_file: Path, tmp_path: Path) -> None:
    card, path = stored_card(model_file), tmp_path / "small.safetensors"
    card["provenance"]["weights_sha256"] = weights_sha256({"w": torch.zeros(2)})
    del card["provenance"]["metadata_sha256"]
    parts = [card, *(part for part in card.values() if isinstance(part, dict))]
    for fields in parts:
        for name, before in list(fields.items()):
            for wrong in WRONG:
                fields[name] = wrong
                write_small(path, card)
                with suppress(RequestError):  # nothing else is raised
                    found = read_both(path)
                    assert isinstance(found.classes, tuple)
                    assert isinstance(found.tiling.halo_px, int)
            fields[name] = before


def test_every_byte_of_a_card_that_changed_is_noticed(model_file: Path, tmp_path: Path) -> None:
    rewrite(model_file, lambda tensors, card: None)
    card, path = stored_card(model_file), tmp_path / "small.safetensors"
    card["provenance"]["weights_sha256"] = weights_sha256({"w": torch.zeros(2)})
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    card["provenance"]["metadata_sha256"] = digest
    write_small(path, card)
    wanted = read_both(path)
    whole, header = path.read_bytes(), path.stat().st_size - 8
    random, equal = np.random.default_rng(0), 0
    for place, bit in zip(random.integers(0, header, 400), random.integers(0, 8, 400), strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with suppress(RequestError):  # nothing else is raised
            found = read_both(path)  # of 1e-05 the E may be large; or the hash has another name
            assert found == wanted
            equal += 1
    assert equal < 10
