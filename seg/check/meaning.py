"""What the ids that labels store mean: the classes, and the label map that leads to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg.data.labels import IGNORE, LabelMap

ONE_CLASS = ("background", "object")
"""The classes where nothing names any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """Classes in id order, and what stored ids become."""

    classes: tuple[str, ...]
    label_map: tuple[tuple[int, int], ...] = ()
    """Pairs: stored id, class id; other ids stay."""
    foreground: int | None = None
    """The one stored id that marks objects, all others being background, where that says it all."""
    unknown: tuple[int, ...] = ()
    """Ids that are no class then, nor 255."""
    joined: tuple[int, ...] = ()
    """Stored ids that are one class since no name tells them apart."""

    def table(self) -> NDArray[np.int64]:
        """Class id by stored id [256]; 255 is ignored, -1 unknown."""
        table = np.arange(IGNORE + 1)
        if self.foreground is not None:
            table = (table == self.foreground).astype(np.int64)
        for stored, meant in self.label_map:
            table[stored] = meant
        table[(table >= len(self.classes)) & (table != IGNORE)] = -1
        return table

    def count(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels of each class [C] from those of each stored id [256]."""
        table = self.table()
        return np.array([pixels[table == number].sum() for number in range(len(self.classes))], np.int64)

    def count_ignored(self, pixels: NDArray[np.int64]) -> int:
        """Pixels that are ignored, of those of each stored id [256]."""
        return int(pixels[self.table() == IGNORE].sum())


def read_meaning(
    classes: Sequence[str],
    stored: Sequence[int],
    label_map: LabelMap | None = None,
    foreground: int | None = None,
    *,
    masks: bool = True,
) -> Meaning:
    """What the stored ids mean.

    classes: names in id order, where there are any. label_map, foreground: as a training was told, which then
    holds as it is; None: find them. masks: labels are masks, whose ids a map changes; boxes have none. The
    rules:

    1. With names an id is the class of its number, and 255 ignored; but masks of 0 and 255 alone mark
       objects by 255, or none would be in them.
    2. Without names there is one class beside background. A single id beside 0 marks it, 255 too; several
       mark it together (masks that number objects, or keep touching ones apart), and 255 is then ignored.
    """
    ids = sorted(set(stored) - {0, IGNORE})
    names = tuple(classes) or ONE_CLASS
    pairs, joined = (), ()
    if foreground is not None or label_map is not None:
        pairs = tuple((number, meant) for number, meant in label_map or ())
    elif masks and not ids and IGNORE in stored and len(names) > 1:
        pairs, foreground = (((IGNORE, 1),), None) if classes else ((), IGNORE)
    elif masks and not classes and len(ids) == 1 and ids != [1]:
        pairs, foreground = (((ids[0], 1),), None) if IGNORE in stored else ((), ids[0])
    elif masks and not classes and len(ids) > 1:
        pairs, joined = tuple((number, 1) for number in ids if number != 1), tuple(ids)
    found = Meaning(classes=names, label_map=pairs, foreground=foreground, joined=joined)
    table = found.table()
    unknown = tuple(number for number in sorted(set(stored)) if table[number] < 0)
    return Meaning(classes=names, label_map=pairs, foreground=foreground, joined=joined, unknown=unknown)
