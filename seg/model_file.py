"""The model file: weights and everything needed to use them, in one .safetensors (docs/formats.md)."""

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isclose
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from seg.data.preprocess import IntensityRange, Statistics
from seg.errors import RequestError
from seg.files import write_bytes
from seg.plain_data import FROM_A_COPY, Plain, from_plain, parse_json, require_fields, to_plain
from seg.recipe import Preprocessing, Tiling

FORMAT_VERSION = 1
METADATA_KEY = "fringe"
CARD_DIGEST = "metadata_sha256"
"""In provenance, of all else there and in the other fields; files from before have none."""
PACKAGES = ("torch", "torchvision", "ray", "numpy", "opencv-python", "pyarrow", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a model file's weights come from."""

    recipe: object = None
    """As plain data, as that of another version has other fields."""
    data_fingerprint: str | None = None
    code_version: str | None = None
    packages: dict[str, str] | None = None
    """Versions."""
    seed: int | None = None
    parent: str | None = None
    """The run or trial."""
    weights_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a model file says of its weights; plain data, stored whole."""

    architecture: str
    backbone: str | None
    classes: tuple[str, ...]
    label_map: tuple[tuple[int, int], ...]
    preprocessing: Preprocessing
    statistics: Statistics | None
    tiling: Tiling
    model_options: tuple[tuple[str, int], ...] = ()
    frames: int = 1
    """K of a sequence model, the frames it sees at once; else 1."""
    sequence: str = ""
    """The recipe's regular expression for an image's sequence."""
    intensities: tuple[IntensityRange, ...] = ()
    """What the training images span as stored, a range for each bit depth; empty: an older file."""
    class_shares: tuple[float, ...] = ()
    """Share of each class in the pixels of the training labels that are not ignored; empty: an older file."""
    validation: object = None
    """Figures on the validation images, as plain data, for whoever reads the file."""
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def channels(self) -> int:
        """Channels the model sees."""
        return self.preprocessing.channels


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write a model file, whole or not at all; the hash of the weights joins the card's provenance."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    plain = to_plain(card) | {"format_version": FORMAT_VERSION, "channels": card.channels}
    plain["provenance"]["weights_sha256"] = weights_sha256(tensors)
    plain["provenance"][CARD_DIGEST] = _card_digest(plain)
    write_bytes(path, save(tensors, {METADATA_KEY: json.dumps(plain)}))


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelCard]:
    """The network, in eval mode on `device`, and what its file says of it.

    RequestError, naming file and field: no such file, not safetensors, not ours, another format version,
    missing or extra tensors, wrong shapes, weights that are not those that were saved.
    """
    # here, as torchvision takes 5 s and 140 MiB, and readers of cards need none
    from seg.models.build import build

    tensors, card = read_model(path)
    try:
        model = build(
            card.architecture,
            backbone=card.backbone,
            num_classes=len(card.classes),
            channels=card.channels,
            options=dict(card.model_options),
        )
    except RequestError as error:
        raise RequestError(f"model {path}: {error}") from None
    _check_tensors(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.to(device).to(memory_format=torch.channels_last).eval(), card


def read_model(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and card of a model file, checked against its own hash but not against an architecture."""
    if not path.is_file():
        raise RequestError(f"model {path} is not there; give the best.safetensors of a run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise RequestError(
            f"model {path} is no safetensors file ({error}); give one that train wrote"
        ) from None
    if METADATA_KEY not in metadata:
        raise RequestError(f"model {path} has no metadata {METADATA_KEY!r}; give one that train wrote")
    card = _parse_card(path, metadata[METADATA_KEY])
    if card.provenance.weights_sha256 != weights_sha256(tensors):
        raise RequestError(
            f"model {path}: provenance.weights_sha256 does not fit its weights; the file is damaged"
        )
    return tensors, card


def weights_sha256(tensors: dict[str, Tensor]) -> str:
    """Sha256, in hexadecimal, over each tensor's name, dtype, shape and bytes, in name order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _parse_card(path: Path, text: str) -> ModelCard:
    where = f"model {path}: its metadata {METADATA_KEY!r}"
    values = require_fields({}, parse_json(text, where), where)
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise RequestError(
            f"model {path}: format_version is {version}, this fringe reads {FORMAT_VERSION}; train it again"
        )
    ours = {name: value for name, value in values.items() if name != "channels"}  # that is for others
    provenance = values.get("provenance")
    # the digest is of this file: another that has the card gets its own
    digest = provenance.pop(CARD_DIGEST, None) if isinstance(provenance, dict) else None
    try:
        card: ModelCard = from_plain(ModelCard, ours)
        _check_card(card)
    except (ValueError, re.error) as error:
        raise RequestError(
            f"model {path}: its metadata does not fit format {FORMAT_VERSION}: {error}; {FROM_A_COPY}"
        ) from None
    if digest not in (None, _card_digest(values | {"format_version": version})):
        raise RequestError(f"{where} is damaged: it does not fit its {CARD_DIGEST}; {FROM_A_COPY}")
    return card


def _check_card(card: ModelCard) -> None:
    """ValueError, re.error: values that no training writes, and that would fail far from here."""
    if not card.classes or len(set(card.classes)) < len(card.classes):
        raise ValueError(f"classes are {', '.join(card.classes) or 'none'}")
    if card.frames < 1 or any(not 0 <= number <= 255 for pair in card.label_map for number in pair):
        raise ValueError(f"frames is {card.frames}, label_map {card.label_map}")
    re.compile(card.sequence)
    shares = card.class_shares
    if shares and (
        len(shares) != len(card.classes) or min(shares) < 0 or not isclose(sum(shares), 1, rel_tol=1e-6)
    ):
        count = len(card.classes)
        raise ValueError(f"class_shares are no {count} shares from 0 to 1 that add up to 1")


def _card_digest(values: Plain) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if odd := sorted(set(wanted) ^ set(found)):
        kind = "lacks" if odd[0] in wanted else "has the unknown"
        raise RequestError(
            f"model {path} {kind} tensor {odd[0]} ({len(odd)} in all); it is of another architecture"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, wanted {tuple(tensor.shape)}"
            raise RequestError(f"model {path}: tensor {name} is {shapes}; its metadata and weights disagree")


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result; those not installed are left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # ray: seg runs without it
            continue
    return versions


@cache
def code_version() -> str:
    """Version of fringe, and the commit of the checkout it runs from ('+' where files have changed)."""
    try:
        installed = version("fringe")
    except PackageNotFoundError:  # run from a bare checkout
        installed = "uninstalled"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except OSError:  # no git on this machine: a finished epoch is worth more than its commit
        described = ""
    return f"{installed} {described.strip()}".strip()
