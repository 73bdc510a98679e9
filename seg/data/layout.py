"""What a data set is: images with their labels, sequences and classes; and the lists that name them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from seg.data.images import ImageFiles, split_page
from seg.data.labels import IGNORE, LabelDecoder, LabelMap, decode_label, open_label
from seg.data.listing import is_inside, natural_key, sequence_of
from seg.errors import RequestError

MAX_CLASSES = 255
"""A mask has 8 bits, and its 255 is no class."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set: its name (relative, with '/'), its file, its label's file, its sequence.

    The name of a page of a TIFF ends in '#' and the page; `image` is the file that holds it.
    """

    name: str
    image: Path
    label: Path | None
    """None: it has none, and is there for its neighbours in the sequence. Where it is a page of a stack of
    masks, it ends in '#' and the page."""
    sequence: str
    decoder: LabelDecoder | None = None
    """What reads the label; None: `decode_label`, as the file itself says what it holds."""

    @property
    def page(self) -> int | None:
        """Which page of `image` it is, where that has several."""
        return split_page(self.name)[1]

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the image and of its label."""
        return (self.image,) if self.label is None else (self.image, Path(split_page(str(self.label))[0]))

    def read_mask(
        self, files: ImageFiles, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The label as a mask, uint8 of the image's own size, as of LabelDecoder; 255 where there is none."""
        if self.label is None:
            return np.full(size, IGNORE, np.uint8)
        decode = self.decoder or decode_label
        return decode(open_label(files, self.label), self.label, size, classes, label_map)


@dataclass(frozen=True, slots=True)
class DataSet:
    """What an adapter found in a folder: classes in id order, labelled samples, and what else it knows."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    given_split: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Names for training and for validation; None: the data set does not say."""
    test: tuple[Sample, ...] = ()
    """The data set's own test part; neither trains nor validates."""
    unlabelled: tuple[Sample, ...] = ()
    """Frames without a label between the samples of a sequence."""
    label_map: LabelMap = ()
    """What makes the stored ids final, where nobody says otherwise."""
    labels: Path | None = None
    """The folder of the labels, where that may lie outside `root`."""

    def frames(self) -> list[tuple[str, Path, str]]:
        """Name, file and sequence of every frame, labelled or not, in natural order; the test part's not."""
        frames = [(frame.name, frame.image, frame.sequence) for frame in (*self.samples, *self.unlabelled)]
        return sorted(frames, key=lambda frame: natural_key(frame[0]))


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names of a classes.txt. RequestError: it cannot be read; as of `parse_classes`, `refuse_link`."""
    refuse_link(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}); mend its permissions") from None
    return parse_classes(content, str(file))


def parse_classes(content: bytes, file: str) -> tuple[str, ...]:
    """Class names of a classes.txt, UTF-8, one a line in id order; `file` is for people.

    RequestError: another encoding, an empty or repeated name, or more than ids below 255.
    """
    try:
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{file} is no UTF-8 (its byte {error.start}); save it as UTF-8, one class name a line"
        ) from None
    names = tuple(name.strip() for name in (lines if lines[-1] else lines[:-1]))
    if len(names) > MAX_CLASSES:
        raise RequestError(
            f"{file}: {len(names)} classes, but ids end at {MAX_CLASSES - 1} and 255 is ignored"
        )
    wrong = next((k for k, name in enumerate(names) if not name or name in names[:k]), None if names else 0)
    if wrong is not None:
        raise RequestError(
            f"{file}: class names must be there, one a line, and differ; look at line {wrong + 1}"
        )
    return names


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a list that are not blank, stripped, each with 'FILE, line N' before it for messages.

    RequestError: as of `refuse_link`.
    """
    refuse_link(file)
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def photo_sequence(name: str, pattern: str) -> str:
    """The sequence of a photograph: itself, since it has no neighbours, unless the recipe's pattern says."""
    return sequence_of(name, pattern) if pattern else name


def refuse_link(file: Path) -> None:
    """RequestError: a list is a link out of its folder, whose text would be shown as names of classes."""
    if file.is_symlink() and not is_inside(file, file.parent.resolve()):
        raise RequestError(f"{file} is a link out of its folder; put the file itself there")


def require_file(folder: Path, name: str, where: str) -> Path:
    """The file of that name in a folder. `where`: which field of which line of which list names it.

    RequestError, which does not quote the name: no file is there; the name or a link leads out of the folder.
    """
    path = folder / name
    away = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if away or not is_inside(path, folder.resolve()):
        raise RequestError(f"{where} leads out of {folder}; name files in it, without .. or links")
    try:
        there = path.is_file()
    except OSError:  # a name longer than any file's
        there = False
    if not there:
        raise RequestError(f"{where} names no file in {folder}; mend it, or put the file there")
    return path
