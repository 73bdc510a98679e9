"""From what a model says of an image to its outcome: objects, mask, overlay, the row of the ledger."""

import hashlib
import io
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from seg.data.labels import encode_mask
from seg.figures.panels import class_palette
from seg.figures.plots import draw_overlay
from seg.files import persistently
from seg.ledger.outcome import Scored
from seg.objects import find_objects, match_objects, object_rows
from seg.score.paths import mask_name
from seg.score.read import ScorerSettings
from seg.score.work import Work
from seg.storage import Place

DRAWING = threading.Lock()
"""Matplotlib, which writes an overlay's words, serves one thread at a time."""
WRITERS = 2
"""Masks that a process encodes and writes at a time, behind the model."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask's file as it was written; None: there is none."""

    mask_bytes: int | None = None
    mask_sha256: str | None = None


def write_mask(place: Place, name: str, ids: NDArray[np.uint8], palette: bytes = b"") -> MaskFile:
    """Write class ids as an 8-bit PNG of one channel, whole or not at all.

    palette: as of `encode_mask`. The folders of sequences are made below place. OSError: storage refused,
    also after a while.
    """
    content = encode_mask(ids, palette)
    persistently(partial(place.write_below, name, content), f"{place}/{name}")
    return MaskFile(len(content), hashlib.sha256(content).hexdigest())


class ImageFinisher:
    """The last stage: objects, mask, overlay, outcome; needs neither a model nor torch."""

    def __init__(self, settings: ScorerSettings, classes: Sequence[str]) -> None:
        self.settings, self.classes = settings, classes
        self.palette = class_palette(classes) if settings.masks_form == "palette" else b""

    def finish(self, work: Work) -> Scored:
        """Find a predicted image's objects, write its mask and overlay.

        OSError: storage refused, also after a while.
        """
        assert work.file is not None, "it was read"
        assert work.pixels is not None, "it was decoded"
        assert work.predicted is not None, "it was predicted"
        found, settings, num_classes = work.predicted, self.settings, len(self.classes)
        with work.timed("write"):
            objects = find_objects(found.ids, num_classes, settings.min_object_px, found.probability)
            matches = work.label and match_objects(objects, work.label, num_classes, settings.min_object_px)
            rows = object_rows(work.order.image, objects, matches and matches.ious)
            masks, name = settings.out.below("masks"), mask_name(work.order.image)
            mask = write_mask(masks, name, found.ids, self.palette) if settings.masks else MaskFile()
            if work.shown is not None:
                self._write_overlay(work.order.image, work.shown, found.ids)
        return Scored(
            image=work.order.image,
            **asdict(work.file),
            **asdict(work.label_file),
            **asdict(work.pixels),
            labelled=work.label is not None,
            **asdict(found.counts),
            confidence=found.confidence,
            objects_found=matches and tuple(matches.found.tolist()),
            objects_missed=matches and tuple(matches.missed.tolist()),
            objects_invented=matches and tuple(matches.invented.tolist()),
            **asdict(mask),
            background_frames=work.background_frames,
            seconds_read=work.seconds["read"],
            seconds_decode=work.seconds["decode"],
            seconds_model=work.seconds["model"],
            seconds_write=work.seconds["write"],
            attempt=work.order.attempt,
            finished_at=datetime.now(UTC),
            objects=rows,
            orientation=work.orientation,
        )

    def _write_overlay(self, image: str, shown: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None:
        picture, place = io.BytesIO(), self.settings.out.below("overlays")
        with DRAWING:
            draw_overlay(image, shown, ids, self.classes).save(picture)
        write = partial(place.write_below, mask_name(image), picture.getvalue())
        persistently(write, f"{place}/{mask_name(image)}")
