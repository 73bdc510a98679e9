"""What a scores folder holds as Arrow tables, for whoever computes with it: images, objects, quarantine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.errors import RequestError
from seg.ledger.ledger import read_ledger
from seg.ledger.outcome import LEDGER_SCHEMA, OBJECTS_SCHEMA, QUARANTINE_SCHEMA, with_class_names
from seg.metrics import iou, mean_present
from seg.report.survey import matrix_of, natural_order, read_identity
from seg.storage import Place
from seg.words import plural, ratio


@dataclass(frozen=True)
class ScoreTables:
    """Tables of a scores folder; each is read, and every part of it checked, when it is first asked for.

    A scoring that still runs is read as far as it has committed; columns: docs/reference/scores.md.
    A million images take about 1 GB. DamagedFile: a part is not as it was written.
    """

    place: Place
    classes: tuple[str, ...]
    """Names, in id order."""

    @cached_property
    def images(self) -> pa.Table:
        """The ledger, a row an image, in natural order of their names."""
        table = pa.concat_tables([LEDGER_SCHEMA.empty_table(), *read_ledger(self.place).rows()])
        return table.take(pa.array(natural_order(table["image"])))

    @cached_property
    def objects(self) -> pa.Table:
        """The predicted objects with their classes' names, a row an object; images as in `images`."""
        table = pa.concat_tables([OBJECTS_SCHEMA.empty_table(), *read_ledger(self.place).objects()])
        images = self.images["image"].combine_chunks()
        places = pc.call_function("index_in", [table["image"]], pc.SetLookupOptions(images))
        order = pc.call_function("sort_indices", [places])  # stable: an image's keep their order
        return with_class_names(table.take(order), self.classes)

    @cached_property
    def quarantine(self) -> pa.Table:
        """The images that were set aside, each with its reason, in natural order of their names."""
        tables = read_ledger(self.place).quarantine_rows()
        table = pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *tables])
        return table.take(pa.array(natural_order(table["image"])))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Pixels by truth (row) and prediction (column) over all labelled images, int64 [C, C]."""
        size = len(self.classes)
        return matrix_of(self.images["confusion"], size**2).sum(0).reshape(size, size)

    @property
    def iou(self) -> dict[str, float]:
        """Intersection over union by class; NaN: the class is in neither truth nor prediction."""
        return dict(zip(self.classes, iou(self.confusion).tolist(), strict=True))

    @property
    def miou(self) -> float:
        """Its mean over the classes that occur; NaN: nothing is labelled."""
        return mean_present(iou(self.confusion))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds. RequestError: the scoring has not ended, so there is none."""
        found = self.place.read_json("summary.json")
        if found is None:
            raise RequestError(
                f"{self.place.uri} has no summary.json yet; end its scoring with the command it began with"
            )
        return found

    def __repr__(self) -> str:
        aside = f", {len(self.quarantine):,} in quarantine" if len(self.quarantine) else ""
        return f"<{self.place}: {plural(len(self.images), 'image')}{aside}, mIoU {ratio(self.miou)}>"


def open_tables(place: Place) -> ScoreTables:
    """The tables of a scores folder. RequestError: it is none, or its run.json is damaged."""
    return ScoreTables(place, read_identity(place)[0].classes)
