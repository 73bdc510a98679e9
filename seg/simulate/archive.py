"""Simulated archives: holograms of cells in a channel in the plain layout, with masks and boxes.

The frames are made in holograms.py from the cells of cells.py and the optics of optics.py. Written here:
DIR/images, DIR/masks, DIR/boxes with one folder a sequence, DIR/classes.txt, and DIR/simulation.json, which
says what was asked.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.errors import RequestError
from seg.files import write_bytes, write_json
from seg.simulate.holograms import CARRIER, DIFFICULTIES, Scene, simulate_frame

VERSION = 1
"""Stands in simulation.json: another version makes other frames from the same seed."""
CLASSES = ("background", "cell")


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """All that decides an archive's bytes; simulation.json in its folder holds it."""

    num_sequences: int = 4
    num_frames: int = 8
    """Frames a sequence."""
    size_px: int = 3072
    bits: int = 8
    """8 or 16 bits a pixel."""
    seed: int = 0
    difficulty: str = "standard"
    """Key in DIFFICULTIES."""
    first_sequence: int = 0
    """Sequences count from here: sequence 3 is the same alone and among the first four."""
    carrier: float | None = None
    """The instrument's carrier frequency, cycles/px; None, which is not kept: as the seed draws it."""

    def __post_init__(self) -> None:
        least = {"num_sequences": 1, "num_frames": 1, "seed": 0, "first_sequence": 0}
        for name, minimum in least.items():
            if (value := getattr(self, name)) < minimum:
                raise RequestError(f"`{name}` is {value}; give {minimum} or more")
        if not 64 <= self.size_px <= 8192:
            raise RequestError(
                f"`size_px` is {self.size_px} px; give 64 to 8192 (a cell is 90 to 220 px across)"
            )
        if self.bits not in (8, 16):
            raise RequestError(f"`bits` is {self.bits}; give 8 or 16")
        if self.difficulty not in DIFFICULTIES:
            raise RequestError(f"`difficulty` is {self.difficulty}; give one of {', '.join(DIFFICULTIES)}")
        if self.carrier is not None:
            self._check_carrier(self.carrier)

    def _check_carrier(self, carrier: float) -> None:
        low, high = CARRIER
        if not low <= carrier <= high:
            raise RequestError(f"`carrier` is {carrier} cycles a pixel; give {low} to {high}")
        if DIFFICULTIES[self.difficulty].realignment == 1:
            raise RequestError(
                f"`carrier` is {carrier}, but `difficulty={self.difficulty}` sets the instrument up anew for "
                "each sequence; leave one of them out"
            )

    def scene(self, sequence: int) -> Scene:
        """The scene of one sequence."""
        chosen = DIFFICULTIES[self.difficulty]
        return Scene(
            seed=self.seed,
            sequence=sequence,
            size_px=self.size_px,
            bits=self.bits,
            difficulty=chosen,
            carrier=self.carrier,
        )


def simulate_archive(
    folder: Path,
    simulation: Simulation,
    *,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Write an archive in the plain layout; returns how many frames were made, not there already.

    Frames appear whole or not at all, so an interrupted archive goes on where it stopped. `advance` is
    called once a frame. Each of `workers` processes takes a run of consecutive frames and, at 3072 px, 1 GB;
    1 is this process. RequestError: the folder holds something else.
    """
    if workers < 1:
        raise RequestError(f"`workers` is {workers}; give 1 or more")
    try:
        _claim(folder, simulation)
    except OSError as error:
        raise RequestError(f"{folder} cannot be used: {error}; choose another folder") from error
    sequences = range(simulation.first_sequence, simulation.first_sequence + simulation.num_sequences)
    wanted = [(sequence, frame) for sequence in sequences for frame in range(simulation.num_frames)]
    missing = [job for job in wanted if not all(path.exists() for path in frame_paths(folder, *job))]
    for _ in range(len(wanted) - len(missing)):
        advance()
    if workers == 1:
        for sequence, frame in missing:
            write_frame(folder, simulation.scene(sequence), frame)
            advance()
    elif missing:
        _write_in_processes(folder, simulation, missing, min(workers, len(missing)), advance)
    return len(missing)


def _claim(folder: Path, simulation: Simulation) -> None:
    """Make the folder this simulation's, or refuse it: nothing is written then."""
    this = {"simulator": VERSION, **asdict(simulation)}
    there = _read_record(folder)
    for name, value in this.items() if there else ():
        if there.get(name) != value:
            was = (
                f"`{name}={there.get(name)}`" if name in Simulation.__slots__ else f"{name} {there.get(name)}"
            )
            raise RequestError(f"{folder} was simulated with {was}, not {value}; choose another folder")
    if not there:
        given = {name: value for name, value in this.items() if value is not None}
        write_json(folder / "simulation.json", given)
    if not (classes := folder / "classes.txt").exists():
        write_bytes(classes, "".join(f"{name}\n" for name in CLASSES).encode())


def _read_record(folder: Path) -> dict[str, object]:
    """What the folder was simulated with; empty where nothing is there yet."""
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return {}
    try:
        there = json.loads((folder / "simulation.json").read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        there = None
    if not (isinstance(there, dict) and there):
        raise RequestError(f"{folder} holds something other than a simulated archive; choose another folder")
    return there


def frame_paths(folder: Path, sequence: int, frame: int) -> tuple[Path, Path, Path]:
    """Where a frame's boxes, mask and image go, in the order they are written."""
    name = f"seq-{sequence:03}/frame-{frame:04}"
    return folder / f"boxes/{name}.txt", folder / f"masks/{name}.png", folder / f"images/{name}.png"


def write_frame(folder: Path, scene: Scene, frame: int) -> None:
    """Simulate a frame and write its three files, the image last: where it is, its labels are."""
    made, paths = simulate_frame(scene, frame), frame_paths(folder, scene.sequence, frame)
    lines = (f"{row[0]:.0f} {row[1]:.7f} {row[2]:.7f} {row[3]:.7f} {row[4]:.7f}\n" for row in made.boxes)
    for path, content in zip(paths, ("".join(lines).encode(), png(made.mask), png(made.image)), strict=True):
        write_bytes(path, content)


def png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """A PNG file, compressed a little: noise hardly shrinks, and level 9 takes longer than the physics."""
    return cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()


def _write_in_processes(
    folder: Path,
    simulation: Simulation,
    missing: list[tuple[int, int]],
    workers: int,
    advance: Callable[[], None],
) -> None:
    """A pool of one process a worker, so that frames that share a background stay with the one that has it.

    Spawned: the caller may hold threads, or a GPU, which do not survive a fork. On an error or Ctrl-C the
    frames in hand are finished, the rest is dropped.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        futures: list[Future[None]] = []
        for run in np.array_split(np.arange(len(missing)), workers):
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=context, initializer=_begin_worker))
            for sequence, frame in (missing[index] for index in run):
                futures.append(pool.submit(write_frame, folder, simulation.scene(sequence), frame))
        stack.callback(_cancel, futures)  # last in, first out: before the pools are waited for
        for future in as_completed(futures):
            future.result()
            advance()


def _cancel(futures: list[Future[None]]) -> None:
    for future in futures:
        future.cancel()


def _begin_worker() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, end when it ends however it does, and keep to one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
