"""Any data set's part as a folder in the plain layout, which is how a test part is scored."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import category

from seg.data import DATASETS
from seg.data.images import ImageFiles, split_page
from seg.data.labels import LabelMap, encode_mask, map_foreground
from seg.data.layout import DataSet, Sample
from seg.data.plain import LabelRule, choose_adapter
from seg.data.splits import data_fingerprint, pool_parts, split_samples
from seg.errors import ImageError, RequestError
from seg.files import TEMPORARY, read_json, replacing, require_data_folder, write_bytes, write_json
from seg.plain_data import to_plain
from seg.progress import progress
from seg.threads import map_ahead

RECORD = ".conversion.json"
"""What a folder was made of. Hidden, so that it is no label of an image named conversion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which samples of a data set: a part of its split, and what decides the split."""

    dataset: str
    """Key in DATASETS."""
    split: str
    """train, validation or test."""
    seed: int = 0
    share: float = 0.2
    """Share of the sequences that validate, where the data set gives no split."""
    test_share: float = 0.0
    """Share of all sequences, the data set's own test part among them, drawn as test part; 0: its own."""
    sequence: str = ""
    label_map: LabelMap | None = None
    """None: the data set's own."""
    labels: Path | None = None
    """Of plain data, with the five below as in DataRequest."""
    label_suffix: str = ""
    foreground: int | None = None
    label_colours: Path | None = None
    classes: tuple[str, ...] = ()
    follow_links: bool = False

    def __post_init__(self) -> None:
        choose_adapter(self.dataset, DATASETS, self.rule)
        if self.foreground is not None and (self.label_map is not None or self.label_colours is not None):
            other = "label_map" if self.label_colours is None else "label_colours"
            raise RequestError(f"`foreground` and `{other}` both say what a mask means; leave one out")
        if self.seed < 0:
            raise RequestError(f"`seed` is {self.seed}; give 0 or more")
        if not 0 < self.share < 1:
            raise RequestError(f"`share` is {self.share}, not between 0 and 1; try 0.2")
        if not 0 <= self.test_share < 1:
            raise RequestError(f"`test_share` is {self.test_share}, not from 0 to below 1; try 0.05")

    @property
    def rule(self) -> LabelRule:
        """Where the labels are and how they are written."""
        return LabelRule.of(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """What a folder in the plain layout was made of."""

    dataset: str
    split: str
    how: str
    classes: tuple[str, ...]
    label_map: LabelMap
    data_fingerprint: str


@dataclass(frozen=True, slots=True)
class LabelsRecord:
    """What a folder of labels was made of."""

    labels: str
    """Sha256 of the file."""
    images: str | None


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion came to: images in the folder, how many of them are new, how they were chosen."""

    images: int
    new: int
    how: str


def convert_dataset(part: Part, source: Path, out: Path) -> Converted:
    """Write the samples of a part in the plain layout, with final ids; `out` is whole or absent.

    Images are copied byte for byte, masks become PNGs. Stopped half-way, the same command goes on. What is
    there already is left alone. RequestError, with nothing left: the folder is no such data set, the part is
    empty, an image or a label cannot be read, `out` holds other files or is inside `source`.
    """
    require_data_folder(source)
    if out.resolve().is_relative_to(source.resolve()):
        raise RequestError(f"{out} is inside {source}; give a folder outside of the data set")
    data = choose_adapter(part.dataset, DATASETS, part.rule)(source.resolve(), part.sequence)
    samples, how = _choose(data, part)
    label_map = data.label_map if part.label_map is None else part.label_map
    if part.foreground is not None:
        label_map = map_foreground(part.foreground)
    record = PartRecord(
        dataset=part.dataset,
        split=part.split,
        how=how,
        classes=data.classes,
        label_map=label_map,
        data_fingerprint=data_fingerprint(samples, data.root, labels=data.labels),
    )
    if is_converted(out, record):
        return Converted(len(samples), 0, how)
    with folder_in_making(out, record) as folder:
        new = _write_all(samples, partial(_write_sample, ImageFiles(), folder, record))
        write_bytes(folder / "classes.txt", "".join(f"{name}\n" for name in data.classes).encode())
    return Converted(len(samples), new, how)


def _choose(data: DataSet, part: Part) -> tuple[tuple[Sample, ...], str]:
    if part.split == "test" and not part.test_share:
        if not data.test:
            raise RequestError(
                f"data {data.root} has no test part in the layout {part.dataset}; try `split=validation`"
            )
        return data.test, "the data set's own test part"
    data = pool_parts(data) if part.test_share else data
    split = split_samples(data, part.share, part.seed, test_share=part.test_share)
    return getattr(split, part.split), split.how


def _write_all(samples: tuple[Sample, ...], write: Callable[[Sample], bool]) -> int:
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool, progress("converting images", len(samples)) as advance:
        new = 0
        for written in map_ahead(pool, write, samples, 2 * threads):
            new += written
            advance()
    return new


def _write_sample(files: ImageFiles, folder: Path, record: PartRecord, sample: Sample) -> bool:
    """Write a sample's mask, then its image; whether they were not there yet."""
    name = relative_name(sample.name, f"data, {sample.image}")
    image, mask = folder / "images" / split_page(name)[0], folder / "masks" / f"{name}.png"
    if image.is_file() and mask.is_file():
        return False
    assert sample.label is not None, "only frames between the samples have none"
    try:
        pixels = files.decode(sample.image, sample.page)
        ids = sample.read_mask(files, pixels.shape[:2], record.classes, record.label_map)
    except ImageError as error:
        raise RequestError(f"data: {sample.image}: {error}; mend or remove it") from None
    write_bytes(mask, encode_mask(ids))
    if not image.is_file():  # of a page: the others share it
        with replacing(image) as temporary:
            shutil.copyfile(sample.image, temporary)
    return True


def relative_name(name: str, where: str) -> str:
    """An image's name, with '/', as a path that stays where it is put. RequestError: it would not."""
    path = PurePosixPath(name)
    away = path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name)
    if away or not path.name or any(category(letter) in ("Cc", "Cs") for letter in name):
        raise RequestError(f"{where}: {name!r} is no name inside a folder; rename it")
    return path.as_posix()


def is_converted(out: Path, record: PartRecord | LabelsRecord) -> bool:
    """Whether `out` holds this very conversion. RequestError: it holds something else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise RequestError(f"{out} is a file; give an empty or a new folder")
    if not (out / RECORD).is_file():
        if any(out.iterdir()):
            raise RequestError(f"{out} holds other files and no {RECORD}; give an empty or a new folder")
        return False
    found, wanted = _read_record(out), to_plain(record)
    if found != wanted:
        odd = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        raise RequestError(
            f"{out} holds another conversion (it differs in {', '.join(odd)}); remove it first"
        )
    return True


def _read_record(folder: Path) -> Any:
    try:
        return read_json(folder / RECORD)
    except (OSError, RequestError):
        return None


@contextmanager
def folder_in_making(out: Path, record: PartRecord | LabelsRecord) -> Iterator[Path]:
    """A folder beside `out` to write to, which then becomes `out`; another command's beginnings are removed.

    After a crash or Ctrl-C it stays, for the same command to go on; after a RequestError nothing does.
    """
    out = out.resolve()
    folder = out.with_name(f".{out.name}{TEMPORARY}")
    if _read_record(folder) != to_plain(record):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / RECORD, asdict(record))
    try:
        yield folder
    except RequestError:
        shutil.rmtree(folder)
        raise
    for torn in list(folder.rglob(f".*{TEMPORARY}")):
        torn.unlink()
    folder.replace(out)
