"""A model file as an object: arrays and files to masks, objects and pictures in memory; writes nothing."""

import io
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from seg.data.background import Backgrounds
from seg.data.formats.header import as_pixels, check_size
from seg.data.frames import Frame, FrameReader, as_clip
from seg.data.images import ImageFiles, Pixels, split_page
from seg.data.listing import Sequences
from seg.data.named import list_named
from seg.errors import ImageError, RequestError
from seg.figures.plots import draw_overlay, show_below_overlay
from seg.ledger.outcome import OBJECTS_SCHEMA, to_table, with_class_names
from seg.objects import find_objects, nearest_pixels, object_rows
from seg.predict.averaging import load_averaged
from seg.predict.predictor import Canvas, Prediction, Predictor
from seg.requests import PredictRequest
from seg.score.handful import OBJECT_COLUMNS, find_device, list_around, warn_without_background
from seg.score.plan import check_counts, find_sequences, read_cards
from seg.score.read import Neighbours
from seg.storage import as_place
from seg.words import plural, ratio


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PredictedImage:
    """What a model says of an image; a notebook shows it as the image under its classes."""

    name: str
    image: Pixels
    """As stored: uint8 or uint16, [H, W] or [H, W, 3]."""
    classes: tuple[str, ...]
    """Names, in id order."""
    mask: NDArray[np.uint8]
    """Class ids, uint8 [H, W], at the image's own size."""
    confidence: float
    """Mean top probability."""
    objects: pa.Table
    """A row an object: class (its name), x, y, width, height (its box), area, centroid_x, centroid_y,
    confidence, touches_border; in own pixels, in the order of docs/reference/scores.md."""
    working_probability: NDArray[np.float32]
    """Top probability of each working pixel, float32 [h, w]."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """Top probability, float32 [H, W]: of each pixel that of the working pixel its centre lies in."""
        places = map(nearest_pixels, self.mask.shape, self.working_probability.shape)
        return self.working_probability[np.ix_(*places)]

    def overlay(self) -> Image.Image:
        """The image tinted and outlined in its classes' colours, with a legend, as `predict` writes it."""
        return Image.open(io.BytesIO(self._repr_png_()))

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        draw_overlay(self.name, show_below_overlay(self.image), self.mask, self.classes).save(picture)
        return picture.getvalue()

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = plural(len(self.objects), "object")
        return f"<{self.name}: {width} x {height}, {found}, confidence {ratio(self.confidence)}>"


@dataclass(frozen=True, slots=True)
class _Source:
    """Images that were asked for, by name, and where their pixels are."""

    names: Sequence[str]
    list_all: Callable[[], list[str]]
    """Those among which they have neighbours, in order."""
    read: Callable[[str, int | None], Pixels]
    """Pixels of a file, or of one page of it."""
    pattern: str = ""
    """A regular expression for their sequences."""


class ImageModel:
    """The network of a model file, or the mean of several, with all that predicting needs."""

    def __init__(self, request: PredictRequest) -> None:
        """`request`: how, as of `predict`; its images, and where it writes, are not looked at.

        RequestError: a model file cannot be used, or not so.
        """
        check_counts(request, "batch", "threads", "min_object_px")
        if len(request.models) > 1:
            read_cards(request.models)
        self.request, device = request, torch.device(find_device(request.device))
        network, self.card = load_averaged(request.models, device, request.tta)
        tiling = self.card.tiling
        self._predictor = Predictor(
            network,
            tiling if request.halo_px is None else replace(tiling, halo_px=request.halo_px),
            batch=request.batch,
            device=device,
            precision=request.precision,
            blend=request.blend,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in id order."""
        return self.card.classes

    def __repr__(self) -> str:
        files = ", ".join(map(str, self.request.models))
        return f"<{self.card.architecture} of {files}: {', '.join(self.classes)}>"

    @overload
    def predict(
        self, images: str | Path | NDArray[Any], *, archive: str | Path | None = None
    ) -> PredictedImage: ...

    @overload
    def predict(
        self,
        images: Sequence[str] | Sequence[Path] | Sequence[NDArray[Any]],
        *,
        archive: str | Path | None = None,
    ) -> list[PredictedImage]: ...

    def predict(self, images: Any, *, archive: str | Path | None = None) -> Any:
        """What the network says of an image; of a list of them a list, in order.

        images: a file (`stack.tif#3` is a page), or pixels, uint8 or uint16, [H, W] or, in RGB order,
        [H, W, 3]; or a list of files and patterns ("s1/*.tif"), or of pixels, which is one sequence.
        archive: folder from which files' names and sequences count; None: what they have in common.
        Masks and objects are those that the `predict` and `score` jobs give with the same options. A model
        that asks for frames before an image, or for a mean of its sequence, reads them beside a file, and
        looks for them in a list of pixels.
        RequestError: no such file, pixels of another kind. ImageError: an image cannot be used.
        """
        single = isinstance(images, str | Path | np.ndarray)
        asked = [images] if single else list(images)
        if not asked:
            return []
        source = self._open(asked, archive)
        if single and len(source.names) != 1:
            raise RequestError(
                f"{images} names {plural(len(source.names), 'image')}; give it in a list for them all, "
                "for one its page, or its whole name"
            )
        with tempfile.TemporaryDirectory(prefix="fringe-") as folder, _threads(self.request.threads):
            found = list(self._predict(source, Path(folder)))
        return found[0] if single else found

    def _open(self, images: list[Any], archive: str | Path | None) -> _Source:
        if all(isinstance(image, str | Path) for image in images):
            listing, root = list_named(list(map(str, images)), None if archive is None else Path(archive))
            files = ImageFiles(as_place(root))
            return _Source(
                listing.images, lambda: list_around(root, listing.images), files.decode, self.card.sequence
            )
        names = ["image"] if len(images) == 1 else [f"image {place}" for place in range(len(images))]
        pixels = {name: as_image(image, name) for name, image in zip(names, images, strict=True)}
        return _Source(names, lambda: names, lambda name, _: pixels[name])

    def _predict(self, source: _Source, folder: Path) -> Iterator[PredictedImage]:
        """folder: for backgrounds, which are files."""
        shown: deque[tuple[str, Pixels]] = deque()

        def crop() -> Iterator[Any]:
            for name, pixels, clip in self._read(source, folder):
                shown.append((name, pixels))
                yield self._predictor.crop(clip, pixels.shape[:2])

        for image, pieces in self._predictor.predict_stream(crop()):
            canvas = Canvas(image.grid, self._predictor.device, probability=True)
            for piece in pieces:
                canvas.add(piece)
            yield self._finish(*shown.popleft(), canvas.finish())

    def _read(self, source: _Source, folder: Path) -> Iterator[tuple[str, Pixels, list[Frame]]]:
        """Each image, and the frames that the network sees of it."""
        measured, card = self.request.background, replace(self.card, sequence=source.pattern)
        sequences = find_sequences(source.list_all, card, measured)
        clips = _ClipReader(source.read, sequences, card.frames)
        backgrounds = Backgrounds(
            card.preprocessing, folder, clips.frames_of, measured, read_image=source.read
        )
        frames, bare = FrameReader(card.preprocessing, card.statistics, backgrounds), list[str]()
        for name in source.names:
            with _naming(name):
                pixels, sequence = source.read(*split_page(name)), clips.sequence(name)
                if backgrounds.find(sequence, pixels) is None:
                    bare.append(name)
                clip = clips.read(name, frames.read(pixels, sequence), frames)
            yield name, pixels, clip
        if bare and card.preprocessing.background_every > 0 and measured is None:
            warn_without_background(bare)

    def _finish(self, name: str, pixels: Pixels, found: Prediction) -> PredictedImage:
        assert found.probability is not None, "it was asked for"
        ids, probability = found.ids.cpu().numpy(), found.probability.cpu().numpy()
        objects = find_objects(ids, len(self.classes), self.request.min_object_px, probability)
        table = with_class_names(to_table(object_rows(name, objects, None), OBJECTS_SCHEMA), self.classes)
        columns = ["class", *OBJECT_COLUMNS]
        return PredictedImage(
            name, pixels, self.classes, ids, found.confidence, table.select(columns), probability
        )


class _ClipReader:
    """The frames before an image."""

    def __init__(
        self, read: Callable[[str, int | None], Pixels], sequences: Sequences | None, frames: int
    ) -> None:
        self._read, self._sequences, self._frames = read, sequences, frames
        self._kept = Neighbours(frames)

    def sequence(self, name: str) -> str:
        """An image's; empty where nobody asks for it."""
        return self._sequences.sequence(name) if self._sequences else ""

    def frames_of(self, sequence: str) -> list[tuple[str, str]]:
        """All names of a sequence, with their files."""
        assert self._sequences is not None, "a background asks for it"
        return [(name, split_page(name)[0]) for name in self._sequences.frames(sequence)]

    def read(self, name: str, frame: Frame, frames: FrameReader) -> list[Frame]:
        """An image's clip, which ends with its own frame; one that cannot be used is as a missing one."""
        self._kept.keep(name, frame)
        before = self._sequences.clip(name, self._frames)[:-1] if self._sequences else []
        return as_clip([self._neighbour(other, frames) for other in before], frame)

    def _neighbour(self, name: str, frames: FrameReader) -> Frame | None:
        found, frame = self._kept.find(name)
        if not found:
            try:
                frame = frames.read(self._read(*split_page(name)), self.sequence(name))
            except ImageError:
                frame = None
            self._kept.keep(name, frame)
        return frame


def as_image(array: Any, name: str) -> Pixels:
    """Pixels of somebody's own array, copied. RequestError, by name: of another type or shape than images.

    EmptyImage, TooLargeImage: it has no pixels, or too many.
    """
    found = np.asarray(array)
    if found.dtype.kind != "u" or found.dtype.itemsize > 2:
        raise RequestError(
            f"{name} is of type {found.dtype}; give uint8 or uint16, as the camera stored it: a model knows "
            "the intensities of its training"
        )
    if found.ndim not in (2, 3) or found.shape[2:] not in ((), (3,)):
        raise RequestError(
            f"{name} has the shape {list(found.shape)}; give [H, W] or [H, W, 3], several images as a list"
        )
    check_size(found.shape[0], found.shape[1])
    return as_pixels(found.astype(found.dtype.newbyteorder("=")))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of an ImageError in the block whose it is."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: another number may flip ties."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
