"""A data set preprocessed once into a memory-mapped Arrow file, so that a crop costs a copy and no decode."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seg.ahead import map_ahead
from seg.data.background import Backgrounds
from seg.data.images import Pixels, decode_image, read_file, split_page
from seg.data.labels import IGNORE, LabelMap, decode_label
from seg.data.layout import Sample
from seg.data.preprocess import (
    Statistics,
    bit_depth,
    own_statistics,
    pool_statistics,
    preprocess,
    shrink_mask,
)
from seg.data.sequences import fill_window, window_places
from seg.errors import ImageError, RequestError
from seg.files import replacing
from seg.progress import progress
from seg.recipe import Preprocessing

FORMAT_VERSION = 2
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
        "class_pixels": pa.list_(pa.int64()),
        "own_mask": pa.binary(),
    }
)
"""One image a record batch: pixels and mask at working size (rows x columns), own_mask at own size."""
ARRAYS = ("pixels", "mask", "own_mask")


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
    class_pixels: tuple[int, ...] | None
    """Own pixels of each class, ignored ones in none; None: the image has no label, its neighbours do."""


def pack_folder() -> Path:
    """Where packs are kept: $FRINGE_CACHE, else the user's cache folder. They may be removed at any time."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fringe"
    return Path(os.environ.get("FRINGE_CACHE", default)) / "packs"


def ensure_pack(
    samples: tuple[Sample, ...],
    fingerprint: str,
    settings: PackSettings,
    backgrounds: Backgrounds | None = None,
) -> Path:
    """The pack of these samples, built if it is not there or torn. RequestError: an image or label is bad.

    fingerprint: over the samples' files and those of the frames that `backgrounds` reads. Two processes may
    build the same pack at once: both write the same bytes, the later rename wins.
    """
    identity = [FORMAT_VERSION, fingerprint, [_row_identity(sample) for sample in samples], asdict(settings)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    path = pack_folder() / f"{key}.arrow"
    if not _is_whole(path):
        _build_pack(path, samples, partial(_pack_row, settings=settings, backgrounds=backgrounds))
    return path


def _row_identity(sample: Sample) -> tuple[str, ...]:
    """What a row depends on besides the content of files: among others, which label goes with which image."""
    label = "" if sample.label is None else os.path.relpath(sample.label, sample.image.parent)
    return sample.name, label, repr(sample.decoder), sample.sequence


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with pa.memory_map(str(path)) as mapped:
            pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:  # no footer: its writer was killed, or the disk was
        return False
    return True


def _build_pack(
    path: Path, samples: tuple[Sample, ...], pack_row: Callable[[Sample], dict[str, Any]]
) -> None:
    threads = os.cpu_count() or 1
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
        ThreadPoolExecutor(threads) as pool,
        progress("packing images", len(samples)) as advance,
    ):
        for row in map_ahead(pool, pack_row, samples, 2 * threads):
            writer.write_batch(pa.RecordBatch.from_pylist([row], SCHEMA))
            advance()


def _pack_row(sample: Sample, settings: PackSettings, backgrounds: Backgrounds | None) -> dict[str, Any]:
    try:
        image = decode_image(read_file(sample.image).data, split_page(sample.name)[1])
        size = (image.shape[0], image.shape[1])
        own_mask = _read_mask(sample, size, settings)
        background = backgrounds and backgrounds.find(sample.sequence, image)
    except ImageError as error:
        raise RequestError(f"data: {sample.image}: {error}; mend or remove it") from None
    working = preprocess(image, settings.preprocessing, background)
    rows, columns = working.shape[:2]
    statistics = own_statistics(working, settings.preprocessing)
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
        "class_pixels": None if sample.label is None else _count_classes(own_mask, settings.num_classes),
    }


def _count_classes(mask: NDArray[np.uint8], num_classes: int) -> list[int]:
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[:num_classes].tolist()


def _read_mask(sample: Sample, size: tuple[int, int], settings: PackSettings) -> NDArray[np.uint8]:
    if sample.label is None:
        return np.full(size, IGNORE, np.uint8)
    decode = sample.decoder or decode_label
    return decode(sample.label.read_bytes(), sample.label, size, settings.num_classes, settings.label_map)


class Pack:
    """A memory-mapped pack: `pack[i]` is image i, without a copy. Pickles as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        plain = [self._column(name) for name in ("sequence", "class_pixels")]
        self.labelled = [row for row, counts in enumerate(plain[1]) if counts is not None]
        """Rows of the images with a label; the others are there for the windows of these."""
        self._sequences: dict[str, list[int]] = {}
        self._places: list[int] = []
        for row, sequence in enumerate(plain[0]):
            rows = self._sequences.setdefault(sequence, [])
            self._places.append(len(rows))
            rows.append(row)

    def _column(self, name: str) -> list[Any]:
        return [self._reader.get_batch(row).column(name)[0].as_py() for row in range(len(self))]

    def window(self, row: int, frames: int) -> list[PackedImage]:
        """The `frames` images of a sequence that end with a row; one of another size counts as missing."""
        last = self[row]
        if frames == 1:
            return [last]
        rows = self._sequences[last.sequence]
        images = [self[rows[place]] for place in window_places(self._places[row], frames)]
        fits = [image if image.pixels.shape == last.pixels.shape else None for image in images]
        return fill_window(fits)

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        return Pack, (self.path,)

    def __len__(self) -> int:
        return self._reader.num_record_batches

    def __getitem__(self, index: int) -> PackedImage:
        row = self._reader.get_batch(index)
        value = {name: row.column(name)[0] for name in SCHEMA.names}
        plain = {name: value[name].as_py() for name in SCHEMA.names if name not in ARRAYS}
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
            None if plain["class_pixels"] is None else tuple(plain["class_pixels"]),
        )

    def windows(self, frames: int, *, first: int = 0, step: int = 1) -> Iterator[list[PackedImage]]:
        """The window of every labelled image, or of each `step`-th of them from the `first`."""
        return (self.window(row, frames) for row in self.labelled[first::step])

    def images(self) -> Iterable[PackedImage]:
        """Every labelled image in turn."""
        return (self[row] for row in self.labelled)

    def pooled_statistics(self) -> Statistics:
        """Statistics over all labelled images' pixels at working size; see `pool_statistics`."""
        return pool_statistics([(image.statistics, image.mask.size) for image in self.images()])

    def class_pixels(self) -> NDArray[np.int64]:
        """Own pixels of each class in each labelled image, int64 [images, C]."""
        return np.array([image.class_pixels for image in self.images()], np.int64)


def _view(scalar: pa.BinaryScalar, dtype: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(scalar.as_buffer(), dtype)
