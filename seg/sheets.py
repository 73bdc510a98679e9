"""A page of pixels and text, saved as a PNG: every array is shown pixel by pixel, never resampled."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DPI = 128
"""A power of two, so that pixels over it and back are whole."""
POINTS = 72 / DPI
"""Of one pixel."""
TEXT_PX, MARGIN_PX = 14, 24
MAX_SIDE_PX = 2**16 - 1
"""The longest side that matplotlib draws."""
INK, MUTED = "#171c23", "#5b6572"

Align = Literal["left", "center", "right"]


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text on a sheet."""

    text: str
    x: float
    """Where it begins, has its middle or ends, as `align` says; where it runs upwards, its middle."""
    y: float
    """Its middle, from the top; where it runs upwards, its beginning."""
    size_px: int
    colour: str
    align: Align
    upwards: bool

    def corner(self) -> tuple[float, float]:
        """Bottom and right of what it covers."""
        if self.upwards:
            return self.y, self.x + self.size_px / 2
        beyond = {"left": 1.0, "center": 0.5, "right": 0.0}[self.align]
        return self.y + self.size_px / 2, self.x + beyond * measure(self.text, self.size_px)


@dataclass(slots=True)
class Sheet:
    """A white page, as large as what is put on it and a margin; pixels count from its top left corner."""

    arrays: list[tuple[NDArray[np.uint8], int, int]] = field(default_factory=list)
    """RGB [h, w, 3], and left and top of its place."""
    labels: list[Label] = field(default_factory=list)

    def paste(self, pixels: NDArray[np.uint8], left: int, top: int) -> None:
        """Put an array, RGB [h, w, 3], where its first pixel is to be."""
        self.arrays.append((pixels, left, top))

    def write(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size_px: int = TEXT_PX,
        colour: str = INK,
        align: Align = "left",
    ) -> None:
        """Put a line of text whose middle is at height y, and that begins, has its middle or ends at x."""
        self.labels.append(Label(text, x, y, size_px, colour, align, upwards=False))

    def write_up(self, text: str, x: float, y: float, *, size_px: int = TEXT_PX, colour: str = INK) -> None:
        """Put a line of text that runs upwards from (x, y), its middle at x."""
        self.labels.append(Label(text, x, y, size_px, colour, "center", upwards=True))

    def compose(self) -> NDArray[np.uint8]:
        """The page without its text, RGB [height, width, 3]. ValueError: it is over MAX_SIDE_PX a side."""
        corners = [(top + pixels.shape[0], left + pixels.shape[1]) for pixels, left, top in self.arrays]
        corners += [label.corner() for label in self.labels]
        height, width = (int(np.ceil(max(sides))) + MARGIN_PX for sides in zip(*corners, strict=True))
        if max(height, width) > MAX_SIDE_PX:
            raise ValueError(f"a figure of {width} x {height} pixels is over {MAX_SIDE_PX} a side")
        canvas = np.full((height, width, 3), 255, np.uint8)
        for pixels, left, top in self.arrays:
            canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return canvas

    def save(self, path: Path) -> None:
        """Write the page as a PNG of its own size."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # not pyplot: no global state, no window system

        canvas = self.compose()
        height, width, _ = canvas.shape
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        figure.figimage(canvas)
        for label in self.labels:
            figure.text(
                label.x / width,
                1 - label.y / height,
                label.text,
                fontsize=label.size_px * POINTS,
                color=label.colour,
                rotation=90 if label.upwards else 0,
                ha=label.align,
                va="bottom" if label.upwards else "center_baseline",
                parse_math=False,  # a $ is a $
            )
        figure.savefig(path, format="png")


def measure(text: str, size_px: int = TEXT_PX) -> float:
    """Width of a line of text in pixels."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size_px * POINTS)
    return _renderer().get_text_width_height_descent(text, font, ismath=False)[0]


@cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


def shorten(
    text: str, width_px: float, *, size_px: int = TEXT_PX, keep: Literal["start", "end"] = "start"
) -> str:
    """The text, or as much of its start or end as fits, with an ellipsis for the rest."""
    if measure(text, size_px) <= width_px:
        return text

    def cut(length: int) -> str:
        return f"{text[:length]}…" if keep == "start" else f"…{text[len(text) - length :]}"

    fitting = bisect_right(range(len(text)), width_px, key=lambda length: measure(cut(length), size_px))
    return cut(max(0, fitting - 1))


def flow(widths: Sequence[float], line_px: float, gap_px: float) -> Iterator[tuple[int, float]]:
    """Line and left edge of things of these widths, side by side, begun anew where a line is full."""
    line, left = 0, 0.0
    for width in widths:
        if left and left + width > line_px:
            line, left = line + 1, 0.0
        yield line, left
        left += width + gap_px
