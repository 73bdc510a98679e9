"""From an image's name to what a model sees of it: read once, hash, decode, preprocess; and its label."""

import errno
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.scoring.inflight import DECODE, InFlight
from seg.checkpoint import ModelCard
from seg.data.background import Background, Backgrounds
from seg.data.images import FileBytes, Pixels, decode_image, read_from, split_page
from seg.data.labels import Label, read_label
from seg.data.preprocess import bit_depth, choose_statistics, preprocess
from seg.data.sequences import fill_window, sequence_key
from seg.errors import ImageError, LabelMismatch, LabelMissing, UnreadableImage
from seg.files import persistently
from seg.predict import Frame
from seg.recipe import Tiling
from seg.storage import Place

Value = TypeVar("Value")

AHEAD = 3
"""Images that are read and decoded at a time, before the model asks for them."""
AWAY = frozenset(
    {
        *(errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
        *(errno.ENETDOWN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN),
    }
)
"""Errors of a storage that does not answer: no file's fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSettings:
    """What every scorer of a run does alike; plain, so that it travels."""

    archive: Place
    labels: Place | None
    out: Place
    """Gets `masks/`, `backgrounds/` and `inflight/`."""
    masks: bool = True
    """Whether masks are written."""
    model: Path
    tiling: Tiling
    blend: Literal["core", "gaussian"] = "core"
    batch: int
    precision: str
    threads: int
    background: Path | None = None
    """A measured background for all images, in place of their sequences' means."""
    require_labels: bool = False
    """Whether an image without a label is set aside."""
    min_object_px: int = 64
    """Fewer pixels are no object."""

    @property
    def backgrounds(self) -> Place:
        """Keeps the backgrounds and the names of each sequence's frames."""
        return self.out.below("backgrounds")


class ScoreRow(TypedDict):
    """One image to score: names relative to archive and labels."""

    image: str
    label: str | None
    sequence: str | None
    """None where neither background nor window asks for it."""
    window: list[str] | None
    """Earlier frames that a sequence model sees, oldest first."""
    attempt: int
    """1, and one more for each time that a process died with it (docs/architecture.md)."""
    alone: NotRequired[bool]
    """Whether nothing else is in work meanwhile, in any process; absent: something is, or nobody knows."""


@dataclass(slots=True)
class Work:
    """One image on its way to its row: plain values and arrays, so that it travels."""

    row: dict[str, Any]
    """The outcome row as far as it is known; `reason` is set where the image is set aside."""
    frames: list[Frame] = field(default_factory=list)
    """What the model sees, the image itself last; empty where it cannot be read."""
    label: Label | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def truth(self) -> NDArray[np.uint8] | None:
        """The label as a mask, uint8 [H, W]; None: unlabelled."""
        return None if self.label is None else self.label.mask

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a block's seconds to one stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


class ImageReader:
    """Prepares images for a model that need not be here; safe to use from several threads."""

    def __init__(self, settings: ScorerSettings, card: ModelCard, inflight: InFlight | None = None) -> None:
        """`inflight`: where images are noted before they are touched; None: nowhere."""
        cv2.setNumThreads(1)  # images are the parallelism
        self.settings, self.card = settings, card
        self.inflight = inflight or InFlight(None, "")
        self.backgrounds = Backgrounds(
            card.preprocessing,
            settings.backgrounds,
            self._frames_of,
            settings.background,
            read_image=lambda file: read_from(settings.archive, file).data,
        )
        self.neighbours = Recent[Frame | None](card.frames + AHEAD)
        self.stacks = Recent[FileBytes](1)

    def prepare(self, request: ScoreRow) -> Work:
        """An image as its model sees it; one that cannot be used has its reason in the row.

        OSError: the storage does not answer, or backgrounds cannot be written; not the image's fault.
        """
        image, sequence = request["image"], request["sequence"] or ""
        self.inflight.begin(image, request["attempt"], alone=request.get("alone", False))
        work = Work({"image": image, "reason": None, "attempt": request["attempt"], "confusion": None})
        try:
            data, page = self._read(work, image), split_page(image)[1]
            self.inflight.enter(image, DECODE)
            with work.timed("decode"):
                pixels = decode_image(data, page)
                work.row |= describe_pixels(pixels)
                work.label = self._read_label(work, request["label"])
                background = self.backgrounds.find(sequence, pixels)
                work.row["background_frames"] = background.num_frames if background else 0
                frame = self._to_frame(pixels, background)
                self.neighbours.keep(image, frame)
                work.frames = self._fill_window(request["window"] or (), sequence, frame)
        except ImageError as error:
            work.row |= {"reason": error.reason, "detail": str(error), "attempts": request["attempt"]}
        self.inflight.wait(image)
        return work

    def _frames_of(self, sequence: str) -> list[tuple[str, str]]:
        names = self.settings.backgrounds.read_json(sequence_file(sequence))["frames"]
        return [(name, split_page(name)[0]) for name in names]

    def _fill_window(self, window: list[str] | tuple[()], sequence: str, frame: Frame) -> list[Frame]:
        earlier = [self._neighbour(name, sequence) for name in window]
        fits = [near if near and near[0].shape == frame[0].shape else None for near in earlier]
        return fill_window([*fits, frame])

    def _to_frame(self, pixels: Pixels, background: Background | None) -> Frame:
        working = preprocess(pixels, self.card.preprocessing, background)
        return working, choose_statistics(working, self.card.preprocessing, self.card.statistics)

    def _neighbour(self, image: str, sequence: str) -> Frame | None:
        """An earlier frame of the window, as the model sees it; None where it cannot be used."""
        found, frame = self.neighbours.find(image)
        if not found:
            file, page = split_page(image)
            try:
                pixels = decode_image(self._read_file(file).data, page)
                frame = self._to_frame(pixels, self.backgrounds.find(sequence, pixels))
            except ImageError:  # its own row says why
                frame = None
            self.neighbours.keep(image, frame)
        return frame

    def _read(self, work: Work, image: str) -> bytes:
        name, page = split_page(image)
        with work.timed("read"):
            kept, file = self.stacks.find(name)
            if not kept or file is None:
                file = self._read_file(name)
                if page is not None:
                    self.stacks.keep(name, file)
            work.row |= {"bytes": len(file.data), "mtime_ns": file.mtime_ns, "sha256": file.sha256}
        return file.data

    def _read_file(self, name: str) -> FileBytes:
        return read_patiently(
            self.settings.archive,
            name,
            lambda why: UnreadableImage(f"{self.settings.archive}/{name} cannot be read: {why}"),
        )

    def _read_label(self, work: Work, label: str | None) -> Label | None:
        labels, size = self.settings.labels, (work.row["height"], work.row["width"])
        work.row["labelled"] = label is not None
        if label is None or labels is None:
            if self.settings.require_labels:
                raise LabelMissing(f"the image has no label in {labels}, and --require-labels is given")
            return None
        where = f"{labels}/{label}"
        file = read_patiently(
            labels, label, lambda why: LabelMismatch(f"label {where} cannot be read: {why}")
        )
        work.row |= {
            "label_path": label,
            "label_bytes": len(file.data),
            "label_mtime_ns": file.mtime_ns,
            "label_sha256": file.sha256,
        }
        return read_label(file.data, Path(where), size, len(self.card.classes), self.card.label_map)


class Recent(Generic[Value]):
    """The values used last, by image or file; safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._values: OrderedDict[str, Value] = OrderedDict()

    def find(self, name: str) -> tuple[bool, Value | None]:
        """Whether there is a value, and the value."""
        with self._lock:
            return name in self._values, self._values.get(name)

    def keep(self, name: str, value: Value) -> None:
        """Keep a value, and forget the oldest."""
        with self._lock:
            self._values[name] = value
            while len(self._values) > self.size:
                self._values.popitem(last=False)


def sequence_file(sequence: str) -> str:
    """Where in backgrounds/ the names of a sequence's frames are kept, as they were when scoring began."""
    return f"{sequence_key(sequence)}.json"


def read_patiently(place: Place, name: str, refuse: Callable[[str], ImageError]) -> FileBytes:
    """A file's bytes; while its storage does not answer, tries again as `seg.files.persistently` does.

    refuse: makes the error of a file that alone cannot be read, from the cause. OSError: storage stays away.
    """
    return persistently(partial(_read_once, place, name, refuse), str(place))


def _read_once(place: Place, name: str, refuse: Callable[[str], ImageError]) -> FileBytes:
    try:
        return read_from(place, name)
    except OSError as error:
        if error.errno in AWAY or not place.exists():
            raise
        raise refuse(error.strerror or str(error)) from None


def describe_pixels(pixels: Pixels) -> dict[str, int | float]:
    """Size, kind and brightness of an image as stored, over all channels, under the ledger's names."""
    mean, deviation = cv2.meanStdDev(pixels.reshape(pixels.shape[0], -1))
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "channels": 1 if pixels.ndim == 2 else pixels.shape[2],
        "bit_depth": bit_depth(pixels),
        "intensity_mean": float(mean[0, 0]),
        "intensity_std": float(deviation[0, 0]),
    }
