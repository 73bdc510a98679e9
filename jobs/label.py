"""Label images with boxes: python jobs/label.py FOLDER [--model FILE] [--out DIR] [--classes NAME ...]."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from jobs.outcome import run_job


@dataclass(frozen=True, kw_only=True)
class Args:
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
    window_px: Annotated[tuple[int, int], arg(metavar="WIDTH HEIGHT")] = (1000, 860)
    """Size of the window at first; the mouse changes it, and the image with it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("label", lambda: _label(tyro.cli(Args, args=argv)))


def _label(args: Args) -> int:
    from seg.labelling.label_folder import label_folder  # here, so that --help loads no OpenCV

    label_folder(**vars(args), leave=_leave)
    return 0


def _leave() -> None:
    """End at once, as Ctrl-C does: nothing is unsaved."""
    print("label: stopped; the same command goes on from here", file=sys.stderr, flush=True)
    os._exit(4)


if __name__ == "__main__":
    sys.exit(main())
