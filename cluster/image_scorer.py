"""One image a row, read, predicted and counted where its logits are; only small rows leave."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cluster.ledger import OUTCOME_SCHEMA
from seg.ahead import map_ahead
from seg.checkpoint import load_model
from seg.data.background import Background, Backgrounds
from seg.data.images import FileBytes, Pixels, decode_image, read_file, split_page
from seg.data.labels import IGNORE, decode_label, encode_mask
from seg.data.preprocess import bit_depth, choose_statistics, preprocess
from seg.data.sequences import fill_window, sequence_key
from seg.errors import ImageError, LabelMismatch, UnreadableImage
from seg.files import read_json, write_bytes
from seg.metrics import confusion_matrix
from seg.predict import Frame, Predictor
from seg.recipe import Tiling

AHEAD = 3
"""Images read and decoded before the model asks for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSettings:
    """What every scorer of a run does alike; plain, so that it travels."""

    archive: Path
    labels: Path | None
    masks: Path | None
    """Folder the masks go to; None: none are written."""
    model: Path
    tiling: Tiling
    batch: int
    precision: str
    threads: int
    backgrounds: Path | None = None
    """Folder that keeps the backgrounds and the frames of each sequence; None: no model here needs it."""
    background: Path | None = None
    """A measured background for all images, in place of their sequences' means."""


class ScoreRow(TypedDict):
    """One image to score: names relative to archive and labels."""

    image: str
    label: str | None
    sequence: str | None
    """None where neither background nor window asks for it."""
    window: list[str] | None
    """Earlier frames that a sequence model sees, oldest first."""


@dataclass(slots=True)
class _Work:
    """One image on its way through a scorer, and the row it leaves."""

    row: dict[str, Any]
    frames: list[Frame] = field(default_factory=list)
    """What the model sees, the image itself last; empty where it cannot be read."""
    truth: NDArray[np.uint8] | None = None
    ids: NDArray[np.uint8] | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class ImageScorer:
    """Scores images with one model on one device. A plain class: Ray Data makes actors of it."""

    def __init__(self, settings: ScorerSettings, device: str | None = None) -> None:
        """`device`: None is the GPU where there is one."""
        torch.set_num_threads(settings.threads)
        cv2.setNumThreads(1)  # images are the parallelism
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, self.card = load_model(settings.model, self.device)
        self.num_classes = len(self.card.classes)
        self.predictor = Predictor(
            model, settings.tiling, batch=settings.batch, device=self.device, precision=settings.precision
        )
        folder = settings.backgrounds or Path()
        self.backgrounds = Backgrounds(self.card.preprocessing, folder, self._frames_of, settings.background)
        self.neighbours = RecentFrames(self.card.frames + AHEAD)
        self.pool = ThreadPoolExecutor(AHEAD)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a block of ScoreRows: a table of OUTCOME_SCHEMA, one row an image, in order."""
        return pa.Table.from_pylist(list(self.score(batch.to_pylist())), OUTCOME_SCHEMA)

    def score(self, requests: list[ScoreRow]) -> Iterator[dict[str, Any]]:
        """One outcome row an image: reading runs ahead of the model, writing behind it."""
        prepared = map_ahead(self.pool, self._prepare, requests, AHEAD)
        predicted = (self._predict(work) for work in prepared)
        return map_ahead(self.pool, self._finish, predicted, 2)

    def _frames_of(self, sequence: str) -> list[tuple[str, Path]]:
        assert self.settings.backgrounds is not None, "a model with backgrounds has a folder for them"
        names = read_json(sequence_file(self.settings.backgrounds, sequence))["frames"]
        return [(name, self.settings.archive / split_page(name)[0]) for name in names]

    def _prepare(self, request: ScoreRow) -> _Work:
        image, label, sequence = request["image"], request["label"], request["sequence"] or ""
        work = _Work({"image": image, "reason": None, "attempt": 1})
        try:
            data, page = self._read(work, image), split_page(image)[1]
            with _timed(work, "decode"):
                pixels = decode_image(data, page)
                work.row |= _describe(pixels)
                work.truth = self._read_label(work, label, (pixels.shape[0], pixels.shape[1]))
                background = self.backgrounds.find(sequence, pixels)
                work.row["background_frames"] = background.num_frames if background else 0
                frame = self._to_frame(pixels, background)
                self.neighbours.keep(image, frame)
                earlier = [self._neighbour(name, sequence) for name in request["window"] or ()]
                fits = [near if near and near[0].shape == frame[0].shape else None for near in earlier]
                work.frames = fill_window([*fits, frame])
        except ImageError as error:
            work.row |= {"reason": error.reason, "detail": str(error), "attempts": 1}
        return work

    def _to_frame(self, pixels: Pixels, background: Background | None) -> Frame:
        working = preprocess(pixels, self.card.preprocessing, background)
        return working, choose_statistics(working, self.card.preprocessing, self.card.statistics)

    def _neighbour(self, image: str, sequence: str) -> Frame | None:
        """An earlier frame of the window, as the model sees it; None where it cannot be used."""
        found, frame = self.neighbours.find(image)
        if not found:
            file, page = split_page(image)
            try:
                pixels = decode_image(_read_file(self.settings.archive / file).data, page)
                frame = self._to_frame(pixels, self.backgrounds.find(sequence, pixels))
            except ImageError:  # its own row says why
                frame = None
            self.neighbours.keep(image, frame)
        return frame

    def _read(self, work: _Work, image: str) -> bytes:
        with _timed(work, "read"):
            file = _read_file(self.settings.archive / split_page(image)[0])
        work.row |= {"bytes": len(file.data), "mtime_ns": file.mtime_ns, "sha256": file.sha256}
        return file.data

    def _read_label(self, work: _Work, label: str | None, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        work.row["labelled"] = label is not None
        if label is None or self.settings.labels is None:
            return None
        path = self.settings.labels / label
        try:
            file = read_file(path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise LabelMismatch(f"label {path} cannot be read: {reason}") from None
        work.row |= {
            "label_path": label,
            "label_bytes": len(file.data),
            "label_mtime_ns": file.mtime_ns,
            "label_sha256": file.sha256,
        }
        return decode_label(file.data, path, size, self.num_classes, self.card.label_map)

    def _predict(self, work: _Work) -> _Work:
        if not work.frames:
            return work
        with _timed(work, "model"):
            size = (work.row["height"], work.row["width"])
            prediction = self.predictor.predict_frames(work.frames, size)
            ids = prediction.ids
            work.row["confidence"] = prediction.confidence
            work.row["class_pixels"] = torch.bincount(ids.flatten(), minlength=self.num_classes).tolist()
            if work.truth is not None:
                truth = torch.from_numpy(work.truth).to(self.device)
                work.row["confusion"] = confusion_matrix(truth, ids, self.num_classes).flatten().tolist()
                work.row["ignored"] = int((truth == IGNORE).sum())
            work.ids = ids.cpu().numpy()
        return work

    def _finish(self, work: _Work) -> dict[str, Any]:
        if work.ids is not None:
            with _timed(work, "write"):
                if self.settings.masks is not None:
                    write_mask(self.settings.masks / f"{work.row['image']}.png", work.ids)
            work.row |= {f"seconds_{stage}": seconds for stage, seconds in work.seconds.items()}
            work.row["finished_at"] = datetime.now(UTC)
        return work.row


class RecentFrames:
    """The frames used last, for windows that share them; safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._frames: OrderedDict[str, Frame | None] = OrderedDict()

    def find(self, image: str) -> tuple[bool, Frame | None]:
        """Whether an image is kept, and its frame (None: it cannot be used)."""
        with self._lock:
            return image in self._frames, self._frames.get(image)

    def keep(self, image: str, frame: Frame | None) -> None:
        """Keep an image's frame, and forget the oldest."""
        with self._lock:
            self._frames[image] = frame
            while len(self._frames) > self.size:
                self._frames.popitem(last=False)


def sequence_file(folder: Path, sequence: str) -> Path:
    """Where the names of a sequence's frames are kept, as they were when scoring began."""
    return folder / f"{sequence_key(sequence)}.json"


def write_mask(path: Path, ids: NDArray[np.uint8]) -> None:
    """Write class ids as an 8-bit PNG of one channel, whole or not at all."""
    write_bytes(path, encode_mask(ids))


def _describe(pixels: Pixels) -> dict[str, int]:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "channels": channels,
        "bit_depth": bit_depth(pixels),
    }


def _read_file(path: Path) -> FileBytes:
    try:
        return read_file(path)
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None


@contextmanager
def _timed(work: _Work, stage: str) -> Iterator[None]:
    """Add a block's seconds to one stage of a work."""
    started = time.perf_counter()
    try:
        yield
    finally:
        work.seconds[stage] = work.seconds.get(stage, 0.0) + time.perf_counter() - started
