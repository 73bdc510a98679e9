"""A data set preprocessed once into a memory-mapped Arrow file, so that a crop costs a copy and no decode."""

import hashlib
import json
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seg.data import preprocess
from seg.data.background import Backgrounds, FrameFile
from seg.data.frames import Frame, FrameReader, fill_clip
from seg.data.images import READER, ImageFiles, Pixels
from seg.data.labels import IGNORE, LabelMap
from seg.data.layout import Sample
from seg.data.listing import clip_places
from seg.data.reading_memory import READING_BYTES, ReadingMemory, Turn, announced_bytes
from seg.errors import DamagedFile, ImageError, RequestError
from seg.recipe import Preprocessing
from seg.threads import map_ahead

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
        "checksums": pa.list_(pa.int64()),
    }
)
"""One image a record batch: pixels and mask at working size (rows x columns), own_mask at own size."""
ARRAYS = ("pixels", "mask", "objects", "own_mask")
"""The columns whose bytes are looked at where they lie; `checksums` has the CRC-32 of each."""
OBJECT_STRIDE_PX = 8
"""Object pixels are kept on this grid: a crop to show one looks none up, and a pack grows by 3 % at most."""
FORMAT_VERSION = 6
"""Of a pack's rows and of how their pixels are made; packs of another one are not used any more."""
THREAD_BYTES = 2**28
"""What the images in work may take for each thread, on machines where that is more than READING_BYTES."""
ROW_COPIES = 2
"""Of a row's bytes that exist beside its arrays: bytes, and the record batch."""
HEADERS_READ = 256
"""Of how many images, spread over all, the size says how much room a pack takes."""


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
    statistics: preprocess.Statistics
    intensity: preprocess.Intensity
    """Of the image as stored, before preprocessing."""
    orientation: int
    """As the file says the image was held, 1 to 8; never applied."""
    own_size: tuple[int, int]
    own_mask: NDArray[np.uint8] | None
    class_pixels: tuple[int, ...] | None
    """Own pixels of each class, ignored ones in none; None: the image has no label, its neighbours do."""
    checksums: tuple[int, ...]
    """CRC-32 of each of `arrays`, as they were written."""

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """In the order of ARRAYS; an own mask that is not kept has no elements."""
        return self.pixels, self.mask, self.objects, _NOTHING if self.own_mask is None else self.own_mask

    def frame(self, fitted: preprocess.Statistics | None) -> Frame:
        """The image as a model sees it. fitted: statistics to use instead of the image's own."""
        return self.pixels, fitted or self.statistics


_NOTHING = np.empty(0, np.uint8)


def pack_folder() -> Path:
    """Where packs are kept: $FRINGE_CACHE, else the user's cache folder. They may be removed at any time."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fringe"
    return Path(os.environ.get("FRINGE_CACHE", default)).absolute() / "packs"


class Pack:
    """A memory-mapped pack: `pack[i]` is image i, without a copy. Pickles as its path.

    All rows are looked up once, 50 us each, so that any thread may read them from then on. The arrays of one
    are compared with their checksums when it is first asked for: 9 ms for a frame of 3072 x 3072.
    """

    def __init__(self, path: Path) -> None:
        """path: of a pack that `ensure_pack` vouches for: Arrow takes the file's own word for its layout."""
        self.path = path
        self._file = pa.memory_map(str(path)).read_buffer()
        reader = pa.ipc.open_file(self._file)
        self._images = [_read_row(reader.get_batch(row)) for row in range(reader.num_record_batches)]
        self.labelled = [row for row, image in enumerate(self._images) if image.class_pixels is not None]
        """Rows of the images with a label; the others are there for the clips of these."""
        self._compared = bytearray(len(self._images))
        self._sequences: dict[str, list[int]] = {}
        self._places: list[int] = []
        for row, image in enumerate(self._images):
            rows = self._sequences.setdefault(image.sequence, [])
            self._places.append(len(rows))
            rows.append(row)

    def clip(self, row: int, frames: int) -> list[PackedImage]:
        """The `frames` images of a sequence that end with a row; one of another size counts as missing."""
        last = self[row]
        rows = self._sequences[last.sequence]
        earlier = [self[rows[place]] for place in clip_places(self._places[row], frames)[:-1]]
        return fill_clip(earlier, last, lambda image: image.pixels)

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        return Pack, (self.path,)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> PackedImage:
        """DamagedFile: its arrays are not what was written."""
        image = self._images[index]
        if not self._compared[index]:  # threads that come at the same time all compare
            self._compare(image)
            self._compared[index] = True
        return image

    def _compare(self, image: PackedImage) -> None:
        for name, array, checksum in zip(ARRAYS, image.arrays, image.checksums, strict=True):
            if zlib.crc32(array.data) != checksum:
                with suppress(OSError):  # others keep this cache; the sentence is what matters
                    self.path.touch()  # so that whoever opens it next reads all of it
                raise DamagedFile(
                    f"pack {self.path}: the {name} of {image.name} are not what was written there; run the "
                    "command again, which looks through the pack and builds it anew"
                )

    def array_spans(self) -> Iterator[tuple[int, int]]:
        """First byte in the file, and number of bytes, of each array that has any, in the file's order."""
        for array in (array for image in self._images for array in image.arrays if array.size):
            yield array.__array_interface__["data"][0] - self._file.address, array.nbytes

    def clips(self, frames: int, *, first: int = 0, step: int = 1) -> Iterator[list[PackedImage]]:
        """The clip of every labelled image, or of each `step`-th of them from the `first`."""
        return (self.clip(row, frames) for row in self.labelled[first::step])

    def images(self) -> Iterable[PackedImage]:
        """Every labelled image in turn, for what is known of it; its arrays are not compared."""
        return (self._images[row] for row in self.labelled)

    def pooled_statistics(self) -> preprocess.Statistics:
        """Statistics over all labelled images' pixels at working size; see `pool_statistics`."""
        return preprocess.pool_statistics([(image.statistics, image.mask.size) for image in self.images()])

    def intensities(self) -> tuple[preprocess.IntensityRange, ...]:
        """What the labelled images span as stored, a range for each bit depth."""
        found = ((image.statistics.bit_depth, image.intensity) for image in self.images())
        return preprocess.find_ranges(found)

    def class_pixels(self) -> NDArray[np.int64]:
        """Own pixels of each class in each labelled image, int64 [images, C]."""
        return np.array([image.class_pixels for image in self.images()], np.int64)

    def class_shares(self) -> tuple[float, ...]:
        """Share of each class in the labels' own pixels that are not ignored; empty: all are."""
        pixels = self.class_pixels().sum(0)
        return tuple((pixels / pixels.sum()).tolist()) if pixels.any() else ()


def _read_row(row: pa.RecordBatch) -> PackedImage:
    plain = {name: row.column(name)[0].as_py() for name in SCHEMA.names if name not in ARRAYS}
    small = (plain["rows"], plain["columns"])
    channels = len(plain["mean"])
    dtype = np.uint16 if plain["bits"] == 16 else np.uint8
    own_size, own_mask = (plain["height"], plain["width"]), row.column("own_mask")
    return PackedImage(
        name=plain["name"],
        sequence=plain["sequence"],
        pixels=_view(row.column("pixels"), dtype).reshape(small if channels == 1 else (*small, channels)),
        mask=_view(row.column("mask"), np.uint8).reshape(small),
        objects=_view(row.column("objects"), np.uint32),
        statistics=preprocess.Statistics(tuple(plain["mean"]), tuple(plain["std"]), plain["bits"]),
        intensity=preprocess.Intensity(*plain["intensity"]),
        orientation=plain["orientation"],
        own_size=own_size,
        own_mask=None if own_mask.null_count else _view(own_mask, np.uint8).reshape(own_size),
        class_pixels=None if plain["class_pixels"] is None else tuple(plain["class_pixels"]),
        checksums=tuple(plain["checksums"]),
    )


def _view(column: pa.BinaryArray, dtype: type[np.generic]) -> NDArray[Any]:
    """A column's one value where it lies: a scalar of Arrow's is a copy."""
    _, _, content = column.buffers()
    return np.frombuffer(content, dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSettings:
    """What a pack's content depends on, besides the files themselves."""

    preprocessing: Preprocessing
    label_map: LabelMap
    classes: tuple[str, ...]
    """Names in id order: a label of boxes may name its classes."""
    own_masks: bool
    """Keep masks at own size too: validation counts there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """All that a pack's bytes follow from; plain, so that it travels to workers."""

    samples: tuple[Sample, ...]
    fingerprint: str
    """Over the samples' files and the frames in `sequences`."""
    settings: PackSettings
    sequences: dict[str, tuple[FrameFile, ...]] = field(default_factory=dict)
    """All frames of each sequence, where backgrounds are made of them."""
    folder: Path = field(default_factory=pack_folder)
    """Where packs are kept, on every machine that this plan comes to."""

    @property
    def path(self) -> Path:
        """Where this pack is, or will be."""
        rows = [_row_identity(sample) for sample in self.samples]
        # another OpenCV may resize or decode otherwise
        identity = [FORMAT_VERSION, READER, cv2.__version__, self.fingerprint, rows, asdict(self.settings)]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        return self.folder / f"{key}.arrow"

    def frame_reader(self, files: ImageFiles) -> FrameReader:
        """Makes the pack's frames; backgrounds are kept beside the packs."""
        folder = self.folder / "backgrounds" / f"{self.fingerprint[:24]}-reader-{READER}"
        frames_of, settings = self.sequences.__getitem__, self.settings.preprocessing
        backgrounds = Backgrounds(settings, folder, frames_of, read_image=files.decode)
        return FrameReader(settings, None, backgrounds)


def _row_identity(sample: Sample) -> tuple[str, ...]:
    """What a row depends on besides the content of files: among others, which label goes with which image."""
    label = "" if sample.label is None else os.path.relpath(sample.label, sample.image.parent)
    return sample.name, label, repr(sample.decoder), sample.sequence


def estimate_bytes(plan: PackPlan) -> int:
    """About how large a pack becomes, from the headers of some images; 0 where none of these can be read."""
    step = max(1, len(plan.samples) // HEADERS_READ)
    files = ImageFiles()
    sizes = [_row_bytes(sample, plan.settings, files) for sample in plan.samples[::step]]
    known = [size for size in sizes if size]
    return sum(known) * len(plan.samples) // len(known) if known else 0


def _row_bytes(sample: Sample, settings: PackSettings, files: ImageFiles) -> int:
    try:
        header, _ = files.look(sample.image, sample.page)
    except (ImageError, OSError):  # decoding will name it
        return 0
    rows, columns = preprocess.working_size(header.height, header.width, settings.preprocessing)
    working = rows * columns * (settings.preprocessing.channels * header.bit_depth // 8 + 1)
    return working + (header.height * header.width if settings.own_masks else 0)


def rows_by_threads(plan: PackPlan, threads: int | None = None) -> Generator[pa.RecordBatch, None, None]:
    """A plan's rows in order, prepared by threads of this process, by default one a core.

    RequestError: an image or label is bad.
    """
    threads = threads or len(os.sched_getaffinity(0))
    memory = ReadingMemory(max(READING_BYTES, threads * THREAD_BYTES))
    files = ImageFiles()
    reader = plan.frame_reader(files)

    def prepare(image: tuple[Sample, Turn]) -> tuple[pa.RecordBatch, Turn]:
        sample, turn = image
        row = pack_row(sample, plan.settings, reader, files, turn=turn)
        turn.keep(row.nbytes)
        return row, turn

    pool = ThreadPoolExecutor(threads, thread_name_prefix="pack")
    turns = ((sample, memory.queue()) for sample in plan.samples)
    try:
        for row, turn in map_ahead(pool, prepare, turns, 2 * threads):
            yield row
            turn.leave()
    finally:
        memory.close()
        pool.shutdown(cancel_futures=True)


def pack_row(
    sample: Sample,
    settings: PackSettings,
    reader: FrameReader,
    files: ImageFiles,
    *,
    turn: Turn | None = None,
) -> pa.RecordBatch:
    """One image's row. turn: takes what it needs; None: it is alone. RequestError: it or its label is bad."""
    try:
        file = files.open(sample.image, sample.page)
        if turn is not None:
            turn.take(
                announced_bytes(file, sample.page, reader, sample.sequence)
                + ROW_COPIES * _row_bytes(sample, settings, files)
            )
        image = file.decode(sample.page)
        size = (image.shape[0], image.shape[1])
        own_mask = sample.read_mask(files, size, settings.classes, settings.label_map)
        working, statistics = reader.read(image, sample.sequence)
    except ImageError as error:
        raise RequestError(f"data: {sample.image}: {error}; mend or remove it") from None
    rows, columns = working.shape[:2]
    mask = preprocess.shrink_mask(own_mask, (rows, columns))
    arrays = {
        "pixels": working.tobytes(),
        "mask": mask.tobytes(),
        "objects": _find_objects(mask).tobytes(),
        "own_mask": own_mask.tobytes() if settings.own_masks else None,
    }
    row = arrays | {
        "name": sample.name,
        "sequence": sample.sequence,
        "height": size[0],
        "width": size[1],
        "rows": rows,
        "columns": columns,
        "bits": preprocess.bit_depth(working),
        "mean": statistics.mean,
        "std": statistics.std,
        "intensity": astuple(preprocess.measure_intensity(image)),
        "orientation": file.orientation,
        "class_pixels": None if sample.label is None else _count_classes(own_mask, len(settings.classes)),
        "checksums": [zlib.crc32(arrays[name] or b"") for name in ARRAYS],
    }
    return pa.RecordBatch.from_pylist([row], SCHEMA)


def _find_objects(mask: NDArray[np.uint8]) -> NDArray[np.uint32]:
    coarse = mask[::OBJECT_STRIDE_PX, ::OBJECT_STRIDE_PX]
    return np.flatnonzero((coarse > 0) & (coarse < IGNORE)).astype(np.uint32)


def _count_classes(mask: NDArray[np.uint8], num_classes: int) -> list[int]:
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[:num_classes].tolist()
