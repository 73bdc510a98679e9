"""Pictures of a training and of what its model predicts, as PNGs."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from math import isnan, nan
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from seg.data.images import Pixels
from seg.data.labels import IGNORE
from seg.figures.panels import (
    IGNORED,
    Panel,
    error_legend,
    fit_size,
    has_background,
    hatch,
    show_errors,
    show_mask,
    show_overlay,
    show_pixels,
    to_rgb,
)
from seg.screen import visible

DPI = 128
"""A power of two, so that pixels over it and back are whole."""
POINTS = 72 / DPI
"""Of one pixel."""
TEXT_PX, MARGIN_PX = 14, 24
MAX_SIDE_PX = 2**16 - 1
"""The longest side that matplotlib draws."""
INK, MUTED = "#171c23", "#5b6572"

Align = Literal["left", "center", "right"]
HIGHLIGHT, WRONG, WELL = "#1b6ca8", "#d55e00", "#f4f6f8"
LINE_PX, GAP_PX = 26, 10
PANEL_PX = 440
"""The longest side of a panel."""
OVERLAY_PX = 1024
"""The same of a figure that has but one."""
SWATCH = (14, 22)
"""Height and width of a colour in a legend, in pixels."""
NAME_PX = 200
"""The longest name of a class."""
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue, in how bright a colour is (ITU-R BT.601)."""


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

    def save(self, path: Path | BinaryIO) -> None:
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
    """The text, or as much of its start or end as fits, with an ellipsis for the rest.

    What acts on a screen and has no letter is spelled out, as there.
    """
    text = visible(text)
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


@dataclass(frozen=True, slots=True)
class Example:
    """An image with its truth and prediction, a row of a figure. ValueError: their sizes differ."""

    name: str
    pixels: Pixels
    """As read: uint8 or uint16, [H, W] or RGB [H, W, 3]."""
    truth: NDArray[np.uint8]
    """Class ids [H, W]; 255 is ignored."""
    prediction: NDArray[np.uint8]
    """Class ids [H, W]."""

    def __post_init__(self) -> None:
        sizes = {self.pixels.shape[:2], self.truth.shape, self.prediction.shape}
        if len(sizes) > 1:
            raise ValueError(f"{self.name}: image, truth and prediction have the sizes {sorted(sizes)}")

    def wrong_share(self) -> float:
        """Share of the counted pixels that are wrong; NaN where none is counted."""
        counted = np.count_nonzero(self.truth != IGNORE)
        wrong = np.count_nonzero((self.truth != self.prediction) & (self.truth != IGNORE))
        return wrong / counted if counted else float("nan")


def load_plotting() -> None:
    """Import the plotting library ahead of work that Ctrl-C ends: half imported, it draws nothing more."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.font_manager
    import matplotlib.ticker  # noqa: F401


def plot_curves(
    path: Path,
    epochs: Sequence[int],
    losses: Sequence[float],
    validation_losses: Sequence[float],
    scores: Sequence[float],
    *,
    best_epoch: int,
) -> None:
    """Loss, of training and of validation, and validation's mIoU by epoch, as a PNG.

    At least one epoch; losses and scores (mIoU) are NaN where there was nothing to measure. best_epoch is
    marked; 0: there is none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    judged = not all(map(isnan, validation_losses))  # a run begun before there were any has none
    lines = [losses, *([validation_losses] if judged else [])]
    lines = [[loss or nan for loss in line] for line in lines]  # a logarithm shows no 0
    left.set(title="loss" if judged else "training loss", yscale="log")
    wide = np.nanmax([1, *chain(*lines)]) > 1000 * np.nanmin([1, *chain(*lines)])
    left.yaxis.set(major_locator=LogLocator(subs=(1,) if wide else (1, 2, 5)), minor_locator=NullLocator())
    left.yaxis.set_major_formatter("{x:g}")
    right.set(title="validation mIoU", ylim=(0, 1.1), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    for values, colour, name in zip(lines, (HIGHLIGHT, WRONG), ("training", "validation"), strict=False):
        _draw(left, epochs, values, colour, label=name)
    if judged:
        left.legend(frameon=False)
    _draw(right, epochs, scores, HIGHLIGHT)
    _mark(right, best_epoch, dict(zip(epochs, scores, strict=True)))
    figure.savefig(path, dpi=110, format="png")


def _mark(axes: Any, epoch: int, scores: dict[int, float]) -> None:
    score = scores.get(epoch, nan)
    if not isnan(score):
        axes.plot(epoch, score, "o", color=HIGHLIGHT)
        axes.annotate(f"{score:.3f}", (epoch, score), (0, 7), textcoords="offset points", ha="center")


def _draw(axes: Any, epochs: Sequence[int], values: Sequence[float], colour: str, label: str = "") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.plot(epochs, values, color=colour, label=label, marker="." if len(epochs) <= 60 else None)
    first, last = min(epochs), max(epochs)
    room = max(0.5, 0.03 * (last - first))
    axes.set(xlabel="epoch", xlim=(first - room, last + room))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_predictions(rows: Sequence[Example], classes: Sequence[str]) -> Sheet:
    """Image, truth, prediction and error of each example, one below the other, with a legend.

    An image is stretched in contrast and reduced by area, or enlarged pixel by pixel, to PANEL_PX. In the
    error panel wrong pixels have strong colours, right ones are the image, gray and dim; ignored truth is
    hatched. ValueError: no rows; when it is saved, so many that it is higher than matplotlib draws.
    """
    if not rows:
        raise ValueError("a figure of predictions has no rows")
    drawn = [draw_panels(row, classes) for row in rows]
    column = GAP_PX + max(160, *(panels[0].shape[1] for panels in drawn))
    sheet, top = Sheet(), MARGIN_PX + LINE_PX
    for place, caption in enumerate(("image", "truth", "prediction", "error")):
        sheet.write(caption, MARGIN_PX + place * column, MARGIN_PX + 8, size_px=17)
    for row, panels in zip(rows, drawn, strict=True):
        place_row(sheet, row, panels, top, column)
        top += LINE_PX + panels[0].shape[0] + GAP_PX
    place_legend(sheet, list_classes(rows, classes), (MARGIN_PX, top + 4), 3 * column - GAP_PX)
    errors = [(name, paint(colour, *SWATCH)) for name, colour in error_legend(classes)]
    place_legend(sheet, errors, (MARGIN_PX + 3 * column, top + 4), column - GAP_PX)
    return sheet


def show_below_overlay(pixels: Pixels) -> Panel:
    """An image for `draw_overlay`, reduced by area to OVERLAY_PX; a small one is enlarged to PANEL_PX."""
    height, width = pixels.shape[:2]
    return show_pixels(pixels, fit_size(height, width, min(OVERLAY_PX, max(PANEL_PX, height, width))))


def draw_overlay(name: str, image: Panel, ids: NDArray[np.uint8], classes: Sequence[str]) -> Sheet:
    """An image under the classes predicted for it, uint8 [H, W] at its own size, with a legend.

    image: of `show_below_overlay`.
    """
    (height, width), size = ids.shape, image.shape
    panel = show_overlay(image, ids, classes)
    sheet, top = Sheet(), MARGIN_PX + LINE_PX
    shown = shorten(name, max(PANEL_PX, size[1]) - 140, keep="end")
    sheet.write(shown, MARGIN_PX, MARGIN_PX + LINE_PX / 2)
    sheet.write(f"{width} x {height}", MARGIN_PX + measure(shown) + 12, MARGIN_PX + LINE_PX / 2, colour=MUTED)
    sheet.paste(panel, MARGIN_PX, top)
    corner = (MARGIN_PX, top + size[0] + GAP_PX)
    shown_classes = list_classes((), classes)[has_background(classes) :]  # background is clear
    place_legend(sheet, shown_classes, corner, max(PANEL_PX, size[1]))
    return sheet


def draw_panels(row: Example, classes: Sequence[str]) -> list[Panel]:
    """Image, truth, prediction and error of an example, all of one size."""
    size = fit_size(row.truth.shape[0], row.truth.shape[1], PANEL_PX)
    image = show_pixels(row.pixels, size)
    masks = [show_mask(mask, size, classes) for mask in (row.truth, row.prediction)]
    return [image, *masks, show_errors(image, row.truth, row.prediction, classes)]


def place_row(sheet: Sheet, row: Example, panels: list[Panel], top: int, column: int) -> None:
    """Put an example's panels and, above them, its name, its size and what is wrong on a sheet."""
    middle = top + LINE_PX / 2
    height, width = row.truth.shape
    name = shorten(row.name, 3 * column - 200, keep="end")
    sheet.write(name, MARGIN_PX, middle)
    sheet.write(f"{width} x {height}", MARGIN_PX + measure(name) + 12, middle, colour=MUTED)
    share = row.wrong_share()
    said = "nothing is counted" if isnan(share) else f"{100 * share:.2f} % wrong"
    sheet.write(said, MARGIN_PX + 3 * column, middle, colour=MUTED)
    for place, panel in enumerate(panels):
        sheet.paste(panel, MARGIN_PX + place * column, top + LINE_PX)


def list_classes(rows: Sequence[Example], classes: Sequence[str]) -> list[tuple[str, Panel]]:
    """Name and swatch of every class, and of ignored pixels where there are any."""
    shown = [(shorten(name, NAME_PX), number) for number, name in enumerate(classes)]
    if any((row.truth == IGNORE).any() for row in rows):
        shown.append(("ignored", IGNORE))
    masks = [(name, np.full(SWATCH, number, np.uint8)) for name, number in shown]
    return [(name, show_mask(mask, SWATCH, classes)) for name, mask in masks]


def place_legend(sheet: Sheet, entries: list[tuple[str, Panel]], corner: tuple[int, int], width: int) -> None:
    """Put swatches, each with its name, on as many lines of a sheet as they need."""
    indent = SWATCH[1] + 8
    places = flow([indent + measure(name) for name, _ in entries], width, 24)
    for (name, swatch), (line, offset) in zip(entries, places, strict=True):
        left, top = corner[0] + round(offset), corner[1] + line * LINE_PX
        sheet.paste(swatch, left, top + (LINE_PX - SWATCH[0]) // 2)
        sheet.write(name, left + indent, top + LINE_PX / 2)


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> Sheet:
    """Where the pixels of each true class went, in percent of that class; the sheet's arrays are its cells.

    confusion: int64 [C, C], truth rows, prediction columns. What is right is blue, the rest orange, the
    fuller the larger the share; up to 8 classes have counts too, more have no figures under half a percent.
    The row of a class that the truth lacks is hatched. ValueError: the matrix is not [C, C].
    """
    if confusion.shape != (len(classes), len(classes)):
        raise ValueError(f"the confusion matrix is {confusion.shape} for {len(classes)} classes")
    style = next(style for most, style in CELLS.items() if len(classes) <= most)
    names = [shorten(name, NAME_PX) for name in classes]
    widest = max(map(measure, names))
    upwards = widest > style.side_px - 6
    left = MARGIN_PX + round(max(widest, measure(CORNER))) + GAP_PX
    top = MARGIN_PX + LINE_PX + GAP_PX + max(44, round(widest) if upwards else 0)
    sheet = Sheet()
    sheet.write("percent of each true class's pixels", MARGIN_PX, MARGIN_PX + 8, size_px=17)
    place_names(sheet, names, (left, top), style, upwards=upwards)
    for number, counts in enumerate(confusion):
        place_shares(sheet, counts, number, (left, top + number * style.side_px), style)
    return sheet


@dataclass(frozen=True, slots=True)
class CellStyle:
    """How a cell of a confusion matrix looks."""

    side_px: int
    text_px: int
    decimals: int
    """Of its percentage."""
    counted: bool
    """Whether the number of pixels stands below."""


CELLS = {
    4: CellStyle(104, 21, 1, counted=True),
    8: CellStyle(76, 17, 1, counted=True),
    16: CellStyle(50, 14, 1, counted=False),
    255: CellStyle(34, 13, 0, counted=False),
}
"""By the most classes that have them."""
CORNER = "predicted →"


def place_names(
    sheet: Sheet, names: list[str], corner: tuple[int, int], style: CellStyle, *, upwards: bool
) -> None:
    """Put the classes' names left of and above a matrix on a sheet; its first cell is at the corner."""
    left, top = corner
    sheet.write(CORNER, left - GAP_PX, top - 31, colour=MUTED, align="right")
    sheet.write("true ↓", left - GAP_PX, top - 12, colour=MUTED, align="right")
    for number, name in enumerate(names):
        middle = (number + 0.5) * style.side_px
        sheet.write(name, left - GAP_PX, top + middle, align="right")
        if upwards:
            sheet.write_up(name, left + middle, top - 6)
        else:
            sheet.write(name, left + middle, top - 12, align="center")
    sheet.write("pixels", left + len(names) * style.side_px + GAP_PX, top - 12, colour=MUTED)


def place_shares(
    sheet: Sheet, counts: NDArray[np.int64], true: int, corner: tuple[int, int], style: CellStyle
) -> None:
    """Put a row of a matrix on a sheet: a class's pixels by prediction, and how many there are."""
    (left, top), total, side = corner, int(counts.sum()), style.side_px
    for predicted, pixels in enumerate(counts.tolist()):
        share = pixels / max(total, 1)
        cell = paint(shade(share, right=predicted == true), side - 2, side - 2)
        sheet.paste(cell if total else hatch(cell, True, IGNORED), left + predicted * side, top)
        x, y = left + (predicted + 0.5) * side - 1, top + side / 2 - 1
        if pixels and (style.counted or share >= 0.005):
            ink = INK if cell[0, 0] @ LUMA > 150 else "#ffffff"
            lift = 0.16 * side if style.counted else 0
            text = f"{100 * share:.{style.decimals}f}"
            sheet.write(text, x, y - lift, size_px=style.text_px, colour=ink, align="center")
            if style.counted:
                sheet.write(short_count(pixels), x, y + lift, size_px=13, colour=ink, align="center")
    said = short_count(total) if total else "none in truth"
    sheet.write(said, left + len(counts) * side + GAP_PX, top + side / 2, colour=MUTED)


def short_count(number: int) -> str:
    """A count below 10 000 as it is, a higher one to two digits or three: 12 k, 1.2 M, 123 M, 4.6 G."""
    if number < 10_000:
        return str(number)
    unit, suffix = next(pair for pair in ((10**9, "G"), (10**6, "M"), (10**3, "k")) if number >= pair[0])
    return f"{number / unit:.{1 if number < 10 * unit else 0}f} {suffix}"


def paint(colour: str, height: int, width: int) -> Panel:
    """A panel of one colour."""
    return np.full((height, width, 3), to_rgb(colour), np.uint8)


def shade(share: float, *, right: bool) -> str:
    """The colour of a cell; a wrong share counts by its root, so that a few percent are seen."""
    low, high = to_rgb(WELL), to_rgb(HIGHLIGHT if right else WRONG)
    depth = share if right else share**0.5
    return "#" + "".join(f"{round(a + (b - a) * depth):02x}" for a, b in zip(low, high, strict=True))
