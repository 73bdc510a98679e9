"""Cells that drift through a channel: where each one is in frame k, and how thick it is there.

A channel has lanes. A lane sends one cell after another through the frame; which cell, and where, follows
from the frame's number alone, so any frame can be made without those before it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg.simulate.optics import PIXEL_UM, Real

LARGEST_PX = 112
"""No cell reaches further from its centre."""
MIN_THICKNESS_UM = 0.1
"""A cell's silhouette, hence mask and box, is where it is thicker than this: 0.06 rad in a red cell."""
NUM_PLANES = 3
"""Depths at which cells flow."""

Draw = Callable[..., np.random.Generator]
"""`draw(*key)`: the generator of that key, the same on every call."""


Profile = Callable[[Real], Real]
"""Thickness / radius, from the squared distance to the centre / radius, in [0, 1]."""


def biconcave(rho2: Real) -> Real:
    """A red cell, 0.8 um thick in the middle, 2.6 um at most (Evans & Fung 1972, their average cell)."""
    return np.sqrt(1 - rho2) * (0.207161 + rho2 * (2.002558 - 1.122762 * rho2))


def flat_ellipsoid(rho2: Real) -> Real:
    """An elliptic cell: an ellipsoid, in its middle 0.7 of its radius thick."""
    return 0.7 * np.sqrt(1 - rho2)


def round_body(rho2: Real) -> Real:
    """A white cell, slightly flattened between the walls."""
    return 1.2 * np.sqrt(1 - rho2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of cell: its shape and the ranges its members are drawn from."""

    profile: Profile
    radius_px: tuple[float, float]
    elongation: tuple[float, float]
    """Long over short half axis."""
    index_difference: tuple[float, float]
    """Refractive index above the medium's."""


KINDS = {
    "biconcave": Kind(
        profile=biconcave, radius_px=(48, 62), elongation=(1, 1.15), index_difference=(0.05, 0.06)
    ),
    "ellipsoid": Kind(
        profile=flat_ellipsoid, radius_px=(46, 70), elongation=(1.2, 1.7), index_difference=(0.05, 0.065)
    ),
    "round": Kind(
        profile=round_body, radius_px=(60, 105), elongation=(1, 1.1), index_difference=(0.028, 0.045)
    ),
}
SHARES = {"biconcave": 0.6, "ellipsoid": 0.2, "round": 0.2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell in one frame; rows and columns are the frame's pixels, also outside it."""

    kind: str
    row: float
    col: float
    long_px: float
    short_px: float
    angle_rad: float
    """Of the long axis, from the columns' direction towards the rows'."""
    index_difference: float
    plane: int
    """Depth in the channel: 0 to NUM_PLANES - 1, light meets 0 first."""

    def thickness_um(self, rows: Real, cols: Real) -> Real:
        """Its thickness at those pixels, 0 outside it, micrometres, [rows, cols] in their precision."""
        y, x = rows[:, None] - self.row, cols - self.col
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        rho2 = ((x * cos + y * sin) / self.long_px) ** 2 + ((y * cos - x * sin) / self.short_px) ** 2
        radius_um = math.sqrt(self.long_px * self.short_px) * PIXEL_UM
        return radius_um * KINDS[self.kind].profile(np.minimum(rho2, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """A straight channel across a square frame."""

    size_px: int
    tilt_rad: float
    """Of the channel's axis, from the columns' direction towards the rows'."""
    half_width_px: float
    flow_px: float
    """Speed on the axis, pixels a frame, negative against the columns."""

    @property
    def length_px(self) -> float:
        """From where a cell enters, out of sight, to where it leaves."""
        across = abs(math.cos(self.tilt_rad)) + abs(math.sin(self.tilt_rad))
        return self.size_px * across + 4 * LARGEST_PX

    def cells(self, frame: int, per_megapixel: float, draw: Draw) -> tuple[Cell, ...]:
        """The cells of frame `frame`, in and near the picture, in a fixed order."""
        num_lanes = math.ceil(per_megapixel * self.length_px * 2 * self.half_width_px / 1e6)
        return tuple(self._cell_in_lane(lane, frame, draw) for lane in range(num_lanes))

    def _cell_in_lane(self, lane: int, frame: int, draw: Draw) -> Cell:
        """Drift with the parabolic profile of a flow between walls, a slow sway, a slow turn."""
        rng = draw("lane", lane)
        draws = rng.uniform((0, -1, 0, -0.15, 0), (1, 1, 6, 0.15, 2 * np.pi)).tolist()
        start, offset, sway_px, turn_rad, phase = draws
        offset *= 1 - min(0.4, LARGEST_PX / self.half_width_px)  # clear of the walls
        travelled = start * self.length_px + frame * abs(self.flow_px) * (1 - offset**2)
        lap, along = divmod(travelled, self.length_px)
        along = math.copysign(1, self.flow_px) * (along - self.length_px / 2)
        across = offset * self.half_width_px + sway_px * math.sin(0.3 * frame + phase)
        return self._draw_cell(draw("cell", lane, int(lap)), (along, across), turn_rad * frame)

    def _draw_cell(self, rng: np.random.Generator, place: tuple[float, float], turned_rad: float) -> Cell:
        name = rng.choice(list(SHARES), p=list(SHARES.values()))
        kind = KINDS[name]
        radius, elongation, index = (
            rng.uniform(*span) for span in (kind.radius_px, kind.elongation, kind.index_difference)
        )
        (along, across), cos, sin = place, math.cos(self.tilt_rad), math.sin(self.tilt_rad)
        return Cell(
            kind=str(name),
            row=self.size_px / 2 + along * sin + across * cos,
            col=self.size_px / 2 + along * cos - across * sin,
            long_px=radius * math.sqrt(elongation),
            short_px=radius / math.sqrt(elongation),
            angle_rad=self.tilt_rad + rng.uniform(0, math.pi) + turned_rad,
            index_difference=index,
            plane=int(rng.integers(NUM_PLANES)),
        )

    def walls(self, origin_px: int, grid_px: int) -> NDArray[np.complex64]:
        """Transmission of both walls on a grid that starts at pixel -origin_px, complex64 [grid_px, grid_px].

        A wall scatters light along a thin line; behind it lies the chip's material, 2 rad ahead of the
        medium.
        """
        axis = np.arange(-origin_px, grid_px - origin_px, dtype=np.float32) - self.size_px / 2
        cos, sin = math.cos(self.tilt_rad), math.sin(self.tilt_rad)
        behind = np.abs(axis[:, None] * cos - axis * sin) - self.half_width_px
        behind /= 6
        loss = np.exp(-np.square(behind))
        phase = 1 + np.tanh(behind)
        return ((1 - 0.7 * loss) * np.exp(1j * phase)).astype(np.complex64, copy=False)
