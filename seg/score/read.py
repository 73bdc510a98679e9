"""From an image's name to what a model sees of it: read once, hash, decode, preprocess; and its label."""

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import cv2

from seg.data.background import Background, Backgrounds
from seg.data.colours import ColourMask
from seg.data.frames import Frame, FrameReader, as_clip
from seg.data.images import FileBytes, ImageFiles, Pixels, Stack, split_page
from seg.data.labels import Label, LabelMap, read_label
from seg.data.listing import sequence_key
from seg.data.preprocess import bit_depth
from seg.data.reading_memory import LARGE_FILE_BYTES, ReadingMemory, Turn, announced_bytes
from seg.errors import ImageError, LabelMismatch, LabelMissing, UnreadableImage
from seg.figures.plots import show_below_overlay
from seg.files import persistently
from seg.model_card import ModelCard
from seg.plain_data import require_fields
from seg.predict.tiling import FrameCrops, Mixing
from seg.recipe import Tiling, Tta
from seg.score.blame import DECODE, READ, InFlight
from seg.score.queue import Order
from seg.score.work import ImageFile, LabelFile, PixelFacts, Work
from seg.storage import Place

Value = TypeVar("Value")

AHEAD = 3
"""Images that are read and decoded at a time, before the model asks for them."""
NEIGHBOUR_BYTES = 2**29
"""Of earlier frames that are kept for the windows of later ones; of huge ones fewer are, and read again."""
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
    """Gets `masks/`, `overlays/`, `backgrounds/` and `inflight/`."""
    masks: bool = True
    """Whether masks are written."""
    masks_form: Literal["palette", "gray"] = "gray"
    """How ids are stored; folders that were begun before there was a palette have none."""
    overlays: bool = False
    """Whether pictures of images under their predictions are written."""
    models: tuple[Path, ...]
    """Their probabilities are averaged."""
    tta: Tta = "none"
    """Views of each crop whose probabilities are averaged (seg/predict/averaging.py)."""
    tiling: Tiling
    blend: Literal["core", "gaussian"] = "core"
    batch: int
    mixing: Mixing = "mixed"
    """Whether images share passes; folders that were begun before they could do not."""
    precision: str
    threads: int
    background: Path | None = None
    """A measured background for all images, in place of their sequences' means."""
    label_map: LabelMap | None = None
    """In place of the model file's."""
    colours: ColourMask | None = None
    """Reads masks whose colours stand for classes; None: they store ids."""
    require_labels: bool = False
    """Whether an image without a label is set aside."""
    min_object_px: int = 64
    """Fewer pixels are no object."""

    @property
    def backgrounds(self) -> Place:
        """Keeps the backgrounds and the names of each sequence's frames."""
        return self.out.below("backgrounds")


class ImageReader:
    """Prepares images for a model that need not be here; safe to use from several threads."""

    def __init__(self, settings: ScorerSettings, card: ModelCard) -> None:
        cv2.setNumThreads(1)  # images are the parallelism
        self.settings, self.card = settings, card
        self.label_map = card.label_map if settings.label_map is None else settings.label_map
        self.files = ImageFiles(settings.archive)
        self.label_files = ImageFiles(settings.labels)
        self.backgrounds = Backgrounds(
            card.preprocessing,
            settings.backgrounds,
            self._frames_of,
            settings.background,
            read_image=self._read_frame,
        )
        self.frames = FrameReader(card.preprocessing, card.statistics, self.backgrounds)
        self._at_hand = threading.local()
        """`image`: which one a thread prepares; `notes`: where that is noted."""
        self.neighbours = Neighbours(card.frames + AHEAD)
        self.memory = ReadingMemory()
        """Shared by all that `prepare` at a time, and by who holds what it gave."""

    def prepare(self, order: Order, notes: InFlight | None = None, turn: Turn | None = None) -> Work:
        """An image as its model sees it; one that cannot be used is set aside.

        notes: get the image before it is touched; None: nobody does. turn: of `memory`; it holds the bytes of
        the Work when this returns. None: nobody counts these.
        OSError: the storage does not answer, or backgrounds cannot be written; not the image's fault.
        """
        if turn is None:
            with self.memory.queue() as own:
                return self.prepare(order, notes, own)
        notes = notes or InFlight(None, "")
        self._at_hand.image, self._at_hand.notes = order.image, notes
        image, work = order.image, Work(order)
        notes.begin(image, order.attempt, alone=order.alone)
        try:
            self._await_large_file(turn, image)
            file = self._read(work, image)
            work.orientation = file.orientation
            self._take_memory(turn, order, file)
            notes.enter(image, DECODE)
            with work.timed("decode"):
                pixels = self._decode(image, file)
                work.pixels = describe_pixels(pixels)
                work.shown = show_below_overlay(pixels) if self.settings.overlays else None
                work.label = self._read_label(work, work.pixels.size)
                background = self._find_background(image, order.sequence, pixels)
                work.background_frames = background.num_frames if background else 0
                frame = self.frames.make(pixels, background)
                self.neighbours.keep(image, frame)
                earlier = [self._neighbour(name, order.sequence) for name in order.earlier]
                work.crops = FrameCrops(as_clip(earlier, frame), work.pixels.size, self.settings.tiling)
        except ImageError as error:
            work.set_aside(error)
        turn.keep(work.held_bytes)
        notes.wait(image)
        return work

    def _await_large_file(self, turn: Turn, image: str) -> None:
        archive, (name, page) = self.settings.archive, split_page(image)
        found = archive.stat(name) if archive.is_local and page is None else None  # else it is a request more
        if found is not None and found.bytes > LARGE_FILE_BYTES:
            self._at_hand.notes.wait(image)
            turn.await_room(found.bytes)
            self._at_hand.notes.enter(image, READ)

    def _take_memory(self, turn: Turn, order: Order, file: FileBytes | Stack) -> None:
        """Wait for an image's turn to be decoded: nobody is at work at it meanwhile.

        Frames of its clip that have to be read too are taken to be like it.
        """
        self._at_hand.notes.wait(order.image)
        page = split_page(order.image)[1]
        wanted = announced_bytes(file, page, self.frames, order.sequence)
        turn.take(wanted * 2 if order.earlier else wanted)

    def _find_background(self, image: str, sequence: str, pixels: Pixels) -> Background | None:
        """Its background. Who waits for another's measuring does not work; who measures, anew each frame."""
        self._at_hand.notes.wait(image)
        try:
            return self.backgrounds.find(sequence, pixels)
        finally:
            self._at_hand.notes.go_on(image)

    def _read_frame(self, file: str, page: int | None) -> Pixels:
        self._at_hand.notes.go_on(self._at_hand.image, afresh=True)
        return self.files.decode(file, page)

    def _frames_of(self, sequence: str) -> list[tuple[str, str]]:
        place, file = self.settings.backgrounds, sequence_file(sequence)
        found = require_fields({"frames": list[str]}, place.read_json(file), f"{place}/{file}")
        return [(name, split_page(name)[0]) for name in found["frames"]]

    def _neighbour(self, image: str, sequence: str) -> Frame | None:
        """An earlier frame of the clip, as the model sees it; None where it cannot be used."""
        found, frame = self.neighbours.find(image)
        if not found:
            try:
                pixels = self._decode(image, None)
                background = self._find_background(self._at_hand.image, sequence, pixels)
                frame = self.frames.make(pixels, background)
            except ImageError:  # its own row says why
                frame = None
            self.neighbours.keep(image, frame)
        return frame

    def _read(self, work: Work, image: str) -> FileBytes | Stack:
        """An image's file, read whole and hashed; of a page the open stack, hashed with the first one."""
        with work.timed("read"):
            file = self._patiently(image, self._open_hashed)
            work.file = ImageFile(file.num_bytes, file.mtime_ns, file.sha256)
        return file

    def _open_hashed(self, name: str, page: int | None) -> FileBytes | Stack:
        file = self.files.open(name, page)
        assert file.sha256, "computed here, where storage is waited for"
        return file

    def _decode(self, image: str, file: FileBytes | Stack | None) -> Pixels:
        """An image's pixels, from bytes in memory if there are any, else from its file."""
        if isinstance(file, FileBytes):
            return file.decode(split_page(image)[1])
        return self._patiently(image, self.files.decode)

    def _patiently(self, image: str, read: Callable[[str, int | None], Value]) -> Value:
        """What `read` gives for the image's file and page, as of `read_patiently`."""
        name, page = split_page(image)

        def read_anew() -> Value:
            try:
                return read(name, page)
            except OSError:
                self.files.forget(name)
                raise

        place = self.settings.archive
        return read_patiently(
            place, read_anew, lambda why: UnreadableImage(f"{place}/{name} cannot be read: {why}")
        )

    def _read_label(self, work: Work, size: tuple[int, int]) -> Label | None:
        labels, label = self.settings.labels, work.order.label
        if label is None or labels is None:
            if self.settings.require_labels:
                raise LabelMissing(f"the image has no label in {labels}, where each was to have one")
            return None
        where, (name, page) = f"{labels}/{label}", split_page(label)

        def read() -> Label:
            try:
                file = self.label_files.open(name, page)
                work.label_file = LabelFile(label, file.num_bytes, file.mtime_ns, file.sha256)
                content, colours = file.content(page), self.settings.colours
                return read_label(content, Path(where), size, self.card.classes, self.label_map, colours)
            except OSError:
                self.label_files.forget(name)
                raise

        def refuse(why: str) -> LabelMismatch:
            return LabelMismatch(f"label {where} cannot be read: {why}")

        try:
            return read_patiently(labels, read, refuse)
        except LabelMismatch:
            raise
        except ImageError as error:
            raise refuse(str(error)) from None


class Neighbours:
    """The frames used last, by image, None for one that cannot be used; for several threads."""

    def __init__(self, size: int) -> None:
        """`size`: frames at most."""
        self.size = size
        self._lock = threading.Lock()
        self._frames: OrderedDict[str, Frame | None] = OrderedDict()

    def find(self, image: str) -> tuple[bool, Frame | None]:
        """Whether it is there, and the frame."""
        with self._lock:
            return image in self._frames, self._frames.get(image)

    def keep(self, image: str, frame: Frame | None) -> None:
        """Keep one, and forget the oldest of too many, or of more than NEIGHBOUR_BYTES together."""
        with self._lock:
            self._frames[image] = frame
            while len(self._frames) > self.size or (len(self._frames) > 1 and self._is_too_large()):
                self._frames.popitem(last=False)

    def _is_too_large(self) -> bool:
        return sum(frame[0].nbytes for frame in self._frames.values() if frame) > NEIGHBOUR_BYTES


def sequence_file(sequence: str) -> str:
    """Where in backgrounds/ the names of a sequence's frames are kept, as they were when scoring began."""
    return f"{sequence_key(sequence)}.json"


def read_patiently(place: Place, read: Callable[[], Value], refuse: Callable[[str], ImageError]) -> Value:
    """What `read` gives; while its storage does not answer, tries again as `seg.files.persistently` does.

    refuse: makes the error of a file that alone cannot be read, from the cause. OSError: storage stays away.
    """
    return persistently(partial(_read_once, place, read, refuse), str(place))


def _read_once(place: Place, read: Callable[[], Value], refuse: Callable[[str], ImageError]) -> Value:
    try:
        return read()
    except OSError as error:
        if error.errno in AWAY or not place.exists():
            raise
        raise refuse(error.strerror or str(error)) from None


def describe_pixels(pixels: Pixels) -> PixelFacts:
    """Of an image as read."""
    mean, deviation = cv2.meanStdDev(pixels.reshape(pixels.shape[0], -1))
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = (pixels.shape[0], pixels.shape[1], channels, bit_depth(pixels))
    return PixelFacts(*kind, float(mean[0, 0]), float(deviation[0, 0]))
