"""The label files that labelling reads and writes: YOLO in boxes/, a copy as JSON in boxes-json/."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seg.data.images import read_file
from seg.data.labels import Box, describe_kinds, parse_yolo
from seg.data.layout import read_classes
from seg.data.listing import is_inside
from seg.data.pairing import label_stem, pair_labels
from seg.errors import LabelMismatch, RequestError
from seg.files import write_bytes, write_json

Boxes = tuple[Box, ...]
"""Boxes of an image, in file order; none: all of it is background."""

DEFAULT_CLASSES = ("background", "sample")


def find_folders(folder: Path, out: Path | None) -> tuple[Path, Path]:
    """The folder of the images, and the one that boxes/ and classes.txt are in or will be.

    The plain layout's images/ and its parent; another folder of images, and a sibling FOLDER-labels.
    """
    folder = folder.resolve()
    images = folder / "images" if (folder / "images").is_dir() else folder
    beside = images.parent if images.name == "images" else folder.with_name(f"{folder.name}-labels")
    return images, beside if out is None else out.resolve()


def choose_classes(
    root: Path, given: Sequence[str] = (), of_model: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Class names in id order: of ROOT/classes.txt, else those given after background, else the model's.

    RequestError: they contradict each other, or there is no class for a box.
    """
    file, asked = root / "classes.txt", ("background", *given) if given else None
    there = read_classes(file) if file.is_file() else None
    classes: tuple[str, ...] = there or asked or of_model or DEFAULT_CLASSES
    for source, names in (("`classes` asks for", asked), ("the model knows", of_model)):
        if names is not None and names != classes:
            where = file if there else "`classes`"
            raise RequestError(
                f"{where} names the classes {', '.join(classes)} but {source} {', '.join(names)}; "
                "give the same classes, in the same order"
            )
    if len(classes) < 2:
        raise RequestError(f"{file} names {', '.join(classes)} alone; boxes need a class on a second line")
    return classes


class LabelFiles:
    """Labels of images as files under one folder. ROOT/boxes counts; nothing is made before a save."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.root, self.classes = root, classes
        self.boxes, self.json = root / "boxes", root / "boxes-json"

    def find_labelled(self, images: Sequence[str]) -> set[str]:
        """Which images have a label. RequestError: one that is no YOLO file, or that two images share."""
        shared = [label for label, uses in Counter(map(label_stem, images)).items() if uses > 1]
        if shared:
            names = " and ".join(image for image in images if label_stem(image) == shared[0])
            raise RequestError(
                f"label {self.boxes / shared[0]}.txt would be of {names}; rename one, or label them apart"
            )
        paired = pair_labels(list(images), self.boxes) if self.boxes.is_dir() else {}
        for image, label in paired.items():
            if not label.endswith(".txt"):
                raise RequestError(
                    f"labels {self.boxes}: {image} is labelled by {label}; labelling writes YOLO files, "
                    "so move that elsewhere or give another `out`"
                )
        return set(paired)

    def read(self, image: str, size: tuple[int, int]) -> Boxes | None:
        """Boxes of an image of `size` (H, W), edges to a thousandth of a pixel; None: it has no label.

        LabelMismatch: the file does not parse, has a class that classes.txt does not name, or is a link that
        leads out of boxes/.
        """
        path = self.yolo_file(image)
        if not is_inside(path, self.boxes.resolve()):
            raise LabelMismatch(f"label {path} is a link out of {self.boxes} and is not read; remove it")
        try:
            data = read_file(path).data
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LabelMismatch(f"label {path} cannot be read: {os.strerror(error.errno or 0)}") from None
        boxes = tuple(parse_yolo(data, path, size))
        for box in boxes:
            if not 0 < box.kind < len(self.classes):
                raise LabelMismatch(f"{box.where}: {describe_kinds(len(self.classes))}")
        return tuple(
            make_box(box.kind, *(round(edge, 3) for edge in (box.left, box.top, box.right, box.bottom)))
            for box in boxes
        )

    def write(self, image: str, boxes: Boxes | None, size: tuple[int, int]) -> None:
        """Save an image's boxes, each file whole; None removes its label. RequestError: it cannot be done."""
        try:
            if boxes is None:
                self.yolo_file(image).unlink(missing_ok=True)
                self.json_file(image).unlink(missing_ok=True)
                return
            if not (self.root / "classes.txt").exists():
                write_bytes(self.root / "classes.txt", "".join(f"{name}\n" for name in self.classes).encode())
            write_bytes(self.yolo_file(image), _to_yolo(boxes, size).encode())
            write_json(self.json_file(image), self._to_json(boxes))
        except OSError as error:
            raise RequestError(
                f"labels {self.root} cannot be written: {os.strerror(error.errno or 0)} "
                f"({error.filename}); mend that, or give another `out`; all before this change is saved"
            ) from None

    def yolo_file(self, image: str) -> Path:
        """Where the YOLO boxes of an image are, or will be."""
        return self.boxes / f"{label_stem(image)}.txt"

    def json_file(self, image: str) -> Path:
        """Where their copy as JSON is, or will be."""
        return self.json / f"{label_stem(image)}.json"

    def _to_json(self, boxes: Boxes) -> dict[str, list[object]]:
        rows = [
            [_plain(value) for value in (box.left, box.top, box.right - box.left, box.bottom - box.top)]
            for box in boxes
        ]
        return {"boxes": [*rows], "classes": [self.classes[box.kind] for box in boxes]}


def make_box(kind: int, left: float, top: float, right: float, bottom: float) -> Box:
    """A box of class `kind` with edges in own pixels."""
    return Box(kind, left, top, right, bottom, "drawn")


def _to_yolo(boxes: Boxes, size: tuple[int, int]) -> str:
    height, width = size
    lines = []
    for box in boxes:
        x, y = (box.left + box.right) / 2 / width, (box.top + box.bottom) / 2 / height
        w, h = (box.right - box.left) / width, (box.bottom - box.top) / height
        # ten digits: within 0.0001 px on the longest side that is decoded, 2^20 px
        lines.append(f"{box.kind - 1} {x:.10f} {y:.10f} {w:.10f} {h:.10f}\n")
    return "".join(lines)


def _plain(value: float) -> float:
    """A number to a thousandth, without a fraction where it has none."""
    value = round(value, 3)
    return int(value) if value == int(value) else value
