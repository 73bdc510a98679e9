"""What a pack holds before it is a file: its plan, and each image's row, in order."""

import hashlib
import json
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seg.ahead import map_ahead
from seg.data.background import Backgrounds, Frame
from seg.data.images import READER, split_page
from seg.data.intensities import measure_intensity
from seg.data.labels import IGNORE, LabelMap, decode_label
from seg.data.layout import Sample
from seg.data.pack import OBJECT_STRIDE_PX, SCHEMA, pack_folder
from seg.data.preprocess import bit_depth, own_statistics, preprocess, shrink_mask, working_size
from seg.data.reading_memory import READING_BYTES, ReadingMemory, Turn, announced_bytes
from seg.data.stacks import ImageFiles
from seg.errors import ImageError, RequestError
from seg.recipe import Preprocessing

FORMAT_VERSION = 5
"""Of a pack's rows and of how their pixels are made; packs of another one are not used any more."""
THREAD_BYTES = 2**28
"""What the images in work may take for each thread, on machines where that is more than READING_BYTES."""
ROW_COPIES = 2
"""Of a row's bytes that exist beside its arrays: bytes, and the record batch."""
HEADERS_READ = 256
"""Of how many images, spread over all, the size says how much room a pack takes."""


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
    sequences: dict[str, tuple[Frame, ...]] = field(default_factory=dict)
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

    def backgrounds(self, files: ImageFiles) -> Backgrounds:
        """Finds backgrounds, which are kept beside the packs."""
        folder = self.folder / "backgrounds" / f"{self.fingerprint[:24]}-reader-{READER}"
        frames_of = self.sequences.__getitem__
        return Backgrounds(self.settings.preprocessing, folder, frames_of, read_image=files.decode)


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
        header, _ = files.look(sample.image, split_page(sample.name)[1])
    except (ImageError, OSError):  # decoding will name it
        return 0
    rows, columns = working_size(header.height, header.width, settings.preprocessing)
    working = rows * columns * (settings.preprocessing.channels * header.bit_depth // 8 + 1)
    return working + (header.height * header.width if settings.own_masks else 0)


def rows_by_threads(plan: PackPlan, threads: int | None = None) -> Generator[pa.RecordBatch, None, None]:
    """A plan's rows in order, prepared by threads of this process, by default one a core.

    RequestError: an image or label is bad.
    """
    threads = threads or len(os.sched_getaffinity(0))
    memory = ReadingMemory(max(READING_BYTES, threads * THREAD_BYTES))
    files = ImageFiles()
    backgrounds = plan.backgrounds(files)

    def prepare(image: tuple[Sample, Turn]) -> tuple[pa.RecordBatch, Turn]:
        sample, turn = image
        row = pack_row(sample, plan.settings, backgrounds, files, turn=turn)
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
    backgrounds: Backgrounds,
    files: ImageFiles,
    *,
    turn: Turn | None = None,
) -> pa.RecordBatch:
    """One image's row. turn: takes what it needs; None: it is alone. RequestError: it or its label is bad."""
    try:
        page = split_page(sample.name)[1]
        file = files.open(sample.image, page)
        if turn is not None:
            turn.take(
                announced_bytes(file, page, settings.preprocessing, backgrounds, sample.sequence)
                + ROW_COPIES * _row_bytes(sample, settings, files)
            )
        image = file.decode(page)
        size = (image.shape[0], image.shape[1])
        own_mask = _read_mask(sample, size, settings)
        background = backgrounds.find(sample.sequence, image)
    except ImageError as error:
        raise RequestError(f"data: {sample.image}: {error}; mend or remove it") from None
    working = preprocess(image, settings.preprocessing, background)
    rows, columns = working.shape[:2]
    mask = shrink_mask(own_mask, (rows, columns))
    statistics = own_statistics(working, settings.preprocessing)
    row = {
        "name": sample.name,
        "sequence": sample.sequence,
        "height": size[0],
        "width": size[1],
        "rows": rows,
        "columns": columns,
        "bits": bit_depth(working),
        "mean": statistics.mean,
        "std": statistics.std,
        "intensity": astuple(measure_intensity(image)),
        "orientation": file.orientation,
        "pixels": working.tobytes(),
        "mask": mask.tobytes(),
        "objects": _find_objects(mask).tobytes(),
        "class_pixels": None if sample.label is None else _count_classes(own_mask, len(settings.classes)),
        "own_mask": own_mask.tobytes() if settings.own_masks else None,
    }
    return pa.RecordBatch.from_pylist([row], SCHEMA)


def _find_objects(mask: NDArray[np.uint8]) -> NDArray[np.uint32]:
    coarse = mask[::OBJECT_STRIDE_PX, ::OBJECT_STRIDE_PX]
    return np.flatnonzero((coarse > 0) & (coarse < IGNORE)).astype(np.uint32)


def _count_classes(mask: NDArray[np.uint8], num_classes: int) -> list[int]:
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[:num_classes].tolist()


def _read_mask(sample: Sample, size: tuple[int, int], settings: PackSettings) -> NDArray[np.uint8]:
    if sample.label is None:
        return np.full(size, IGNORE, np.uint8)
    decode = sample.decoder or decode_label
    return decode(sample.label.read_bytes(), sample.label, size, settings.classes, settings.label_map)
