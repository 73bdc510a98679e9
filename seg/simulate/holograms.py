"""One simulated frame: an off-axis digital hologram of cells in a channel, and the truth about it.

A frame follows from its scene (seed, sequence, size, bits, difficulty) and its number alone, bit for bit on
one machine type; another processor's FFT rounds otherwise, which moves a grey level here and there. Light
passes the channel's walls, dust and the cells, plane by plane; the pupil and the reference wave follow, then
the camera.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from seg.simulate import optics
from seg.simulate.cells import LARGEST_PX, MIN_THICKNESS_UM, NUM_PLANES, Cell, Channel

EDGE_PX = 96
"""Least margin round the frame that is computed too, so that cells and light come in from outside."""
STREAMS = ("rig", "background", "lane", "cell", "frame")
"""What random numbers are for. Each has generators of its own: one more draw here moves nothing there."""
CARRIER = (0.1, 0.25)
"""From which carrier frequency to which seeds draw, cycles/px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difficulty:
    """What makes scenes hard; ranges are drawn from once a sequence."""

    cells_per_megapixel: float
    index_contrast: float
    """Scales the cells' refractive-index difference: a medium that matches them hides them."""
    absorption_per_um: float
    """Amplitude lost a micrometre of cell."""
    defocus_um: tuple[float, float]
    """Distance from the channel's middle to the plane in focus; negative: the light has passed that plane."""
    depth_um: float
    """From the channel's first plane of cells to its last."""
    coherence: float
    """Degree of coherence of object and reference wave: the fringes' visibility for equal waves."""
    realignment: float
    """How far the carrier moves between sequences: 0 keeps the instrument's, 1 sets it up anew.

    A network that sees fringes may fail at others: a U-Net trained on three sequences had mIoU 0.90, 0.38 and
    0.08 on the next three at 0.15, but 0.92 and 0.93 at 0.01 (issue 3)."""
    aberration_rad: float
    dust_per_megapixel: float
    fixed_speckle: float
    """Amplitude of the speckle from glass and mirrors, the same in every frame of a sequence."""
    moving_speckle: float
    """Amplitude of the speckle from what drifts in the medium, new in every frame."""
    camera: optics.Camera


DIFFICULTIES = {
    "easy": Difficulty(
        cells_per_megapixel=4.5,
        index_contrast=1.1,
        absorption_per_um=0.03,
        defocus_um=(4, 7),
        depth_um=3,
        coherence=0.9,
        realignment=0.01,
        aberration_rad=1.0,
        dust_per_megapixel=1.0,
        fixed_speckle=0.05,
        moving_speckle=0.02,
        camera=optics.Camera(full_well_e=20_000, read_noise_e=8, exposure=0.8),
    ),
    "standard": Difficulty(
        cells_per_megapixel=6.5,
        index_contrast=1.0,
        absorption_per_um=0.025,
        defocus_um=(5, 9),
        depth_um=5,
        coherence=0.6,
        realignment=0.01,
        aberration_rad=2.5,
        dust_per_megapixel=2.5,
        fixed_speckle=0.075,
        moving_speckle=0.035,
        camera=optics.Camera(full_well_e=10_000, read_noise_e=15, exposure=0.85),
    ),
    "hard": Difficulty(
        cells_per_megapixel=9.0,
        index_contrast=0.6,
        absorption_per_um=0.01,
        defocus_um=(-25, 25),
        depth_um=12,
        coherence=0.45,
        realignment=1,
        aberration_rad=5.0,
        dust_per_megapixel=8.0,
        fixed_speckle=0.2,
        moving_speckle=0.08,
        camera=optics.Camera(full_well_e=3_000, read_noise_e=25, exposure=0.9),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All that decides the frames of one sequence."""

    seed: int
    sequence: int
    size_px: int
    bits: int
    difficulty: Difficulty
    carrier: float | None = None
    """The instrument's carrier frequency, cycles/px, within CARRIER; None: as the seed draws it."""

    def draw(self, stream: str, *key: int) -> np.random.Generator:
        """The generator for one purpose (STREAMS) and index: the same on every call, unlike any other."""
        words = (self.sequence, STREAMS.index(stream), *key, *(0,) * (2 - len(key)))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=words))

    @property
    def grid_px(self) -> int:
        """Side of the grid computed: the frame, EDGE_PX on either side, rounded up to a fast transform."""
        return cast("int", fft.next_fast_len(self.size_px + 2 * EDGE_PX))

    @property
    def window(self) -> slice:
        """The frame's rows, and columns, on that grid."""
        first = (self.grid_px - self.size_px) // 2
        return slice(first, first + self.size_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rig:
    """How the microscope is set up for a sequence."""

    channel: Channel
    carrier: tuple[float, float]
    """Tilt of the reference wave, cycles/px along rows and columns; 0.1-0.25 together."""
    defocus_um: float
    drift_rad: tuple[float, float]
    """Fringe drift: a steady part a frame, and a slow swing."""

    def fringe_shift_rad(self, frame: int) -> float:
        """Phase of the reference wave in a frame, from thermal drift of the interferometer's arms."""
        steady, swing = self.drift_rad
        return steady * frame + swing * np.sin(0.4 * frame)


def make_rig(scene: Scene) -> Rig:
    """Set up the microscope for a scene."""
    rng = scene.draw("rig")
    return Rig(
        channel=Channel(
            size_px=scene.size_px,
            tilt_rad=rng.uniform(-0.05, 0.05),
            half_width_px=rng.uniform(0.40, 0.46) * scene.size_px,
            flow_px=rng.uniform(40, 120) * rng.choice((-1, 1)),
        ),
        carrier=_draw_carrier(scene, rng),
        defocus_um=rng.uniform(*scene.difficulty.defocus_um),
        drift_rad=(rng.uniform(-0.5, 0.5), rng.uniform(0, 1)),
    )


def _draw_carrier(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """Within CARRIER, 15-75 degrees off the pixel rows: the seed's instrument, realigned."""
    instrument = np.random.default_rng(np.random.SeedSequence(scene.seed, spawn_key=(len(STREAMS),)))
    low, high = CARRIER
    side, usual = instrument.choice((-1, 1)), instrument.uniform(size=2)
    if scene.carrier is not None:
        usual[0] = (scene.carrier - low) / (high - low)
    length, turn = usual + scene.difficulty.realignment * (rng.uniform(size=2) - usual)
    cycles, angle = low + (high - low) * length, np.radians(15 + 60 * turn)
    return float(side * cycles * np.sin(angle)), float(cycles * np.cos(angle))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Background:
    """What stays the same in a sequence; G is the grid, H x W the frame."""

    sample: NDArray[np.complex64]
    """The object wave in the first plane of cells [G, G]: channel walls, dust, speckle, ghosts, no cells."""
    reference: NDArray[np.complex64]
    """The reference wave at the camera [H, W]: the carrier, and the object arm's aberrations conjugated."""
    beam: NDArray[np.float32]
    """Intensity of the laser beam, in both arms [H, W]."""
    onward: NDArray[np.complex64]
    """Transfer function from one plane of cells to the next, in the pupil [K, K]."""
    to_camera: NDArray[np.complex64]
    """From the last plane to the camera [K, K]."""


@lru_cache(maxsize=1)  # the frames of a sequence come one after another; 0.2 GB at 3072 px
def make_background(scene: Scene) -> Background:
    """The static part of a scene, computed once a sequence; not to be written to."""
    rig, rng, chosen = make_rig(scene), scene.draw("background"), scene.difficulty
    dust = round(chosen.dust_per_megapixel * scene.grid_px**2 / 1e6)
    sample = rig.channel.walls(scene.window.start, scene.grid_px)
    sample *= optics.draw_dust(rng, scene.grid_px, dust)
    sample *= optics.draw_speckle(rng, scene.grid_px, chosen.fixed_speckle)
    sample *= optics.draw_ghost(rng, scene.grid_px, chosen.fixed_speckle / 2)
    aberration = optics.draw_aberration(rng, scene.size_px, chosen.aberration_rad)
    pupil = optics.Pupil(scene.grid_px)
    return Background(
        sample=sample,
        reference=optics.plane_wave(scene.size_px, rig.carrier) * np.exp(-1j * aberration),
        beam=optics.draw_beam(rng, scene.size_px),
        onward=pupil.transfer(chosen.depth_um / (NUM_PLANES - 1)).astype(np.complex64),
        to_camera=pupil.transfer(rig.defocus_um - chosen.depth_um / 2).astype(np.complex64),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One frame and the truth about it."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    """The hologram [H, W]."""
    mask: NDArray[np.uint8]
    """1 where a cell is thicker than MIN_THICKNESS_UM, else 0 [H, W]."""
    boxes: NDArray[np.float64]
    """A row for each cell that shows, tight round its silhouette in the frame [N, 5]: 0 (the class), then
    centre x, centre y, width and height as shares of the frame."""
    phase: NDArray[np.float32]
    """What the cells add to the object wave's phase, in focus, radians, not wrapped [H, W]."""


class Canvas:
    """The cells' plane of one frame while cells are put into it; arrays lie on the grid [G, G]."""

    def __init__(self, scene: Scene, sample: NDArray[np.complex64]) -> None:
        shape = (scene.grid_px, scene.grid_px)
        self.scene, self.wave = scene, sample.copy()
        self.phase, self.mask = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        self.boxes: list[tuple[float, ...]] = []

    def add_plane(self, cells: tuple[Cell, ...], plane: int) -> None:
        """The light meets the cells of one plane."""
        for cell in cells:
            if cell.plane == plane:
                self.add(cell)

    def add(self, cell: Cell) -> None:
        """A thin object: light is delayed and dimmed where it passes, not bent inside (Goodman 5.1)."""
        chosen = self.scene.difficulty
        patch = (self._span(cell.row), self._span(cell.col))
        rows, cols = (np.arange(s.start, s.stop, dtype=np.float32) - self.scene.window.start for s in patch)
        thickness = cell.thickness_um(rows, cols)
        contrast = cell.index_difference * chosen.index_contrast
        delay = thickness * np.float32(2 * np.pi / optics.WAVELENGTH_UM * contrast)
        self.wave[patch] *= np.exp(1j * delay - np.float32(chosen.absorption_per_um) * thickness)
        self.phase[patch] += delay
        silhouette = thickness > MIN_THICKNESS_UM
        self.mask[patch] |= silhouette
        self._add_box(silhouette, rows, cols)

    def _span(self, centre: float) -> slice:
        """Where a cell can reach on one axis of the grid; empty where that is off the grid."""
        middle, grid_px = int(centre) + self.scene.window.start, self.scene.grid_px
        first, last = np.clip((middle - LARGEST_PX, middle + LARGEST_PX + 2), 0, grid_px).tolist()
        return slice(first, last)

    def _add_box(self, silhouette: NDArray[np.bool_], rows: optics.Real, cols: optics.Real) -> None:
        size_px = self.scene.size_px
        seen = silhouette & ((rows >= 0) & (rows < size_px))[:, None] & ((cols >= 0) & (cols < size_px))
        if not seen.any():
            return
        top, bottom = rows[seen.any(axis=1)][[0, -1]].tolist()
        left, right = cols[seen.any(axis=0)][[0, -1]].tolist()
        pixels = (left + right + 1) / 2, (top + bottom + 1) / 2, right - left + 1, bottom - top + 1
        self.boxes.append((0, *(value / size_px for value in pixels)))


def simulate_frame(scene: Scene, frame: int) -> Frame:
    """Frame `frame` of a scene, the same whichever frames were made before."""
    rig, background, chosen = make_rig(scene), make_background(scene), scene.difficulty
    rng, pupil = scene.draw("frame", frame), optics.Pupil(scene.grid_px)
    canvas = Canvas(scene, background.sample)
    cells = rig.channel.cells(frame, chosen.cells_per_megapixel, scene.draw)
    canvas.add_plane(cells, 0)
    spectrum = pupil.gather(canvas.wave)
    for plane in range(1, NUM_PLANES):
        canvas.wave = pupil.scatter(spectrum * background.onward)
        canvas.add_plane(cells, plane)
        spectrum = pupil.gather(canvas.wave)
    spectrum *= background.to_camera * np.complex64(np.exp(-1j * rig.fringe_shift_rad(frame)))
    spectrum += np.float32(chosen.moving_speckle) * pupil.speckle(rng)
    wave = pupil.scatter(spectrum, scene.window)
    intensity = optics.interfere(wave, background.reference, chosen.coherence)
    intensity *= background.beam
    return Frame(
        image=chosen.camera.expose(intensity, scene.bits, rng),
        mask=np.ascontiguousarray(canvas.mask[scene.window, scene.window]),
        boxes=np.array(canvas.boxes, np.float64).reshape(-1, 5),
        phase=np.ascontiguousarray(canvas.phase[scene.window, scene.window]),
    )
