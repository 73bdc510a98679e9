"""A data set preprocessed once into a memory-mapped Arrow file, so that a crop costs a copy and no decode."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seg.ahead import map_ahead
from seg.data.images import Pixels, decode_image, read_file, split_page
from seg.data.labels import LabelMap, decode_label
from seg.data.layout import Sample
from seg.data.preprocess import (
    Statistics,
    bit_depth,
    image_statistics,
    pool_statistics,
    preprocess,
    shrink_mask,
)
from seg.errors import ImageError, RequestError
from seg.files import replacing
from seg.progress import progress
from seg.recipes import Preprocessing

FORMAT_VERSION = 1
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "sequence": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "rows": pa.int32(),
        "columns": pa.int32(),
        "bits": pa.int8(),
        "mean": pa.list_(pa.float64()),
        "std": pa.list_(pa.float64()),
        "pixels": pa.binary(),
        "mask": pa.binary(),
        "own_mask": pa.binary(),
    }
)
"""One image a record batch: pixels and mask at working size (rows x columns), own_mask at own size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSettings:
    """What a pack's content depends on, besides the files themselves."""

    preprocessing: Preprocessing
    label_map: LabelMap
    num_classes: int
    own_masks: bool
    """Keep masks at own size too: validation counts there."""


@dataclass(frozen=True, slots=True)
class PackedImage:
    """One image of a pack; its arrays are views into the mapped file."""

    name: str
    sequence: str
    pixels: Pixels
    mask: NDArray[np.uint8]
    statistics: Statistics
    own_size: tuple[int, int]
    own_mask: NDArray[np.uint8] | None


def pack_folder() -> Path:
    """Where packs are kept: $FRINGE_CACHE, else the user's cache folder. They may be removed at any time."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fringe"
    return Path(os.environ.get("FRINGE_CACHE", default)) / "packs"


def ensure_pack(samples: tuple[Sample, ...], fingerprint: str, settings: PackSettings) -> Path:
    """The pack of these samples, built if it is not there or torn. RequestError: an image or label is bad.

    Two processes may build the same pack at once: both write the same bytes, the later rename wins.
    """
    identity = [FORMAT_VERSION, fingerprint, [_row_identity(sample) for sample in samples], asdict(settings)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    path = pack_folder() / f"{key}.arrow"
    if not _is_whole(path):
        _build_pack(path, samples, settings)
    return path


def _row_identity(sample: Sample) -> tuple[str, str, str]:
    """What a row depends on besides the content of files: among others, which label goes with which image."""
    return sample.name, os.path.relpath(sample.label, sample.image.parent), sample.sequence


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with pa.memory_map(str(path)) as mapped:
            pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:  # no footer: its writer was killed, or the disk was
        return False
    return True


def _build_pack(path: Path, samples: tuple[Sample, ...], settings: PackSettings) -> None:
    threads = os.cpu_count() or 1
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
        ThreadPoolExecutor(threads) as pool,
        progress("packing images", len(samples)) as advance,
    ):
        for row in map_ahead(pool, partial(_pack_row, settings=settings), samples, 2 * threads):
            writer.write_batch(pa.RecordBatch.from_pylist([row], SCHEMA))
            advance()


def _pack_row(sample: Sample, settings: PackSettings) -> dict[str, Any]:
    try:
        image = decode_image(read_file(sample.image).data, split_page(sample.name)[1])
        size = (image.shape[0], image.shape[1])
        label = sample.label.read_bytes()
        own_mask = decode_label(label, sample.label, size, settings.num_classes, settings.label_map)
    except ImageError as error:
        raise RequestError(f"data: {sample.image}: {error}; mend or remove it") from None
    working = preprocess(image, settings.preprocessing)
    rows, columns = working.shape[:2]
    statistics = image_statistics(working)
    return {
        "name": sample.name,
        "sequence": sample.sequence,
        "height": size[0],
        "width": size[1],
        "rows": rows,
        "columns": columns,
        "bits": bit_depth(working),
        "mean": statistics.mean,
        "std": statistics.std,
        "pixels": working.tobytes(),
        "mask": shrink_mask(own_mask, (rows, columns)).tobytes(),
        "own_mask": own_mask.tobytes() if settings.own_masks else None,
    }


class Pack:
    """A memory-mapped pack: `pack[i]` is image i, without a copy. Pickles as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        return Pack, (self.path,)

    def __len__(self) -> int:
        return self._reader.num_record_batches

    def __getitem__(self, index: int) -> PackedImage:
        row = self._reader.get_batch(index)
        value = {name: row.column(name)[0] for name in SCHEMA.names}
        plain = {name: value[name].as_py() for name in SCHEMA.names[:9]}  # all but the arrays
        small = (plain["rows"], plain["columns"])
        channels = len(plain["mean"])
        dtype = np.uint16 if plain["bits"] == 16 else np.uint8
        own_size = (plain["height"], plain["width"])
        return PackedImage(
            plain["name"],
            plain["sequence"],
            _view(value["pixels"], dtype).reshape(small if channels == 1 else (*small, channels)),
            _view(value["mask"], np.uint8).reshape(small),
            Statistics(tuple(plain["mean"]), tuple(plain["std"]), plain["bits"]),
            own_size,
            _view(value["own_mask"], np.uint8).reshape(own_size) if value["own_mask"].is_valid else None,
        )

    def images(self) -> Iterable[PackedImage]:
        """Every image in turn."""
        return (self[index] for index in range(len(self)))

    def pooled_statistics(self) -> Statistics:
        """Statistics over all pixels at working size; see `pool_statistics`."""
        return pool_statistics([(image.statistics, image.mask.size) for image in self.images()])


def _view(scalar: pa.BinaryScalar, dtype: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(scalar.as_buffer(), dtype)
