"""Drinks on a table: photographs in one folder, polygons as VGG Image Annotator (VIA) projects (640 x 480).

The data of chapter 12 of Atienza, Advanced Deep Learning with Keras, 2nd edition.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.boxes import check_inside
from seg.data.formats.header import MAX_SIDE_PX
from seg.data.labels import Content, LabelMap, map_ids
from seg.data.layout import DataSet, Sample, photo_sequence, refuse_link, require_file
from seg.errors import RequestError

CLASSES = ("background", "Water", "Soda", "Juice")
"""VIA's attribute Name of a region is the id: 1, 2 or 3."""
METADATA = "_via_img_metadata"


@dataclass(frozen=True, slots=True)
class Polygon:
    """A region: its class and its corners, (x, y) in pixels; pixel (0, 0) has its centre at (0, 0)."""

    kind: int
    corners: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Polygons:
    """Draws the mask of one image; the label's file, which holds every image, was read before."""

    image: str
    regions: tuple[Polygon, ...]

    def __call__(
        self, data: Content, path: Path, size: tuple[int, int], classes: Sequence[str], label_map: LabelMap
    ) -> NDArray[np.uint8]:
        """The mask; see LabelDecoder. Later polygons cover earlier ones.

        A polygon's pixels are those whose centre is inside, and those on its edges as cv2.fillPoly draws
        lines, which is how the published masks were made.
        """
        mask = np.zeros(size, np.uint8)
        for number, region in enumerate(self.regions, start=1):
            corners = np.array(region.corners, np.int32)
            (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
            what = f"label {path}, {self.image}, region {number}: the polygon"
            check_inside((left, top, right + 1, bottom + 1), size, what)
            cv2.fillPoly(mask, [corners], (region.kind,))
        return map_ids(mask, len(classes), label_map, path)


def open_drinks(root: Path, sequence: str = "") -> DataSet:
    """segmentation_train.json, split by chance; segmentation_test.json, where it is there, is the test part.

    RequestError: segmentation_train.json is missing; a project does not parse, or is a link out of
    `root`; an image is not there, or not in `root`.
    """
    if not (root / "segmentation_train.json").is_file():
        raise RequestError(f"data {root} has no segmentation_train.json; give the folder drinks itself")
    train, test = (
        tuple(
            Sample(drawn.image, root / drawn.image, file, photo_sequence(drawn.image, sequence), drawn)
            for drawn in _read_project(file)
        )
        for file in (root / "segmentation_train.json", root / "segmentation_test.json")
    )
    return DataSet(root, CLASSES, train, test=test)


def _read_project(file: Path) -> list[Polygons]:
    """Each image's polygons, in the project's order. No file: nothing."""
    if not file.is_file():
        return []
    refuse_link(file)
    try:
        entries = json.loads(file.read_bytes())[METADATA].values()
        images = [(str(entry["filename"]), _in_order(entry["regions"])) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line = f" (line {error.lineno} is no JSON)" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(
            f"{file} is no VIA project, which has filename and regions of each image in {METADATA}{line}"
        ) from None
    found: dict[str, Polygons] = {}
    for number, (image, regions) in enumerate(images, start=1):
        where = f"{file}, entry {number}"
        require_file(file.parent, image, f"{where}, field filename")
        if image in found:
            raise RequestError(f"{where}: its image is there twice; give its regions in one entry")
        found[image] = Polygons(
            image, tuple(_read_region(one, f"{where}, region {k}") for k, one in enumerate(regions, start=1))
        )
    return list(found.values())


def _in_order(regions: Any) -> list[Any]:
    return list(regions.values() if isinstance(regions, dict) else regions)  # VIA 1 numbers them


def _read_region(region: Any, where: str) -> Polygon:
    try:
        shape, name = region["shape_attributes"], region["region_attributes"]["Name"]
        if shape["name"] != "polygon":
            raise ValueError("its shape is no polygon")
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        corners = tuple((round(x), round(y)) for x, y in zip(xs, ys, strict=True))
        if len(corners) < 3 or max(abs(value) for corner in corners for value in corner) > MAX_SIDE_PX:
            raise ValueError("its corners are too few, or far outside")
        if name not in {str(number) for number in range(1, len(CLASSES))}:
            raise ValueError("its Name is none of 1 (Water), 2 (Soda), 3 (Juice)")
    except ValueError as error:  # of round and zip too, which quote nothing
        raise RequestError(f"{where} is no polygon of a drink: {error}; mend it in VIA") from None
    except (KeyError, TypeError, OverflowError):
        raise RequestError(
            f"{where} is no polygon of a drink: shape_attributes has name, all_points_x and all_points_y, "
            "region_attributes has Name; mend it in VIA"
        ) from None
    return Polygon(int(name), corners)
