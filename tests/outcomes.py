"""Outcomes of images, whose numbers add up where a test does not choose them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from seg.ledger.ledger import Ledger
from seg.ledger.outcome import STAGES, FoundObject, Quarantined, Scored
from seg.ledger.parts import Totals

BEGAN = datetime(2026, 1, 1, 18, tzinfo=UTC)


def make_scored(
    image: str = "a.png",
    confusion: Sequence[int] | None = None,
    size: tuple[int, int] = (2, 3),
    *,
    seconds: float = 0.5,
    **values: Any,
) -> Scored:
    """confusion: None where it has no label. seconds: of each stage."""
    pixels = size[0] * size[1]
    known: dict[str, Any] = {"bytes": 1000, "mtime_ns": 10**18, "sha256": f"of {image}"}
    known |= {"height": size[0], "width": size[1], "channels": 1, "bit_depth": 8}
    known |= {"labelled": confusion is not None, "class_pixels": (pixels, 0), "confidence": 0.5}
    if confusion is not None:
        known |= {"confusion": tuple(confusion), "ignored": pixels - sum(confusion)}
    known |= {"intensity_mean": 100.0, "intensity_std": 9.0, "background_frames": 0}
    known |= {f"seconds_{stage}": seconds for stage in STAGES} | {"attempt": 1, "finished_at": BEGAN}
    return Scored(image=image, **(known | values))


def make_aside(image: str = "b.png", reason: str = "truncated", **values: Any) -> Quarantined:
    """An image that was set aside."""
    known: dict[str, Any] = {"detail": "the file ends", "attempts": 1}
    return Quarantined(image=image, reason=reason, **(known | values))


def make_object(image: str, x: int, **values: Any) -> FoundObject:
    """An object of two pixels."""
    known: dict[str, Any] = {"class_id": 1, "x": x, "y": 0, "width": 2, "height": 1, "area": 2, "iou": 0.75}
    known |= {"centroid_x": x + 0.5, "centroid_y": 0.0, "confidence": 0.9, "touches_border": True}
    return FoundObject(image=image, **(known | values))


def totals_of(ledger: Ledger, num_classes: int) -> Totals:
    """The sums over all its rows."""
    totals = Totals.zeros(num_classes)
    for rows in ledger.rows():
        totals.add(rows)
    return totals
