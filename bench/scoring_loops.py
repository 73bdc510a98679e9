"""jobs/score.py against plain loops: the same model, engine and threads, without Ray and reading ahead."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from bench.setup import BATCH, SCORE_JOB, Bench, Finished, count_cores, in_processes, score, steady_ms
from bench.table import Row
from seg.data.images import decode_image
from seg.data.labels import decode_label, encode_mask
from seg.data.preprocess import choose_statistics, preprocess
from seg.model_card import METADATA_KEY, ModelCard
from seg.model_file import load_model, save_model
from seg.models.build import build
from seg.predict.confusion import confusion_matrix
from seg.predict.predictor import Predictor
from seg.recipes import RECIPES
from seg.score.pipeline import BUSY

APART, POOL = "three stages apart, 1 that predicts", "the pool that was before"
SMALL_RECIPE, SMALL, SMALL_PX = "camvid-fpn-mobilenet", 600, (360, 480)
REHEARSED = 3
"""Images that a scoring tries one by one before it feeds its workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What a plain loop scores, in a process of its own."""

    archive: Path
    """In the plain layout, all images in one folder."""
    images: tuple[str, ...]
    model: Path
    masks: Path
    precision: str
    threads: int


@dataclass(frozen=True, slots=True)
class Looped:
    """What a plain loop found: the sum of its matrices, and when each image was done, by the clock."""

    confusion: NDArray[np.int64]
    times_s: list[float]


def run_loop(loop: Loop) -> Looped:
    """Read, decode, preprocess, predict, count and write a mask, one image after the other.

    What scoring does besides is not asked of it: hashes, objects, brightness, notes of what is in work, and
    files that survive a power cut.
    """
    torch.set_num_threads(loop.threads)
    cv2.setNumThreads(loop.threads)
    model, card = load_model(loop.model)
    device, num_classes = torch.device("cpu"), len(card.classes)
    predictor = Predictor(model, card.tiling, batch=BATCH, device=device, precision=loop.precision)
    confusion, times_s = torch.zeros(num_classes, num_classes, dtype=torch.int64), []
    for name in loop.images:
        pixels = decode_image((loop.archive / "images" / name).read_bytes())
        size, label = (pixels.shape[0], pixels.shape[1]), loop.archive / "masks" / name
        truth = decode_label(label.read_bytes(), label, size, card.classes, card.label_map)
        working = preprocess(pixels, card.preprocessing)
        statistics = choose_statistics(working, card.preprocessing, card.statistics)
        ids = predictor.predict(working, statistics, size).ids
        confusion += confusion_matrix(truth, ids, num_classes)
        mask = loop.masks / name
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encode_mask(ids.numpy()))
        times_s.append(time.time())
    return Looped(confusion.numpy(), times_s)


class Contest:
    """One archive, scored by jobs and by loops, each in a folder of its own."""

    def __init__(self, bench: Bench, archive: Path, model: Path) -> None:
        """archive: in the plain layout, its images in one folder."""
        self.bench, self.archive, self.model = bench, archive, as_older_file(model)
        self.names = tuple(sorted(path.name for path in (self.archive / "images").iterdir()))
        self.count = len(self.names)
        self.start_ms: dict[str, list[float]] = {}
        """Of each job, what it took beyond its images at its steady rate."""
        self.expected: NDArray[np.int64] | None = None

    def run_job(self, name: str, workers: int, threads: int, *more: object, job: Path = SCORE_JOB) -> float:
        """Milliseconds an image takes a job of so many workers, once all of them are fed."""
        out = self.bench.new_folder()
        options = ("--workers", workers, "--threads", threads, "--precision", self.bench.precision, *more)
        finished = score((self.archive, "--model", self.model, *options), out, job=job)
        self._check(np.array(finished.summary["confusion"]))
        found = self._note(name, finished, max(workers, 1))
        print(
            f"{name}: {found:.0f} ms an image, {finished.seconds:.0f} s in all", file=sys.stderr, flush=True
        )
        return found

    def run_loops(self, processes: int, threads: int, per_process: int) -> float:
        """Milliseconds an image takes plain loops side by side."""
        shares = [self.names[first::processes][:per_process] for first in range(processes)]
        loops = [
            Loop(
                archive=self.archive,
                images=share,
                model=self.model,
                masks=self.bench.new_folder(),
                precision=self.bench.precision,
                threads=threads,
            )
            for share in shares
        ]
        looped = in_processes(processes, run_loop, loops)
        if sum(map(len, shares)) == self.count:
            self._check(np.sum([part.confusion for part in looped], axis=0))
        times = [at for part in looped for at in part.times_s]
        found = steady_ms(times, first=2 * processes, last=processes if processes > 1 else 0)
        print(f"{processes} x plain loop: {found:.0f} ms an image", file=sys.stderr, flush=True)
        return found

    def _note(self, name: str, finished: Finished, workers: int) -> float:
        last = BUSY * workers
        found = steady_ms(finished.times_s, first=REHEARSED + BUSY * workers, last=last)
        self.start_ms.setdefault(name, []).append(1e3 * finished.seconds - found * self.count)
        return found

    def _check(self, confusion: NDArray[np.int64]) -> None:
        """Threads sum in another order, which may change a pixel in a million; more is other work."""
        if self.expected is None:
            self.expected = confusion
        if np.abs(confusion - self.expected).sum() > 1e-5 * confusion.sum():
            raise SystemExit("two contenders count other pixels: not timed")


def measure_pipeline(bench: Bench) -> Iterator[Row]:
    """Steady rates, as time an image; starts and ends of jobs apart."""
    contest = Contest(bench, bench.link_archive(24 if bench.quick else 48), bench.model)
    cores = count_cores()
    jobs, ours = {"in this process": (0, cores)}, f"{cores} Ray workers"
    if not bench.quick:
        jobs |= {ours: (cores, 1), "1 Ray worker": (1, cores)}
    contenders = {name: partial(contest.run_job, name, *counts) for name, counts in jobs.items()}
    others: dict[str, tuple[int, int]] = {}
    if not bench.quick:
        others[APART] = (1, 1)
        contenders[APART] = partial(contest.run_job, APART, 1, 1, "--stages", "apart")
    if bench.pool is not None:
        others[POOL] = (cores, 1)
        contenders[POOL] = partial(contest.run_job, POOL, cores, 1, job=pool_job(bench.pool))
    contenders["loop"] = partial(contest.run_loops, 1, cores, contest.count // 2)
    contenders["loops"] = partial(contest.run_loops, cores, 1, contest.count // cores)
    found = bench.take_turns(contenders)
    for name, (_, threads) in jobs.items():
        what = f"an image, {name} x {threads} threads"
        yield Row(what, found[name], f"a plain loop, {cores} threads", found["loop"], "rate", 0.9)
    jobs |= others
    for name in jobs:
        what, loops = f"the same, {name}", f"{cores} plain loops, 1 thread"
        yield Row(what, found[name], loops, found["loops"], "rate", 0.9 if name == ours else None)
    for name in jobs:
        start, nothing = contest.start_ms[name], [0.0] * bench.repeat
        yield Row(f"start and end, {name}", start, "steady time alone", nothing, "apart")


def measure_small(bench: Bench) -> Iterator[Row]:
    """Images of CamVid's size with its recipe's network: by this engine, and by the one that was before."""
    assert bench.pool is not None, "else it is left out"
    archive, model = write_small_archive(bench), write_small_model(bench)
    contest, cores = Contest(bench, archive, model), count_cores()
    ours = partial(contest.run_job, "small images", cores, 1)
    found = bench.take_turns(
        {"ours": ours, "pool": partial(contest.run_job, POOL, cores, 1, job=pool_job(bench.pool))}
    )
    what = f"an image of {SMALL_PX[1]} x {SMALL_PX[0]} px, {cores} Ray workers"
    yield Row(what, found["ours"], POOL, found["pool"], "rate", 1.0)
    start = contest.start_ms
    yield Row(f"start and end, {what}", start["small images"], POOL, start[POOL], "apart")


def as_older_file(model: Path) -> Path:
    """A copy of a model file without what code after the pool says in it, for all contenders alike."""
    with safe_open(model, "pt") as file:
        card = json.loads(file.metadata()[METADATA_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    for field in ("start_sha256", "metadata_sha256"):
        card["provenance"].pop(field, None)
    older = model.with_name("older.safetensors")
    save_file(tensors, older, {METADATA_KEY: json.dumps(card)})
    return older


def pool_job(checkout: Path) -> Path:
    """The scoring job of the last commit whose scoring was a pool of workers."""
    return checkout.resolve() / "jobs" / "score.py"


def write_small_archive(bench: Bench) -> Path:
    """Cuts from the frames, in colour, with the masks that belong there."""
    root, (height, width) = bench.folder / f"cuts-{SMALL}", SMALL_PX
    sources = sorted((bench.frames / "images").rglob("*.png"))
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_bytes((bench.frames / "classes.txt").read_bytes())
    whole = {
        source: [decode_image(path.read_bytes()) for path in (source, _mask_of(bench.frames, source))]
        for source in sources
    }
    for number in range(SMALL):
        image, mask = whole[sources[number % len(sources)]]
        top, left = (
            int(random.integers(side - cut)) for side, cut in zip(image.shape, SMALL_PX, strict=True)
        )
        area = np.s_[top : top + height, left : left + width]
        name = f"{number:04}.png"
        cv2.imwrite(str(root / "images" / name), np.stack([image[area]] * 3, axis=-1))
        cv2.imwrite(str(root / "masks" / name), mask[area])
    return root


def _mask_of(frames: Path, image: Path) -> Path:
    return frames / "masks" / image.relative_to(frames / "images")


def write_small_model(bench: Bench) -> Path:
    """The network of SMALL_RECIPE for the frames' classes, with random weights."""
    recipe, path = RECIPES[SMALL_RECIPE], bench.folder / "small.safetensors"
    classes = tuple((bench.frames / "classes.txt").read_text().split())
    torch.manual_seed(0)
    network = build(recipe.model, backbone=recipe.backbone, num_classes=len(classes), channels=3)
    card = ModelCard(
        validation={},
        architecture=recipe.model,
        backbone=recipe.backbone,
        classes=classes,
        label_map=(),
        preprocessing=recipe.preprocessing,
        statistics=None,
        tiling=recipe.tiling,
    )
    save_model(path, network.eval(), card)
    return path
