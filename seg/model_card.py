"""What a model file says of its weights: its card, readable without torch (docs/reference/model-file.md)."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from seg.data.preprocess import IntensityRange, Statistics
from seg.errors import RequestError
from seg.files import require_model_file
from seg.plain_data import FROM_A_COPY, Plain, from_plain, parse_json, require_fields, to_plain
from seg.recipe import Preprocessing, Tiling

FORMAT_VERSION = 1
METADATA_KEY = "fringe"
CARD_DIGEST = "metadata_sha256"
"""In provenance, of all else there and in the other fields; files from before have none."""
TORCH_DTYPES = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}
"""Of a tensor's dtype in a safetensors file, as far as numpy has it: what torch calls it."""
MOST_NAMES = 6
"""A sentence that would name more names the first of them."""


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
    start_sha256: str | None = None
    """`weights_sha256` of the model file, or of torchvision's whole network, that the training began with."""
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


def find_model_file(model: Path) -> Path:
    """The model file that a path names: itself, or in a run's or a search's folder its best.safetensors.

    RequestError: a folder without one; what it holds is said.
    """
    if not model.is_dir():
        return model
    file = model / "best.safetensors"
    if not file.is_file():
        held = sorted(entry.name for entry in model.iterdir() if not entry.name.startswith("."))
        shown = ", ".join([*held[:MOST_NAMES], "..."] if len(held) > MOST_NAMES else held) or "nothing"
        raise RequestError(
            f"model {model} is a folder without best.safetensors (it holds {shown}); give that of "
            "a run that has finished an epoch, of a finished search, or a model file"
        )
    return file


def read_card(path: Path) -> ModelCard:
    """What a model file says of its weights, which are checked against it, one tensor in memory at a time.

    RequestError, naming file and field: no such file, not safetensors, not ours, another format version,
    weights that are not those that were saved, or of a dtype that numpy lacks.
    """

    def tensors(file: Any) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
        for name in sorted(file.keys()):
            dtype = file.get_slice(name).get_dtype()
            if dtype not in TORCH_DTYPES:
                raise RequestError(f"model {path}: tensor {name} is of {dtype}, which no training writes")
            array = file.get_tensor(name)
            yield name, TORCH_DTYPES[dtype], array.shape, array

    with open_model_file(path, "numpy") as (file, card):
        check_weights(path, card, hash_weights(tensors(file)))
    return card


@contextmanager
def open_model_file(path: Path, framework: str) -> Iterator[tuple[Any, ModelCard]]:
    """A model file as safetensors opens it, for arrays of numpy or of torch ("pt"), and its card.

    RequestError: as of `read_card`, but for the weights.
    """
    require_model_file(path)
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise RequestError(
                    f"model {path} has no metadata {METADATA_KEY!r}; give one that train wrote"
                )
            yield file, parse_card(path, metadata[METADATA_KEY])
    except SafetensorError as error:
        raise RequestError(
            f"model {path} is no safetensors file ({error}); give one that train wrote"
        ) from None


def hash_weights(tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Sha256, in hexadecimal, over each tensor's name, dtype as torch calls it, shape and bytes.

    tensors: these four of each, in the order of the names; the bytes as a contiguous array.
    """
    total = hashlib.sha256()
    for name, dtype, shape, values in tensors:
        total.update(f"{name}\0{dtype}\0{tuple(shape)}\n".encode())
        total.update(values)
    return total.hexdigest()


def check_weights(path: Path, card: ModelCard, sha256: str) -> None:
    """RequestError: a model file's weights are not those that its card is of. sha256: `hash_weights`."""
    if card.provenance.weights_sha256 != sha256:
        raise RequestError(
            f"model {path}: provenance.weights_sha256 does not fit its weights; the file is damaged"
        )


def card_text(card: ModelCard, weights_sha256: str) -> str:
    """A card as a model file holds it, of the weights of this hash; `parse_card` reads it."""
    plain = to_plain(card) | {"format_version": FORMAT_VERSION, "channels": card.channels}
    plain["provenance"]["weights_sha256"] = weights_sha256
    plain["provenance"][CARD_DIGEST] = card_digest(plain)
    return json.dumps(plain)


def parse_card(path: Path, text: str) -> ModelCard:
    """The card in a model file's metadata. RequestError, naming file and field: it is none, or damaged."""
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
    if digest not in (None, card_digest(values | {"format_version": version})):
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


def card_digest(values: Plain) -> str:
    """Sha256, in hexadecimal, of a card as plain data without its own digest."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
