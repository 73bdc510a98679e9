"""A data set preprocessed once into a memory-mapped Arrow file, so that a crop costs a copy and no decode."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seg.data.images import Pixels
from seg.data.intensities import Intensity, IntensityRange, find_ranges
from seg.data.preprocess import Statistics, pool_statistics
from seg.data.sequences import fill_window, window_places

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
        "intensity": pa.list_(pa.float64()),
        "orientation": pa.int8(),
        "pixels": pa.binary(),
        "mask": pa.binary(),
        "objects": pa.binary(),
        "class_pixels": pa.list_(pa.int64()),
        "own_mask": pa.binary(),
    }
)
"""One image a record batch: pixels and mask at working size (rows x columns), own_mask at own size."""
ARRAYS = ("pixels", "mask", "objects", "own_mask")
OBJECT_STRIDE_PX = 8
"""Object pixels are kept on this grid: a crop to show one looks none up, and a pack grows by 3 % at most."""


@dataclass(frozen=True, slots=True)
class PackedImage:
    """One image of a pack; its arrays are views into the mapped file."""

    name: str
    sequence: str
    pixels: Pixels
    mask: NDArray[np.uint8]
    objects: NDArray[np.uint32]
    """Pixels of `mask` on the grid of OBJECT_STRIDE_PX that are neither class 0 nor ignored, counted row by
    row over the grid."""
    statistics: Statistics
    intensity: Intensity
    """Of the image as stored, before preprocessing."""
    orientation: int
    """As the file says the image was held, 1 to 8; never applied."""
    own_size: tuple[int, int]
    own_mask: NDArray[np.uint8] | None
    class_pixels: tuple[int, ...] | None
    """Own pixels of each class, ignored ones in none; None: the image has no label, its neighbours do."""


def pack_folder() -> Path:
    """Where packs are kept: $FRINGE_CACHE, else the user's cache folder. They may be removed at any time."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fringe"
    return Path(os.environ.get("FRINGE_CACHE", default)).absolute() / "packs"


class Pack:
    """A memory-mapped pack: `pack[i]` is image i, without a copy. Pickles as its path.

    All rows are looked up once, 50 us each, so that any thread may read them from then on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._images = [_read_row(reader.get_batch(row)) for row in range(reader.num_record_batches)]
        self.labelled = [row for row, image in enumerate(self._images) if image.class_pixels is not None]
        """Rows of the images with a label; the others are there for the windows of these."""
        self._sequences: dict[str, list[int]] = {}
        self._places: list[int] = []
        for row, image in enumerate(self._images):
            rows = self._sequences.setdefault(image.sequence, [])
            self._places.append(len(rows))
            rows.append(row)

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
        return len(self._images)

    def __getitem__(self, index: int) -> PackedImage:
        return self._images[index]

    def windows(self, frames: int, *, first: int = 0, step: int = 1) -> Iterator[list[PackedImage]]:
        """The window of every labelled image, or of each `step`-th of them from the `first`."""
        return (self.window(row, frames) for row in self.labelled[first::step])

    def images(self) -> Iterable[PackedImage]:
        """Every labelled image in turn."""
        return (self[row] for row in self.labelled)

    def pooled_statistics(self) -> Statistics:
        """Statistics over all labelled images' pixels at working size; see `pool_statistics`."""
        return pool_statistics([(image.statistics, image.mask.size) for image in self.images()])

    def intensities(self) -> tuple[IntensityRange, ...]:
        """What the labelled images span as stored, a range for each bit depth."""
        return find_ranges((image.statistics.bit_depth, image.intensity) for image in self.images())

    def class_pixels(self) -> NDArray[np.int64]:
        """Own pixels of each class in each labelled image, int64 [images, C]."""
        return np.array([image.class_pixels for image in self.images()], np.int64)

    def class_shares(self) -> tuple[float, ...]:
        """Share of each class in the labels' own pixels that are not ignored; empty: all are."""
        pixels = self.class_pixels().sum(0)
        return tuple((pixels / pixels.sum()).tolist()) if pixels.any() else ()


def _read_row(row: pa.RecordBatch) -> PackedImage:
    value = {name: row.column(name)[0] for name in SCHEMA.names}
    plain = {name: value[name].as_py() for name in SCHEMA.names if name not in ARRAYS}
    small = (plain["rows"], plain["columns"])
    channels = len(plain["mean"])
    dtype = np.uint16 if plain["bits"] == 16 else np.uint8
    own_size = (plain["height"], plain["width"])
    return PackedImage(
        name=plain["name"],
        sequence=plain["sequence"],
        pixels=_view(value["pixels"], dtype).reshape(small if channels == 1 else (*small, channels)),
        mask=_view(value["mask"], np.uint8).reshape(small),
        objects=_view(value["objects"], np.uint32),
        statistics=Statistics(tuple(plain["mean"]), tuple(plain["std"]), plain["bits"]),
        intensity=Intensity(*plain["intensity"]),
        orientation=plain["orientation"],
        own_size=own_size,
        own_mask=_view(value["own_mask"], np.uint8).reshape(own_size) if value["own_mask"].is_valid else None,
        class_pixels=None if plain["class_pixels"] is None else tuple(plain["class_pixels"]),
    )


def _view(scalar: pa.BinaryScalar, dtype: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(scalar.as_buffer(), dtype)
