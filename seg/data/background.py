"""The background of a sequence: the mean of some of its frames, measured once, subtracted from each."""

import io
import json
import threading
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.formats.header import Header
from seg.data.images import ImageFiles, Pixels, decode_image, read_file, split_page
from seg.data.listing import sequence_key
from seg.errors import DataWarning, ImageError, RequestError, UnsupportedImage
from seg.recipe import Preprocessing
from seg.storage import Place, as_place

ENOUGH_FRAMES = 8
"""Every k-th frame is taken; k is lowered until so many are used."""
FEWEST_FRAMES = 4
"""With fewer, none is subtracted."""
KEPT, KEPT_BYTES = 4, 2**29
"""Backgrounds held in memory, the ones used last: 38 MB each at 3072 x 3072; of larger ones fewer."""

FrameFile = tuple[str, Any]
"""An image's name and its file, as `read_image` of `Backgrounds` takes it: a path, or a name in its place."""

ReadImage = Callable[[Any, int | None], Pixels]
"""Pixels of a file, or of one page of it. OSError, ImageError: they cannot be had."""


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What is subtracted from the images of one sequence, size, channels and bit depth.

    shift: float32, of the images' shape: factor x (mean frame - its average). So an image keeps its level and
    the fringes their swing to both sides. num_frames: frames in the mean.
    """

    shift: NDArray[np.float32]
    num_frames: int

    def subtract(self, image: Pixels) -> Pixels:
        """The image without its background: same dtype, rounded, saturated at the dtype's ends."""
        depth = cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U
        return cv2.subtract(image, self.shift, dtype=depth)  # type: ignore[return-value]


class Backgrounds:
    """Finds each image's background, measuring it the first time and keeping it as a file from then on."""

    def __init__(
        self,
        settings: Preprocessing,
        folder: Path | Place,
        frames_of: Callable[[str], Sequence[FrameFile]],
        measured: Path | None = None,
        *,
        read_image: ReadImage | None = None,
    ) -> None:
        """`folder`: where the files are kept. `frames_of`: all frames of a sequence, in order.

        measured: an image to use for all sequences, in place of their means. RequestError: it cannot be read.
        read_image: None reads files of this machine.
        """
        self.settings, self.folder, self.frames_of = settings, as_place(folder), frames_of
        self.read_image = read_image or ImageFiles().decode
        self.measured = None if measured is None else _read_measured(measured)
        self._measured_shift = None if self.measured is None else self._shift(self.measured, 1)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Background | None] = OrderedDict()

    def find(self, sequence: str, image: Pixels) -> Background | None:
        """The background of an image as read; None where no rule asks for one, or too few frames (it warns).

        UnsupportedImage: the measured background is of another size or kind.
        """
        if self.measured is not None:
            if _kind(self.measured) != _kind(image):
                raise UnsupportedImage(
                    f"the image is {_kind(image)}, the background given {_kind(self.measured)}"
                )
            return self._measured_shift
        if not self.settings.background_every:
            return None
        key = self._key(sequence, _kind(image))
        with self._lock:  # one thread measures, the others wait for what it found
            if key not in self._kept:
                self._kept[key] = self._load(key, sequence, image)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT or (len(self._kept) > 1 and self._kept_bytes() > KEPT_BYTES):
                self._kept.popitem(last=False)
            return self._kept[key]

    def _kept_bytes(self) -> int:
        return sum(kept.shift.nbytes for kept in self._kept.values() if kept is not None)

    def is_at_hand(self, sequence: str, header: Header) -> bool:
        """Whether `find` would neither measure nor read anything for an image with this header."""
        if self.measured is not None or not self.settings.background_every:
            return True
        kind = _kind_of(header.height, header.width, header.channels, header.bit_depth)
        return self._key(sequence, kind) in self._kept

    def _key(self, sequence: str, kind: str) -> str:
        return f"{sequence_key(sequence)}-{kind}-every-{self.settings.background_every}"

    def _load(self, key: str, sequence: str, image: Pixels) -> Background | None:
        name = f"{key}.npz"
        saved = self.folder.read(name)
        if saved is None:
            frames = self.frames_of(sequence)
            mean, used = mean_frame(frames, image, self.settings.background_every, self.read_image)
            if len(used) < FEWEST_FRAMES:
                warnings.warn(
                    f"sequence {sequence!r} has {len(used)} frames fit for a background, fewer than "
                    f"{FEWEST_FRAMES}: none is subtracted",
                    DataWarning,
                    stacklevel=2,
                )
            saved = _encode_background(mean, sequence, used)
            del mean  # 8 bytes a sample, and the same again below
            self.folder.write(name, saved)
        mean, num_frames = _decode_background(saved, f"{self.folder}/{name}")
        del saved
        return None if num_frames < FEWEST_FRAMES else self._shift(mean, num_frames)

    def _shift(self, mean: NDArray[np.generic], num_frames: int) -> Background:
        shift = mean.astype(np.float64)
        shift -= shift.mean(axis=(0, 1), keepdims=True)
        shift *= self.settings.background_factor  # in place: at the pixel limit it is 2 GB a channel
        return Background(shift.astype(np.float32), num_frames)


def _decode_background(saved: bytes, where: str) -> tuple[NDArray[np.generic], int]:
    """A mean frame and how many are in it. RequestError, naming `where`: the file is damaged."""
    try:
        with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
            return arrays["mean"], len(json.loads(str(arrays["about"]))["frames"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = str(error).partition("\n")[0]
        raise RequestError(f"background {where} is damaged ({why}); put it back from a copy") from None


def choose_frames(count: int, every: int) -> range:
    """Places of frames 0, k, 2k, ... of `count`: k is `every`, lowered until 8 are taken, or all."""
    step = every
    while step > 1 and len(range(0, count, step)) < ENOUGH_FRAMES:
        step -= 1
    return range(0, count, step)


def mean_frame(
    frames: Sequence[FrameFile], like: Pixels, every: int, read_image: ReadImage
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The mean of every k-th frame, float64 of `like`'s shape, and the names of those in it.

    Frames that cannot be read, or are of another size or kind than `like`, are left out, with a warning that
    names them; k is lowered until 8 are used. Summed in integers and divided once: any order gives the same.
    """
    unfit: dict[str, str] = {}
    while True:
        chosen = [frames[place] for place in choose_frames(len(frames), every)]
        total, used = np.zeros(like.shape, np.uint64), []
        for name, file in chosen:
            read = partial(read_image, file, split_page(name)[1])
            pixels = None if name in unfit else _read_frame(name, read, like, unfit)
            if pixels is not None:
                total += pixels
                used.append(name)
        if len(used) >= ENOUGH_FRAMES or every == 1:
            break
        every -= 1
    if unfit:
        listed = "; ".join(f"{name}: {cause}" for name, cause in list(unfit.items())[:5])
        warnings.warn(
            f"{len(unfit)} frames are left out of a background: {listed}", DataWarning, stacklevel=2
        )
    return total / max(1, len(used)), tuple(used)


def _read_frame(name: str, read: Callable[[], Pixels], like: Pixels, unfit: dict[str, str]) -> Pixels | None:
    try:
        pixels = read()
    except (ImageError, OSError) as error:
        unfit[name] = str(error)
        return None
    if _kind(pixels) != _kind(like):
        unfit[name] = f"it is {_kind(pixels)}, not {_kind(like)}"
        return None
    return pixels


def _kind(image: Pixels) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return _kind_of(image.shape[0], image.shape[1], channels, image.dtype.itemsize * 8)


def _kind_of(height: int, width: int, channels: int, bits: int) -> str:
    return f"{height}x{width}x{channels}-{bits}bit"


def _encode_background(mean: NDArray[np.float64], sequence: str, used: tuple[str, ...]) -> bytes:
    about, file = json.dumps({"sequence": sequence, "frames": used}), io.BytesIO()
    np.savez(file, mean=mean, about=np.array(about))
    return file.getvalue()


def _read_measured(file: Path) -> Pixels:
    try:
        return decode_image(read_file(file).data)
    except (ImageError, OSError) as error:
        raise RequestError(f"`background={file}` cannot be read: {error}; give an image") from None
