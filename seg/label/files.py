"""The label files that labelling reads and writes: a mask in masks/, or boxes in boxes/ and boxes-json/."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.data.boxes import Box, describe_kinds, parse_yolo
from seg.data.images import read_file
from seg.data.labels import decode_label, encode_mask
from seg.data.layout import read_classes
from seg.data.listing import is_inside
from seg.data.pairing import label_stem, pair_labels
from seg.errors import LabelMismatch, RequestError
from seg.files import json_bytes, write_bytes

Boxes = tuple[Box, ...]
"""Boxes of an image, in file order; none: all of it is background."""
Mask = NDArray[np.uint8]
"""Class ids of an image, [H, W]; 255 is ignored."""
Contents = dict[Path, bytes | None]
"""What an image's label files hold; None: the file is not there."""

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
    """Labels of images as files under one folder; nothing is made before a save.

    An image's label is its file in ROOT/masks, else that in ROOT/boxes, of which ROOT/boxes-json has a copy.
    """

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.root, self.classes = root, classes
        self.masks, self.boxes, self.json = root / "masks", root / "boxes", root / "boxes-json"

    def find_labelled(self, images: Sequence[str]) -> set[str]:
        """Which images have a label.

        RequestError: one that is no PNG in masks/, or no YOLO file in boxes/, or that two images share.
        """
        shared = [label for label, uses in Counter(map(label_stem, images)).items() if uses > 1]
        if shared:
            names = " and ".join(image for image in images if label_stem(image) == shared[0])
            raise RequestError(
                f"label {self.boxes / shared[0]}.txt would be of {names}; rename one, or label them apart"
            )
        return self._pair(images, self.masks, ".png") | self._pair(images, self.boxes, ".txt")

    def _pair(self, images: Sequence[str], folder: Path, ending: str) -> set[str]:
        paired = pair_labels(list(images), folder) if folder.is_dir() else {}
        for image, label in paired.items():
            if not label.endswith(ending):
                kind = "PNG masks" if folder == self.masks else "YOLO files"
                raise RequestError(
                    f"labels {folder}: {image} is labelled by {label}; labelling writes {kind} there, "
                    "so move that elsewhere or give another `out`"
                )
        return set(paired)

    def read(self, image: str, size: tuple[int, int]) -> Boxes | Mask | None:
        """The label of an image of `size` (H, W), of boxes the edges to a thousandth; None: it has none.

        LabelMismatch: the file does not parse, has a class that classes.txt does not name, or is a link that
        leads out of its folder; a mask of another size.
        """
        path = self.mask_file(image)
        data = _read_within(path, self.masks)
        if data is not None:
            return decode_label(data, path, size, self.classes)
        data = _read_within(path := self.yolo_file(image), self.boxes)
        return None if data is None else self._parse_boxes(data, path, size)

    def _parse_boxes(self, data: bytes, path: Path, size: tuple[int, int]) -> Boxes:
        boxes = tuple(parse_yolo(data, path, size))
        for box in boxes:
            if not 0 < box.kind < len(self.classes):
                raise LabelMismatch(f"{box.where}: {describe_kinds(len(self.classes))}")
        return tuple(
            make_box(box.kind, *(round(edge, 3) for edge in (box.left, box.top, box.right, box.bottom)))
            for box in boxes
        )

    def as_mask(self, image: str, label: Boxes | Mask | None, size: tuple[int, int]) -> Mask:
        """A label as the mask that a training makes of it; without one, background."""
        if isinstance(label, np.ndarray):
            return label
        boxes = _to_yolo(label or (), size).encode()
        return decode_label(boxes, self.yolo_file(image), size, self.classes)

    def write(self, image: str, label: Boxes | Mask | None, size: tuple[int, int]) -> None:
        """Save an image's label in place of another; None removes it. RequestError: it cannot be done."""
        contents: Contents = dict.fromkeys(self._files(image))
        if isinstance(label, np.ndarray):
            contents[self.mask_file(image)] = encode_mask(label)
        elif label is not None:
            contents[self.yolo_file(image)] = _to_yolo(label, size).encode()
            contents[self.json_file(image)] = json_bytes(self._to_json(label))
        self.put(contents)

    def keep(self, image: str) -> Contents:
        """What an image's files hold, for `put`."""
        return {path: path.read_bytes() if path.is_file() else None for path in self._files(image)}

    def put(self, contents: Contents) -> None:
        """Write files, each whole, and remove those without content. RequestError: it cannot be done."""
        try:
            if set(contents.values()) != {None} and not (self.root / "classes.txt").exists():
                write_bytes(self.root / "classes.txt", "".join(f"{name}\n" for name in self.classes).encode())
            for path, data in contents.items():
                if data is not None:
                    write_bytes(path, data)
            for path, data in contents.items():  # last, so that no moment is without a label
                if data is None:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise RequestError(
                f"labels {self.root} cannot be written: {os.strerror(error.errno or 0)} "
                f"({error.filename}); mend that, or give another `out`; all before this change is saved"
            ) from None

    def mask_file(self, image: str) -> Path:
        """Where the mask of an image is, with its ending or without, or will be."""
        named_whole = self.masks / f"{image}.png"
        return named_whole if named_whole.exists() else self.masks / f"{label_stem(image)}.png"

    def yolo_file(self, image: str) -> Path:
        """Where the YOLO boxes of an image are, or will be."""
        return self.boxes / f"{label_stem(image)}.txt"

    def json_file(self, image: str) -> Path:
        """Where their copy as JSON is, or will be."""
        return self.json / f"{label_stem(image)}.json"

    def _files(self, image: str) -> tuple[Path, Path, Path]:
        return self.mask_file(image), self.yolo_file(image), self.json_file(image)

    def _to_json(self, boxes: Boxes) -> dict[str, list[object]]:
        rows = [
            [_plain(value) for value in (box.left, box.top, box.right - box.left, box.bottom - box.top)]
            for box in boxes
        ]
        return {"boxes": [*rows], "classes": [self.classes[box.kind] for box in boxes]}


def _read_within(path: Path, folder: Path) -> bytes | None:
    """A label's bytes; None: it is not there. LabelMismatch: it cannot be read, or is a link out."""
    if not is_inside(path, folder.resolve()):
        raise LabelMismatch(f"label {path} is a link out of {folder} and is not read; remove it")
    try:
        return read_file(path).data
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabelMismatch(f"label {path} cannot be read: {os.strerror(error.errno or 0)}") from None


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
