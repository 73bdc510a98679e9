"""What a scores folder holds for other tools: COCO's JSON, YOLO's files, masks, a table of objects."""

import io
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from seg.data.labels import decode_mask, encode_mask
from seg.errors import DamagedFile, ImageError, RequestError
from seg.files import replacing
from seg.ledger.ledger import ImageSize, Ledger, read_ledger
from seg.ledger.outcome import OBJECTS_SCHEMA, FoundObject
from seg.plain_data import require_fields
from seg.report.survey import natural_order
from seg.score.paths import export_name, mask_name
from seg.storage import Place
from seg.threads import map_ahead

ExportKind = Literal["coco", "yolo", "masks"]
MOST_ROWS = 1_048_575
"""Objects of a table at most: what spreadsheets open, below its heading."""
NO_OBJECTS = OBJECTS_SCHEMA.empty_table()
WRITERS = 16
"""Files written at once: each waits for its disk, or for an object store's answer."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    where: str
    """The file, or the folder of the files."""
    images: int
    objects: int | None = None
    """None: their masks."""

    @property
    def line(self) -> str:
        """For people."""
        what = "masks" if self.objects is None else f"{self.objects} objects"
        return f"{self.where}: {what} of {self.images} images"


def export_objects(place: Place, kind: ExportKind, checked: Ledger | None = None) -> Exported:
    """Write the objects or masks of a scores folder into its exports/, over an earlier export.

    A million images are not in memory at once. Each file appears whole or not at all, and once more writes
    the same. RequestError: no scores folder, or two images whose files would be one. DamagedFile: a part or
    a mask of it. checked: its ledger, where all parts are known to be sound.
    """
    identity = place.read_json("run.json")
    if identity is None:
        raise RequestError(
            f"{place} holds no run.json, so it is no scores folder; give the `out` of a scoring"
        )
    classes = require_fields({"classes": list[str]}, identity, f"{place}/run.json")["classes"]
    export = {"coco": _export_coco, "yolo": _export_yolo, "masks": _export_masks}[kind]
    return export(checked or read_ledger(place), classes)


def _export_coco(ledger: Ledger, classes: list[str]) -> Exported:
    """exports/coco.json: images, annotations and categories, as COCO's data format has them."""
    place = ledger.place
    images, objects = count(1), count(1)  # from 1: COCO's own evaluation takes an annotation 0 for none
    categories = [{"id": k, "name": name} for k, name in enumerate(classes) if k > 0]
    with _writing(place, "exports/coco.json") as file:
        file.write('{"images": [')
        _write_items(
            file,
            (
                {"id": next(images), "file_name": name, "width": width, "height": height}
                for name, height, width in _read_sizes(ledger)
            ),
        )
        file.write('],\n"annotations": [')
        known = enumerate(ledger.with_objects(), start=1)
        _write_items(
            file, (_annotation(one, next(objects), image) for image, (_, found) in known for one in found)
        )
        file.write(f'],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')
    return Exported(f"{place}/exports/coco.json", next(images) - 1, next(objects) - 1)


def _annotation(found: FoundObject, number: int, image: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": found.class_id,
        "bbox": [found.x, found.y, found.width, found.height],
        "area": found.area,
        "score": found.confidence,
        "iscrowd": 0,
    }


def _write_items(file: TextIO, items: Iterable[Any]) -> None:
    """The items of a JSON list, a line each."""
    separator = "\n"
    for item in items:
        file.write(separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        separator = ",\n"


def _export_yolo(ledger: Ledger, classes: list[str]) -> Exported:
    """exports/yolo/: a text file an image, an object a line; classes.txt without background."""
    refuse_shared_files(lambda: (image.image for image in _read_sizes(ledger)), "yolo")
    place = ledger.place
    folder = place.below("exports/yolo")
    listed = "".join(f"{name}\n" for name in classes[1:])
    place.below("exports").write_below("yolo/classes.txt", listed.encode())

    def write(one: tuple[ImageSize, list[FoundObject]]) -> int:
        image, found = one
        text = "".join(_yolo_line(each, image) for each in found)
        folder.write_below(export_name("yolo", image.image), text.encode())
        return len(found)

    images = objects = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        for written in map_ahead(pool, write, ledger.with_objects(), 2 * WRITERS):
            images, objects = images + 1, objects + written
    return Exported(str(folder), images, objects)


def _yolo_line(found: FoundObject, image: ImageSize) -> str:
    """Class from 0, centre and size as shares of the image, and the confidence where it is known."""
    x, y = (found.x + found.width / 2) / image.width, (found.y + found.height / 2) / image.height
    shares = (x, y, found.width / image.width, found.height / image.height)
    # ten digits: within 0.0001 px on the longest side that is decoded, 2^20 px
    box = " ".join(f"{share:.10f}" for share in shares)
    confidence = "" if found.confidence is None else f" {found.confidence:.6f}"
    return f"{found.class_id - 1} {box}{confidence}\n"


def _export_masks(ledger: Ledger, _classes: list[str]) -> Exported:
    """exports/masks/: class ids as grays, which all readers give as they are; named as labels are."""
    refuse_shared_files(lambda: (image.image for image in _read_sizes(ledger)), "masks")
    place = ledger.place
    masks, exports = place.below("masks"), place.below("exports")

    def write(image: ImageSize) -> None:
        try:
            ids = decode_mask(masks.read(mask_name(image.image)) or b"")
        except ImageError as error:
            raise DamagedFile(
                f"{masks}/{mask_name(image.image)} is missing or damaged ({error}); remove it, and the "
                "command that scored this folder makes it again"
            ) from None
        content = encode_mask(np.asarray(ids, np.uint8))
        exports.write_below(f"masks/{export_name('masks', image.image)}", content)

    with ThreadPoolExecutor(WRITERS) as pool:
        images = sum(1 for _ in map_ahead(pool, write, _read_sizes(ledger), 2 * WRITERS))
    return Exported(f"{exports}/masks", images)


def write_object_table(place: Place, ledger: Ledger, classes: Sequence[str], count: int) -> str:
    """Write objects.csv of a scores folder, images in natural order; what there is to say of it.

    count: of all objects. More than MOST_ROWS are left in objects/, and an earlier table is removed.
    """
    if count > MOST_ROWS:
        place.remove("objects.csv")
        return f"no objects.csv: {count:,} objects are more than spreadsheets open; {place}/objects has them"
    place.write("objects.csv", format_objects(pa.concat_tables([NO_OBJECTS, *ledger.objects()]), classes))
    return f"objects: {place.uri}/objects.csv"


def format_objects(objects: pa.Table, classes: Sequence[str]) -> bytes:
    """Rows of `OBJECTS_SCHEMA` as CSV, by image in natural order, with the names of classes for their ids."""
    images = pa.chunked_array([objects["image"].unique()])
    ranked = images.take(pa.array(natural_order(images)))
    places = pc.call_function("index_in", [objects["image"]], pc.SetLookupOptions(ranked))
    objects = objects.take(pc.call_function("sort_indices", [places]))
    named = pa.array(classes, pa.string()).take(objects["class_id"].combine_chunks())
    objects = objects.set_column(1, "class", named)
    file = io.BytesIO(f"{','.join(objects.column_names)}\n".encode())  # Arrow would quote each name
    file.seek(0, io.SEEK_END)
    csv.write_csv(objects, file, csv.WriteOptions(include_header=False, quoting_style="needed"))
    return file.getvalue()


def refuse_shared_files(names: Callable[[], Iterable[str]], kind: Literal["yolo", "masks"]) -> None:
    """RequestError: two images, as a.png and a.tif, have the same file, or one has YOLO's classes.txt.

    names: gives all images, each time that it is called.
    """
    others = {"classes.txt": "the list of classes"} if kind == "yolo" else {}
    files = chain(others, (export_name(kind, image) for image in names()))
    values, uses = np.unique(np.array(array("q", map(hash, files))), return_counts=True)
    twice = set(values[uses > 1].tolist())  # hashes take 8 bytes an image, where names would take 100
    seen = others
    for image in names() if twice else ():
        name = export_name(kind, image)
        if hash(name) in twice and seen.setdefault(name, image) != image:
            raise RequestError(
                f"exports/{kind}/{name} would be of {seen[name]} and of {image}; export coco, "
                "or rename or leave out one image"
            )


def _read_sizes(ledger: Ledger) -> Iterator[ImageSize]:
    for rows in ledger.rows(list(ImageSize._fields)):
        yield from map(ImageSize._make, zip(*rows.to_pydict().values(), strict=True))


@contextmanager
def _writing(place: Place, name: str) -> Iterator[TextIO]:
    """A text file of a place, written bit by bit, that appears whole once the block ends without an error."""
    if place.is_local:
        kept = replacing(place.local(name), make_folder=place.makes_folders)
        with kept as path, path.open("w", encoding="utf-8") as file:
            yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "export")
        with path.open("w", encoding="utf-8") as file:
            yield file
        place.upload(name, path)
