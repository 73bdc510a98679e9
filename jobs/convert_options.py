"""What a user may ask of jobs/convert.py, as frozen data; a field's text is its --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class DatasetArgs:
    """Write a part of a data set in the plain layout, with final class ids; the same command resumes."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """How SRC is read: plain, camvid, camvid-rgb, pets-binary, pets-trimap, pets-breeds or drinks."""
    source: Positional[Annotated[Path, arg(metavar="SRC")]]
    """Folder of the data set."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write, outside SRC: images/, masks/, classes.txt."""
    split: Literal["train", "validation", "test"]
    """Which part."""
    seed: int = 0
    """Of the split, where the data set gives none; as in training."""
    share: float = 0.2
    """Share of the sequences that validate; as the recipe's validation_share."""
    sequence: str = ""
    """Regular expression on an image's path whose first group names its sequence; as the recipe's."""
    label_map: tuple[tuple[int, int], ...] | None = None
    """Pairs: id in the label, class id (255: ignore); default: the data set's own, camvid's 11 255."""


@dataclass(frozen=True, kw_only=True)
class LabelsArgs:
    """Write the labels of an old roi.pkl or segmentation_*.npy as files: boxes as JSON, masks as PNG."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """Read without running anything in it; what is more than plain values is refused by name."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write: a label folder for the images."""
    images: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the images: checks the file's names, or stands in for them by natural order."""
