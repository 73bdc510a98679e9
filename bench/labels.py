"""How near to the truth is what labelling saves? IoU of accepted masks, of boxes and of ellipses in them."""

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from bench.setup import bench_folder, count_cores, shorten
from seg.data.labels import decode_label
from seg.data.listing import list_images
from seg.label.files import LabelFiles, Mask
from seg.label.folder import read_image
from seg.label.proposals import Proposer
from seg.label.shapes import Shapes, fill_box, fill_ellipse, find_shapes, paint
from seg.metrics import iou
from seg.pack.training_data import open_training_data
from seg.predict.confusion import confusion_matrix
from seg.recipes import RECIPES
from seg.simulate.archive import Simulation, simulate_archive
from seg.train.training import Training, TrainingPlan

CLASSES = ("background", "cell")
SIZE_PX, FRAMES, TRAINED, LABELLED = 1024, 4, 4, 2
"""Frames' side, frames of a sequence, sequences that a model is trained on, and others that are labelled."""


def train_model(folder: Path, epochs: int) -> Path:
    """The demo's network, trained on sequences of their own."""
    file, data, recipe = folder / "run/best.safetensors", folder / "trained", RECIPES["interferogram-small"]
    if not file.is_file():
        plan = Simulation(num_sequences=TRAINED, num_frames=FRAMES, size_px=SIZE_PX)
        simulate_archive(data, plan, workers=count_cores())
        recipe = shorten(recipe, epochs=epochs)
        opened = open_training_data(data, recipe, seed=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        run = TrainingPlan(recipe=recipe, data=opened, seed=0, folder=file.parent, parent="bench")
        for _ in Training(run, torch.device("cpu")).epochs():
            pass
    return file


def fill_boxes(shapes: Shapes, blank: Mask) -> Mask:
    """Their boxes, as those that are drawn and saved in boxes/."""
    return paint(blank, (fill_box(shape.box) for shape in shapes))


def fill_ellipses(shapes: Shapes, blank: Mask) -> Mask:
    """The ellipses in their boxes."""
    return paint(blank, (fill_ellipse(shape.box) for shape in shapes))


def fill_pixels(shapes: Shapes, blank: Mask) -> Mask:
    """All of them as they are."""
    return paint(blank, shapes)


WAYS: dict[str, tuple[str, Callable[[Shapes, Mask], Mask]]] = {
    "accepted: boxes, filled": ("accepted", fill_boxes),
    "accepted: boxes, ellipses": ("accepted", fill_ellipses),
    "accepted: masks": ("accepted", fill_pixels),
    "perfect: boxes, filled": ("perfect", fill_boxes),
    "perfect: boxes, ellipses": ("perfect", fill_ellipses),
}


def main(folder: Path | None = None, epochs: int = 6) -> None:
    """Print a line a way to label, with the IoU of cells over all frames, then one JSON line.

    folder: keeps frames and model for another time. Perfect boxes are those of the true objects.
    """
    with bench_folder(folder) as place:
        model, root = train_model(place, epochs), place / "labelled"
        plan = Simulation(num_sequences=LABELLED, num_frames=FRAMES, size_px=SIZE_PX, first_sequence=TRAINED)
        simulate_archive(root, plan, workers=count_cores())
        images, read = list_images(root / "images").images, partial(read_image, root / "images")
        propose = Proposer(
            model, root / "images", images, read_image=read, backgrounds=place / "bg", min_object_px=64
        ).propose
        totals = {name: np.zeros((2, 2), np.int64) for name in WAYS}
        for image in images:
            file = LabelFiles(root, CLASSES).mask_file(image)
            truth = decode_label(file.read_bytes(), file, (SIZE_PX, SIZE_PX), CLASSES)
            shapes = {"accepted": propose(image, read(image)), "perfect": find_shapes(truth, len(CLASSES))}
            for name, (whose, fill) in WAYS.items():
                mask = fill(shapes[whose], np.zeros_like(truth))
                totals[name] += confusion_matrix(truth, torch.tensor(mask), len(CLASSES)).numpy()
    print(f"{platform.machine()}, torch {torch.__version__}, {len(images)} frames of {SIZE_PX} px")
    rows = {name: float(iou(total)[1]) for name, total in totals.items()}
    for name, value in rows.items():
        print(f"{name:26} IoU {value:.3f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    tyro.cli(main)
