"""What a user may ask of labelling, as frozen data; a field's text is its --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """Draw boxes on images in a window; every change is saved at once, the same command goes on."""

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """A folder in the plain layout, or one of images."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of boxes/, boxes-json/, classes.txt: by default FOLDER, or FOLDER-labels beside bare images."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Classes that boxes can have, where there is no classes.txt yet: by default the model's, else sample."""
    model: Annotated[Path | None, arg(metavar="FILE")] = None
    """Model file (best.safetensors) that proposes boxes."""
    min_object_px: Annotated[int, arg(metavar="N")] = 64
    """Pixels of the smallest object that it proposes."""
    queue: Annotated[Path | None, arg(metavar="FILE")] = None
    """Show the images that a CSV file names, in its order: review.csv of a scoring; default: all."""
    window_px: Annotated[tuple[int, int], arg(metavar="WIDTH HEIGHT")] = (1000, 860)
    """Size of the window at first; the mouse changes it, and the image with it."""
