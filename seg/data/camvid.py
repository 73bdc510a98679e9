"""CamVid: as published with colours, and in the layout of SegNet's authors."""

from pathlib import Path

from seg.data.colours import ColourMask, read_class_dict
from seg.data.layout import DataSet, Sample, read_lines, require_file
from seg.data.listing import is_inside, list_images, sequence_of
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


def open_camvid_rgb(root: Path, sequence: str = "") -> DataSet:
    """Folders train, val and, where it is there, test, each beside its masks: train_labels/STEM_L.png, ...

    Class ids follow the order of class_dict.csv; Void is a class like the others (a label_map ignores it).
    sequence: the recipe's regular expression; without one, a frame's sequence is its drive.
    RequestError: a folder, class_dict.csv or a mask is missing; class_dict.csv does not parse.
    """
    names, colours = read_class_dict(root / "class_dict.csv")
    decoder = ColourMask(colours)
    train, validation = (_read_part(root, part, decoder, sequence) for part in ("train", "val"))
    test = _read_part(root, "test", decoder, sequence) if (root / "test").is_dir() else []
    split = (tuple(sample.name for sample in train), tuple(sample.name for sample in validation))
    return DataSet(root, names, (*train, *validation), split, tuple(test))


def _read_part(root: Path, part: str, decoder: ColourMask, sequence: str) -> list[Sample]:
    if not (root / part).is_dir():
        raise RequestError(f"data {root} has no {part}/; CamVid with colours has train/ and val/")
    samples = []
    for name in list_images(root / part).images:
        label = root / f"{part}_labels" / f"{Path(name).stem}_L.png"
        if not label.is_file():
            raise RequestError(f"data {root}: {part}/{name} has no mask {label}; add it, or remove the image")
        if not is_inside(label, label.parent.resolve()):
            raise RequestError(
                f"data {root}: mask {label} is a link out of its folder; put the file itself there"
            )
        samples.append(
            Sample(f"{part}/{name}", root / part / name, label, drive_of(f"{part}/{name}", sequence), decoder)
        )
    return samples
