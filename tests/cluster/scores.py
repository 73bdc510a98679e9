"""Scores folders whose every number is chosen by a test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.ledger.ledger import Ledger
from seg.ledger.outcome import LEDGER_SCHEMA, Quarantined, Scored
from seg.storage import Place, as_place

BEGAN = datetime(2026, 1, 1, 18, tzinfo=UTC)


def make_row(
    image: str, matrix: NDArray[np.int64] | None, *, num_classes: int = 3, **values: Any
) -> dict[str, Any]:
    """The fields of a Scored; `matrix`: its confusion, None where it has no label."""
    labelled = matrix is not None
    row: dict[str, Any] = dict.fromkeys(LEDGER_SCHEMA.names)
    row |= {"height": 10, "width": 12, "channels": 1, "bit_depth": 8, "sha256": f"of {image}"}
    row |= {"labelled": labelled, "class_pixels": [40] * num_classes, "confidence": 0.5}
    row |= {"intensity_mean": 100.0, "intensity_std": 9.0, "finished_at": BEGAN + timedelta(seconds=9)}
    if labelled:
        row |= {"confusion": matrix.ravel().tolist(), "class_pixels": matrix.sum(0).tolist(), "ignored": 0}
        row |= {"label_path": f"{image}.png", "label_sha256": f"label of {image}"}
        row |= {f"objects_{kind}": [0] * num_classes for kind in ("found", "missed", "invented")}
    return row | {"image": image} | values


def random_rows(count: int, *, seed: int, num_classes: int = 3, unlabelled: int = 0) -> list[dict[str, Any]]:
    """Rows of images s0/0.png, s1/1.png, ... in no order; classes come and go, the last has no pixel."""
    random = np.random.default_rng(seed)
    rows = []
    for number in random.permutation(count).tolist():
        matrix = random.integers(0, 50, (num_classes, num_classes)) * (random.random(num_classes) < 0.7)
        matrix = matrix * (random.random((num_classes, 1)) < 0.7)
        matrix[0, 0] += 1
        matrix *= number < count - 1
        numbers = {"confidence": random.random(), "intensity_mean": 255 * random.random()}
        labelled = None if number < unlabelled else matrix
        rows.append(make_row(f"s{number % 3}/{number}.png", labelled, num_classes=num_classes, **numbers))
    return rows


def write_scores(
    folder: Path, rows: Sequence[dict[str, Any] | Quarantined], *, part: int = 7, **run: Any
) -> Place:
    """A scores folder of three classes with these rows, in parts of so many; without masks."""
    place = as_place(folder)
    ledger = Ledger(place)
    outcomes = [row if isinstance(row, Quarantined) else Scored(**row) for row in rows]
    for first in range(0, len(rows), part):
        ledger.add(outcomes[first : first + part])
        ledger.commit()
    scored = [one for one in outcomes if isinstance(one, Scored)]
    defaults = {"archive": "/data/archive", "labels": "/data/labels", "masks": "none", "label_map": []}
    run = defaults | {"sequence": "", "min_object_px": 64, "classes": ["background", "disc", "dust"]} | run
    place.write_json("run.json", run)
    summary = {
        "classes": run["classes"],
        "images_found": len(rows),
        "images_scored": len(scored),
        "images_skipped": 0,
        "images_quarantined": len(rows) - len(scored),
        "images_left": 0,
        "images_ignored": {},
        "pixels": 1,
        "images_per_second": 1.0,
        "megapixels_per_second": 1.0,
        "stage_seconds": {"read": 1.0, "decode": 2.0, "model": 5.0, "write": 2.0},
        "bound_by": "model",
        "stopped_by": "finished",
    }
    place.write_json("summary.json", summary)
    return place
