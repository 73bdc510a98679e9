"""What tests of jobs use: a small model, an archive of odd images, a count by hand, jobs as processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from seg.data.preprocess import Statistics
from seg.ledger.ledger import Ledger
from seg.model_card import ModelCard
from seg.model_file import load_model, save_model
from seg.models.build import build, takes_frames
from seg.pack.training_data import open_training_data
from seg.recipe import Crops, Optimizer, Preprocessing, Recipe, Tiling
from seg.train.state import EpochResult, read_run
from seg.train.training import TrainingPlan
from tests.conftest import draw_disc
from tests.forked import patient

ROOT = Path(__file__).parents[1]
CLASSES = ("background", "disc")
TINY_WORDS = (
    *("interferogram-small", "--preprocessing.shrink", "1", "--precision", "float32"),
    *("--crops.size-px", "64", "64", "--crops.per-image", "2", "--batch", "4"),
    *("--tiling.crop-px", "64", "64", "--tiling.halo-px", "16", "--backbone", "mobilenet_v2"),
)
"""A recipe for images of 64 pixels and more, as a user types it."""


def write_model(path: Path, **shape: Any) -> Path:
    """A model file with random weights that predicts several classes: each is the likeliest somewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_model_file(**shape))
    return path


@lru_cache(maxsize=4)
def _model_file(
    *,
    classes: tuple[str, ...] = CLASSES,
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  # frozen
    architecture: str = "unet",
    statistics: Statistics | None = None,
    label_map: tuple[tuple[int, int], ...] = (),
    frames: int = 1,
    seed: int = 0,
) -> bytes:
    # a third of the default's weights to draw, write, hash and read each time
    backbone = "mobilenet_v2" if architecture == "unet" else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(
            architecture, backbone=backbone, num_classes=len(classes), channels=preprocessing.channels
        ).eval()
        with torch.inference_mode():
            window = (frames,) if takes_frames(architecture) else ()
            logits = model(torch.randn(2, *window, preprocessing.channels, 64, 64))
        score = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
        if score.bias is not None and len(score.bias) == len(classes):
            score.bias.data -= logits.movedim(1, 0).flatten(1).median(1).values
    card = ModelCard(
        validation={},  # which older code wants
        architecture=architecture,
        backbone=backbone,
        classes=classes,
        label_map=label_map,
        preprocessing=preprocessing,
        statistics=statistics,
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        frames=frames,
    )
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model, card)
        return (Path(folder) / "model").read_bytes()


def predict_alone(path: Path, number: int, **changes: Any) -> Path:
    """Change a model file so that it predicts one class everywhere, and its card as asked for."""
    model, card = load_model(path)
    score = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    assert score.bias is not None
    score.bias.data[number] += 1e4
    save_model(path, model, replace(card, **changes))
    return path


TINY = Recipe(
    name="tiny",
    backbone="mobilenet_v2",
    crops=Crops(size_px=(64, 64), per_image=3, flip_rows=True, on_object_share=0.5),
    optimizer=Optimizer(lr=3e-3),
    batch=4,
    epochs=2,
    precision="float32",
    tiling=Tiling(crop_px=(64, 64), halo_px=16),
)
"""Such a recipe, three steps an epoch for six images."""


def open_plan(root: Path, folder: Path, **changes: Any) -> TrainingPlan:
    """What trains TINY, changed so, on an archive into a folder."""
    recipe = replace(TINY, **changes)
    data = open_training_data(root, recipe, seed=1)
    return TrainingPlan(recipe=recipe, data=data, seed=1, folder=folder, parent="test")


TIMES = {"seconds", "validation_seconds", "crops_per_second", "wait_share", "memory_bytes"}
"""Columns of a training's history that differ from run to run."""


def what_is_left(folder: Path) -> tuple[list[EpochResult], dict[str, bytes]]:
    """A run's journal but for its times, and the weights of its best epoch."""
    journal = read_run(folder)
    assert journal is not None
    history = [replace(result, **dict.fromkeys(TIMES, 0)) for result in journal.history]
    weights = load_file(folder / "best.safetensors")
    return history, {name: value.numpy().tobytes() for name, value in weights.items()}


def write_odd_archive(root: Path) -> dict[str, Path | None]:
    """Images of many sizes, depths and formats in the plain layout; each image's label, None without one.

    Two are in folders, one is a TIFF of three pages, one is a single pixel.
    """
    random = np.random.default_rng(5)
    gray, mask = draw_disc((97, 130), random)
    small, small_mask = draw_disc((64, 64), random)
    deep = gray.astype(np.uint16) * 257 + random.integers(0, 200, gray.shape).astype(np.uint16)
    colour = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR) + np.arange(3, dtype=np.uint8) * 9
    images: dict[str, tuple[NDArray[Any], NDArray[np.uint8] | None]] = {
        "s1/frame-2.png": (gray, mask),
        "s1/frame-10.png": (np.flipud(gray), None),
        "deep.png": (deep, mask),
        "deep/colour.tif": (cv2.cvtColor(deep, cv2.COLOR_GRAY2BGR), mask),
        "colour.bmp": (colour, mask),
        "photo.JPG": (small, small_mask),
        "dot.png": (gray[:1, :1], mask[:1, :1]),
        "nothing known.png": (small, np.full_like(small_mask, 255)),
    }
    for name, (pixels, _) in images.items():
        write_image(root / "images" / name, pixels)
    np.save(root / "images" / "array.npy", deep[:50])
    images["array.npy"] = (deep[:50], mask[:50])
    pages = [gray, np.flipud(gray), gray[:70]]
    assert cv2.imwritemulti(str(root / "images" / "pages.tif"), pages)
    images |= {
        f"pages.tif#{k}": (page, None if k == 1 else mask[: len(page)]) for k, page in enumerate(pages)
    }
    labels: dict[str, Path | None] = {}
    for name, (_, truth) in images.items():
        labels[name] = None if truth is None else root / "masks" / f"{name}.png"
        if truth is not None:
            write_image(root / "masks" / f"{name}.png", truth)
    (root / "classes.txt").write_text("background\ndisc\n")
    (root / "images" / "notes.md").write_text("seen at night")
    return labels


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def count_by_hand(masks: Path, labels: dict[str, Path | None], num_classes: int = 2) -> list[list[int]]:
    """Confusion of the mask PNGs on disk against the label PNGs, pixel for pixel; 255 is not counted."""
    total = [[0] * num_classes for _ in range(num_classes)]
    for image, label in labels.items():
        if label is None:
            continue
        truth = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        prediction = read_ids(masks / f"{image}.png")
        assert truth is not None
        assert truth.shape == prediction.shape
        for row in range(num_classes):
            for column in range(num_classes):
                total[row][column] += int(np.count_nonzero((truth == row) & (prediction == column)))
    return total


def read_ids(mask: Path) -> NDArray[np.uint8]:
    """What a mask stores, by Pillow: OpenCV would give the colours of a palette."""
    with Image.open(mask) as picture:
        assert picture.mode in ("L", "P")
        return np.asarray(picture)


def archive_labels(root: Path) -> dict[str, Path | None]:
    """Each image of a `write_archive` archive, and its label."""
    names = [path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.png")]
    return {name: root / "masks" / name for name in names}


def ledger_rows(folder: Path) -> list[dict[str, Any]]:
    """Every ledger row of a scores folder, by image."""
    rows = [row for part in Ledger(folder).rows() for row in part.to_pylist()]
    return sorted(rows, key=lambda row: row["image"])


def sum_ledger(folder: Path, num_classes: int = 2) -> list[list[int]]:
    """The sum of a ledger's matrices, added one by one."""
    rows = [row["confusion"] for row in ledger_rows(folder) if row["confusion"] is not None]
    return np.array(rows, np.int64).reshape(-1, num_classes, num_classes).sum(0).tolist()


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its relative path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def wait_until(
    condition: Callable[[], object], what: str, *, within_s: float = 60, every_s: float = 0.02
) -> None:
    """Return once the condition holds; fail past the deadline. every_s: between two looks, which cost.

    within_s: as of `patient`.
    """
    deadline, pause = time.monotonic() + patient(within_s), threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patient(within_s):.0f} s"
        pause.wait(every_s)


def start_job(
    verb: str, *words: object, log: IO[str] | None = None, cwd: Path | None = None, **variables: object
) -> subprocess.Popen[str]:
    """A job as a process of its own, as a user starts it; its output is kept for `communicate`.

    log: where its errors go instead, to be read while it runs.
    """
    return subprocess.Popen(
        [sys.executable, ROOT / "jobs" / f"{verb}.py", *map(str, words)],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        text=True,
    )


def own_processes(mark: str) -> list[int]:
    """Living processes that this one started, directly or not, whose command line holds `mark`."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    own: set[int] = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= grown
    return sorted(pid for pid in own if mark in _command_line(pid))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
