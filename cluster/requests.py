"""What a user may ask of each job, as frozen data; a field's text is its --help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from seg.recipe import Recipe
from seg.recipes import RECIPES

COUNT = arg(metavar="N")
FOLDER = arg(metavar="DIR")
PATTERNS = arg(metavar="PATTERN ...")


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """A recipe, the data it reads, and where its results go."""

    recipe: Annotated[Recipe, arg(name="")] = field(default_factory=lambda: RECIPES["interferogram-small"])
    data: Annotated[Path | None, FOLDER] = None
    """Folder of the data set; default: $FRINGE_DATA, else an archive simulated once under data/simulated."""
    out: Annotated[Path | None, FOLDER] = None
    """Folder of the results; default: runs/ or search/RECIPE-HASH, the hash over recipe, data and seed."""
    limit: Annotated[int | None, COUNT] = None
    """Use only the first N images of each part of the split."""
    seed: int = 0
    """Of the split, the first weights, the crops."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest(DataRequest):
    """A training."""

    workers: Annotated[int | None, COUNT] = None
    """Training processes; default: one a GPU, else $FRINGE_WORKERS, else 1; 0: this process, without Ray."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest(DataRequest):
    """A search over learning rate, loss and backbone."""

    trials: int = 16
    """Settings to try; the first is the recipe's own."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Predict every image of an archive and count it against its label; the same command resumes."""

    archive: Positional[Annotated[Path, arg(metavar="ARCHIVE")]]
    """Folder of the images, or one in the plain layout (images/, masks/, classes.txt)."""
    model: Annotated[Path, arg(metavar="FILE")]
    """Model file: best.safetensors of a run or a search."""
    out: Annotated[Path, FOLDER]
    """Folder for ledger, masks, summary and report; outside the archive."""
    labels: Annotated[Path | None, FOLDER] = None
    """Folder of the labels; images without one are predicted and not counted."""
    background: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measured background, an image, in place of the mean of each sequence's frames."""
    masks: Literal["png", "none"] = "png"
    """Write each prediction as a PNG of class ids, or nothing."""
    workers: Annotated[int | None, COUNT] = None
    """Scoring processes; default: one a GPU, else $FRINGE_WORKERS, else 1; 0: this process, without Ray."""
    limit: Annotated[int | None, COUNT] = None
    """Score only the first N images."""
    halo_px: Annotated[int | None, arg(name="halo", metavar="N")] = None
    """Context around a crop's core in working pixels; default: the model file's."""
    batch: int = 4
    """Crops in a forward pass, all of one image; another number is another run."""
    precision: Literal["float32", "bf16"] = "float32"
    """What the model computes in."""
    threads: int = 1
    """CPU threads a worker computes with; another number is another run."""
    include: Annotated[tuple[str, ...], PATTERNS] = ()
    """Shell patterns on the relative path: only images that match one."""
    exclude: Annotated[tuple[str, ...], PATTERNS] = ()
    """Shell patterns on the relative path: no image that matches one."""
