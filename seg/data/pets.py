"""Oxford-IIIT Pet in torchvision's layout: images/, annotations/trainval.txt, test.txt, trimaps/.

Parkhi et al., CVPR 2012. A trimap says 1 pet, 2 background, 3 border, which the authors left unclassified.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, Content, LabelMap, decode_ids, map_ids
from seg.data.layout import DataSet, Sample, photo_sequence, read_lines, require_file
from seg.errors import LabelMismatch, RequestError


@dataclass(frozen=True, slots=True)
class Trimap:
    """Reads a trimap: the class that each of its three values becomes."""

    pet: int
    border: int
    background: int = 0

    def __call__(
        self, data: Content, path: Path, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The mask; see LabelDecoder. `label_map` is applied to the classes, 255 among them."""
        table = np.full(256, -1, np.int16)
        table[1:4] = self.pet, self.background, self.border
        stored = decode_ids(data, path, size)
        ids = cv2.LUT(stored, table)
        if ids.min() < 0:
            raise LabelMismatch(
                f"label {path} holds {stored[ids < 0][0]}; a trimap has 1 (pet), 2 (background), 3 (border)"
            )
        return map_ids(ids.astype(np.uint8), len(classes), label_map, path)


def open_pets_binary(root: Path, sequence: str = "") -> DataSet:
    """Pet against background; the border is ignored. See `_open` for the rest."""
    return _open(root, sequence, ("background", "pet"), Trimap(pet=1, border=IGNORE))


def open_pets_trimap(root: Path, sequence: str = "") -> DataSet:
    """The three parts of a trimap as classes. See `_open` for the rest."""
    return _open(root, sequence, ("background", "pet", "border"), Trimap(pet=1, border=2))


def open_pets_breeds(root: Path, sequence: str = "") -> DataSet:
    """Mask x breed: background is class 0, a pet its breed's number in the lists; the border is ignored."""
    return _open(root, sequence, None, None)


def open_pets_breeds_only(root: Path, sequence: str = "") -> DataSet:
    """Mask x breed without a background class: a pet is its breed's number - 1, all else ignored."""
    data = open_pets_breeds(root, sequence)
    samples, tests = (
        tuple(
            replace(sample, decoder=Trimap(sample.decoder.pet - 1, IGNORE, IGNORE))
            for sample in part
            if isinstance(sample.decoder, Trimap)
        )
        for part in (data.samples, data.test)
    )
    return replace(data, classes=data.classes[1:], samples=samples, test=tests)


@dataclass(frozen=True, slots=True)
class Pet:
    """A line of a list: the image's name without ending, its breed's number from 1, and where it stands."""

    name: str
    number: int
    where: str

    @property
    def breed(self) -> str:
        """The breed as the file's name has it: american_bulldog of american_bulldog_100."""
        return self.name.rpartition("_")[0]


def _open(root: Path, sequence: str, classes: tuple[str, ...] | None, decoder: Trimap | None) -> DataSet:
    """trainval.txt is split by chance; test.txt, where it is there, is the test part.

    classes, decoder: None, None for breeds. RequestError: no trainval.txt, a line that does not parse, breeds
    and their numbers that do not agree, a file that is missing.
    """
    folder = root / "annotations"
    if not (folder / "trainval.txt").is_file():
        raise RequestError(
            f"data {root} has no annotations/trainval.txt; give the folder oxford-iiit-pet itself"
        )
    pets, test = (_read_list(folder / name) for name in ("trainval.txt", "test.txt"))
    classes = classes or ("background", *_breeds([*pets, *test]))
    samples, tests = (
        tuple(
            Sample(
                f"{pet.name}.jpg",
                require_file(root / "images", f"{pet.name}.jpg", f"{pet.where}, field NAME"),
                require_file(folder / "trimaps", f"{pet.name}.png", f"{pet.where}, field NAME"),
                photo_sequence(f"{pet.name}.jpg", sequence),
                decoder or Trimap(pet=pet.number, border=IGNORE),
            )
            for pet in part
        )
        for part in (pets, test)
    )
    return DataSet(root, classes, samples, test=tests)


def _read_list(file: Path) -> list[Pet]:
    """The lines 'NAME BREED SPECIES NUMBER'; species and number within it are not used. No file: nothing."""
    pets: dict[str, Pet] = {}
    for where, line in read_lines(file) if file.is_file() else ():
        if line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 4 or not (fields[1].isdecimal() and 1 <= int(fields[1]) < IGNORE):
            raise RequestError(f"{where}: it is not 'NAME BREED SPECIES NUMBER', breeds from 1")
        if fields[0] in pets:
            raise RequestError(f"{where}: its image is there twice; list it once")
        pets[fields[0]] = Pet(fields[0], int(fields[1]), where)
    return list(pets.values())


def _breeds(pets: list[Pet]) -> list[str]:
    """Breeds in the order of their numbers, which go from 1 without a gap and belong to one breed each."""
    names: dict[int, str] = {}
    for pet in pets:
        if names.setdefault(pet.number, pet.breed) != pet.breed:
            raise RequestError(f"{pet.where}: breed {pet.number} is another than above; mend number or name")
    breeds = [name for _, name in sorted(names.items())]
    if sorted(names) != list(range(1, len(names) + 1)) or len(set(breeds)) < len(breeds):
        raise RequestError(
            f"{pets[0].where.partition(',')[0]}: its {len(set(breeds))} breeds have no such "
            "numbers; number them 1, 2, 3, ... without a gap, each breed once"
        )
    return breeds
